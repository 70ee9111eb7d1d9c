"""Adapter: sessions of the routers' clients, one `Relay` for each router that runs here.

Place in the flow: channels -> relays -> uplink; acknowledgements and problems back. Rules: a router is accepted only
if its certificate names it and its machine runs on this node; a newer connection of a router replaces the older one;
a client that does not read what we send delays nobody else, because what waits for it is one acknowledgement and a
few problems.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Container, Mapping
from typing import Protocol

from xenflow.errors import Fault, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.model import Machine, MachineKind
from xenflow.wire import VERSION, Ack, Announce, Announced, Begin, End, Hello, Message, Problem, Role, Update, Welcome
from xenflow_server.relay import Relay
from xenflow_server.uplink import Stream, Uplink

log = logging.getLogger(__name__)
MAX_PROBLEMS = 32
MAX_ANNOUNCEMENTS = 8
"""Orders about announcements that wait for a client; then the oldest go, and the app repeats what it needs."""


class RouterStream(Stream, Protocol):
    """A channel with a verified peer."""

    @property
    def peer(self) -> Identity:
        """Who is at the other end."""

    def abort(self, reason: str) -> None:
        """End it at once, with nothing left for the kernel to send."""


class _Session:
    """One connection of one router, and what waits to be told to it."""

    def __init__(self, stream: RouterStream) -> None:
        self.stream = stream
        self._ack: Ack | None = None
        self._problems: list[Problem] = []
        self._announcements: list[Announce | Announced] = []
        self._told: set[str] = set()
        self._work = asyncio.Event()

    def tell(self, messages: list[Message]) -> None:
        """Queue for the client: the latest Ack, each problem once, and what it is to announce."""
        for message in messages:
            if isinstance(message, Ack):
                self._ack = message
            elif isinstance(message, Problem) and message.text not in self._told and len(self._told) < MAX_PROBLEMS:
                self._told.add(message.text)
                self._problems.append(message)
                log.warning("router %s: %s", message.scope, message.text)
            elif isinstance(message, Announce | Announced) and message not in self._announcements[-1:]:
                self._announcements = [*self._announcements[1 - MAX_ANNOUNCEMENTS :], message]
            self._work.set()

    async def write(self) -> None:
        """Send what waits, until cancelled or the connection is gone."""
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                messages: list[Message] = [*self._announcements, *self._problems]
                self._announcements.clear()
                self._problems.clear()
                if self._ack is not None:
                    messages.append(self._ack)
                    self._ack = None
                await self.stream.send(*messages)
        except (OSError, RemoteProtocolError) as error:
            log.info("router %s: cannot be answered: %s", self.stream.peer, error)


class Clients:
    """Accepts clients of the routers that run here."""

    def __init__(self, node: str, uplink: Uplink) -> None:
        self._node = node
        self._uplink = uplink
        self._defined: Mapping[str, Machine] = {}
        self._ready = False
        self._relays: dict[str, Relay] = {}
        self._sessions: dict[str, _Session] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def welcome(self, hello: Hello, peer: Identity) -> Welcome:
        """Return the answer to a client. Raises RemoteProtocolError with the reason to refuse it."""
        if hello.role is not Role.ROUTER or peer.role is not Role.ROUTER:
            raise RemoteProtocolError(f"only routers connect here, not {peer}", Fault.IDENTITY)
        if peer.name != hello.name:
            raise RemoteProtocolError(f"the certificate is not that of router {hello.name}", Fault.IDENTITY)
        if not self._ready:
            raise RemoteProtocolError(f"node {self._node} does not know its machines yet: is Open vSwitch running?")
        relay = self._relays.get(hello.name)
        if relay is None:
            machine = self._defined.get(hello.name)
            if machine is None or machine.kind is not MachineKind.ROUTER:
                raise RemoteProtocolError(f"node {self._node} has no definition of router {hello.name}", Fault.IDENTITY)
            raise RemoteProtocolError(f"router {hello.name} does not run on node {self._node}", Fault.IDENTITY)
        return Welcome(VERSION, Role.NODE, self._node, relay.max_routes)

    def observe(
        self,
        defined: Mapping[str, Machine],
        running: Mapping[str, Machine],
        caps: Mapping[str, int],
        moved: Container[str] = (),
    ) -> None:
        """Take what is defined and what runs now; `caps` has the route cap of each router that runs.

        Of those that do not run any more, `moved` have left for another node; the others were destroyed.
        """
        self._defined, self._ready = defined, True
        routers = {name: machine for name, machine in running.items() if machine.kind is MachineKind.ROUTER}
        for name in [name for name in self._relays if name not in routers]:
            del self._relays[name]
            self._uplink.close(name, moved=name in moved)
            self._end(name, f"router {name} does not run on node {self._node} any more", gone=True)
            log.info("router %s from=here to=%s", name, "moved" if name in moved else "gone")
        for name, machine in routers.items():
            relay = self._relays.get(name)
            if relay is None:
                self._relays[name] = Relay(machine, caps[name])
                log.info("router %s from=gone to=here", name)
            elif (relay.machine, relay.max_routes) != (machine, caps[name]):
                new_cap = relay.max_routes != caps[name]
                relay.redefine(machine, caps[name])
                self._uplink.wake(name)
                if new_cap:
                    self._end(name, "the cap on routes has changed: connect again")

    def runs_here(self, name: str) -> bool:
        """Whether the router's machine is on this node."""
        return name in self._relays

    async def serve(self, stream: RouterStream) -> None:
        """Serve one connection until it ends. Raises RemoteProtocolError for what the client did wrong."""
        name = stream.peer.name
        relay = self._relays.get(name)
        if relay is None:
            await stream.close(f"router {name} does not run on node {self._node} any more")
            return
        self._end(name, "replaced by a newer connection of this router")
        session = self._sessions[name] = _Session(stream)
        relay.connected()
        log.info("client %s from=away to=connected", name)
        writer = asyncio.create_task(session.write())
        try:
            async for message in stream:
                if self._sessions.get(name) is not session:
                    break
                if isinstance(message, Begin | Update | End):
                    self._receive(relay, session, message)
                    await asyncio.sleep(0)  # one message each: nobody waits for a router that has much to say
        finally:
            writer.cancel()
            await asyncio.wait({writer})
            if self._sessions.get(name) is session:
                del self._sessions[name]
                log.info("client %s from=connected to=away refused=%d", name, relay.door.refused.total())

    def tell(self, message: Ack | Problem) -> None:
        """Pass on what the app says about a router."""
        relay, session = self._relays.get(message.scope), self._sessions.get(message.scope)
        if relay is None:
            return
        answers: list[Message] = relay.installed(message) if isinstance(message, Ack) else [message]
        if session is not None:
            session.tell(answers)

    def announce(self, message: Announce | Announced) -> None:
        """Pass on what the app wants announced; if the client is not here now, the app repeats it."""
        session = self._sessions.get(message.name)
        if session is not None:
            session.tell([message])
        else:
            what, epoch = type(message).__name__, message.epoch
            log.info("router %s: %s of epoch %d dropped: its client is not connected", message.name, what, epoch)

    def refused(self) -> dict[str, Counter[str]]:
        """Return how many facts of each router were refused, by reason."""
        return {name: relay.door.refused for name, relay in self._relays.items() if relay.door.refused}

    async def drain(self, reason: str) -> None:
        """Close all connections."""
        for name in list(self._sessions):
            self._end(name, reason)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _receive(self, relay: Relay, session: _Session, message: Begin | Update | End) -> None:
        answers = relay.receive(message)
        if relay.begun:
            self._uplink.open(relay)
            if relay.pending:
                self._uplink.wake(relay.scope)
        if answers:
            session.tell(answers)

    def _end(self, name: str, reason: str, *, gone: bool = False) -> None:
        """Close a router's connection; nothing more is sent to a machine that is gone."""
        session = self._sessions.pop(name, None)
        if session is None:
            return
        log.info("client %s from=connected to=closed: %s", name, reason)
        if gone:
            session.stream.abort(reason)
        task = asyncio.create_task(session.stream.close(reason))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

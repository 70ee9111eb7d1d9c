"""What both hosts share: connections and time on one side, the core on the other, one asyncio loop between them.

    servers, operators --Channel--> Host --peer_*, switch_*, tick--> Core
    switches --bytes--> SwitchLink --^  ^--------- effects ---------'

Rules: the core is called from this loop only, and its effects are carried out, in order, after each call. Packet-ins
and aged flows are handed to it for SLICE_S at a time, switch by switch, so that whatever waits meanwhile is read and
seen. The host decides nothing but who cannot keep up. An error in the core is not survived: `failed` is set, and the
process ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from xenflow.address import Address, Scheme
from xenflow.channel import Channel, serve
from xenflow.errors import ConfigError, Fault, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.listener import Listener
from xenflow.tally import Tally
from xenflow.wire import Hello, Message, Role, Welcome
from xenflow_app.effects import ClosePeer, CloseSwitch, Core, Effect, ToPeer, ToSwitch
from xenflow_app.openflow.connection import SwitchSession, Up
from xenflow_app.settings import AppSettings

_log = logging.getLogger(__name__)

MAX_UNSENT_MESSAGES: Final = 10_000
"""A peer that lets more messages wait than this does not keep up and is closed."""
SLICE_S: Final = 0.002
"""How long what waits is dealt with before the loop looks at what else has come."""
_WELCOMED_S: Final = 10.0
"""After this a welcomed peer whose channel never came counts as gone."""


class Host:
    """Owns the core. Every connection that it reported as opened it reports as closed, once."""

    def __init__(self, core: Core, stop: asyncio.Event) -> None:
        """`stop` is set when the core fails; whoever runs the process waits for it."""
        self._core = core
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Listener] = []
        self._watching: list[asyncio.Task[None]] = []
        self._name = ""
        self._next_number = 1
        self._peers: dict[int, _Outbox] = {}
        self._welcomed: list[tuple[Hello, int, float]] = []
        self._links: dict[int, SwitchLink] = {}
        self._settling = False
        self._serving = False
        self._dropped = Tally("dropped")
        self._timer: asyncio.TimerHandle | None = None
        self.failed: Exception | None = None
        self._loop.set_exception_handler(self._on_error)
        self.settle()

    async def listen(self, settings: AppSettings) -> None:
        """Listen for servers and operators. Raises ConfigError."""
        credentials = settings.tls.credentials()
        credentials.server_context()
        identity = credentials.identity()
        if identity.role is not Role.CONTROLLER:
            text = (
                f"{credentials.certificate}: belongs to {identity}, which servers and switches take for no controller"
            )
            raise ConfigError([f"{text}; issue one: xenflow pki issue controller NAME"])
        self._name = identity.name
        local = Address(Scheme.UNIX, path=str(settings.socket))
        for address, own in ((settings.listen, credentials), (local, None)):
            listener = await serve(address, own, self._welcome, self._on_channel)
            self._listeners.append(listener)
            self.watch_door(str(address), listener.refusals)
            watching = self._loop.create_task(listener.wait())
            watching.add_done_callback(self._check)
            self._watching.append(watching)

    def watch_door(self, where: str, refused: Mapping[Fault, int]) -> None:
        """Let operators see whom a listener refuses."""
        self._core.watch_door(where, refused)

    async def close(self) -> None:
        """End all connections and stop."""
        for watching in self._watching:
            watching.cancel()
        for listener in self._listeners:
            await listener.close("the controller stops")
        for link in tuple(self._links.values()):
            link.end("the controller stops")
        if self._timer is not None:
            self._timer.cancel()

    def open_switch(
        self,
        node: str | None,
        write: Callable[[bytes], None],
        close: Callable[[str], None],
        *,
        greeted: bool = False,
    ) -> SwitchLink:
        """Return the link for a new connection of a switch; `write` and `close` reach the switch."""
        link = SwitchLink(self, self._number(), node, SwitchSession(self._loop.time(), greeted=greeted), write, close)
        self._links[link.number] = link
        link.flush()
        self.settle()
        return link

    def settle(self) -> None:
        """Carry out what the core wants, until it wants nothing more; then set the timer."""
        if self._settling:
            return
        self._settling = True
        try:
            while effects := self._core.effects():
                for effect in effects:
                    self._carry_out(effect)
            for link in tuple(self._links.values()):
                link.flush()
        finally:
            self._settling = False
        if not self._serving and any(link.has_message for link in self._links.values()):
            self._serving = True
            self._loop.call_soon(self._serve_more)
        self._set_timer()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case ToSwitch(switch, data):
                if switch in self._links:
                    self._links[switch].session.send(data)
            case ToPeer(peer, message):
                if peer in self._peers:
                    self._peers[peer].put(message)
            case CloseSwitch(switch, reason):
                if switch in self._links:
                    self._links[switch].end(reason)
            case ClosePeer(peer, reason):
                if peer in self._peers:
                    self._peers[peer].end(reason)

    def _number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    def _set_timer(self) -> None:
        links = (link.session.next_deadline() for link in self._links.values())
        due = min(self._core.next_deadline(), *links, math.inf)
        if self._timer is not None:
            if self._timer.when() <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._tick) if due < math.inf else None

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._core.tick(now)
        for link in tuple(self._links.values()):
            link.tick(now)
        for _hello, peer, since in tuple(self._welcomed):
            if now > since + _WELCOMED_S:
                self._forget_welcome(peer)
                del self._peers[peer]
                self._core.peer_closed(peer, now)
        self.settle()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception) and not isinstance(error, OSError | RemoteProtocolError):
            self.fail(error)
        else:
            loop.default_exception_handler(context)

    def fail(self, error: Exception) -> None:
        """End the process because of a fault of ours."""
        _log.critical("the controller failed: %s", error, exc_info=error)
        self.failed = self.failed or error
        self._stop.set()

    # servers and operators

    def _welcome(self, hello: Hello, identity: Identity) -> Welcome:
        now = self._loop.time()
        peer = self._number()
        welcome = self._core.peer_opened(peer, identity, hello, now)
        self._welcomed.append((hello, peer, now))
        self._peers[peer] = _Outbox()
        return msgspec.structs.replace(welcome, name=self._name or welcome.name)

    def _forget_welcome(self, peer: int) -> None:
        self._welcomed = [entry for entry in self._welcomed if entry[1] != peer]

    async def _on_channel(self, channel: Channel) -> None:
        peer = next((peer for hello, peer, _since in self._welcomed if hello is channel.session.peer_hello), None)
        if peer is None:
            raise RemoteProtocolError("the handshake took too long", Fault.HANDSHAKE_TIMEOUT)
        self._forget_welcome(peer)
        outbox = self._peers[peer]
        sender = self._loop.create_task(outbox.send_to(channel))
        sender.add_done_callback(self._check)
        try:
            self.settle()
            async for message in channel:
                self._core.peer_message(peer, message, self._loop.time())
                self.settle()
        except RemoteProtocolError as fault:
            await channel.close(fault.reason)
            raise
        except OSError:
            pass
        finally:
            sender.cancel()
            del self._peers[peer]
            self._core.peer_closed(peer, self._loop.time())
            self.settle()

    def _check(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.fail(error)

    # switches, called by their links

    def switch_said(self, link: SwitchLink, data: bytes) -> None:
        """Take in bytes of a switch; ends the connection if they are not to be had."""
        now = self._loop.time()
        try:
            for event in link.session.receive(data, now):
                if isinstance(event, Up):
                    self._core.switch_opened(link.number, event.features, link.node, now)
                    link.opened = True
                    _log.info("switch up dpid=%016x node=%s number=%d", event.features.dpid, link.node, link.number)
                elif link.opened:
                    self._core.switch_message(link.number, event, now)
        except RemoteProtocolError as fault:
            link.end(fault.reason, fault)
        if not self._serving:
            self._serve_waiting()
        self.settle()

    def _serve_waiting(self) -> None:
        """Hand what waits to the core for a slice of time; what is left has another one soon."""
        self._serving = False
        now = self._loop.time()
        ends = now + SLICE_S
        waiting = deque(link for link in self._links.values() if link.has_message)
        while waiting and now < ends:
            link = waiting.popleft()
            try:
                if link.number in self._links and (message := link.session.next_message()) is not None:
                    self._core.switch_message(link.number, message, now)
                    self._links[link.number] = self._links.pop(link.number)  # last in the next slice, too
                    waiting.append(link)
            except RemoteProtocolError as fault:
                link.end(fault.reason, fault)
            now = self._loop.time()
        for link in self._links.values():
            if (dropped := link.session.packet_ins.take_dropped()) > 0:
                where = f"switch of node {link.node}" if link.node else f"switch {link.number}"
                self._dropped.add(where, "more packet-ins than the controller can take", now, dropped)

    def _serve_more(self) -> None:
        self._serve_waiting()
        self.settle()

    def switch_gone(self, link: SwitchLink, reason: str) -> None:
        """Note the end of a connection."""
        del self._links[link.number]
        if link.opened:
            self._core.switch_closed(link.number, self._loop.time())
            _log.info("switch down node=%s number=%d why=%s", link.node, link.number, reason)
        self.settle()


class SwitchLink:
    """One connection of a switch, from `Host.open_switch` to `lost` or `end`, whichever comes first."""

    def __init__(
        self,
        host: Host,
        number: int,
        node: str | None,
        session: SwitchSession,
        write: Callable[[bytes], None],
        close: Callable[[str], None],
    ) -> None:
        self.number, self.node, self.session = number, node, session
        self.opened = False
        self.fault: RemoteProtocolError | None = None
        """What the switch did wrong, if that was the end."""
        self._host, self._write, self._close = host, write, close
        self._ended = False

    @property
    def has_message(self) -> bool:
        """Whether something that waits may be dealt with now."""
        return self.opened and self.session.has_message

    def received(self, data: bytes) -> None:
        """Take bytes of the switch in."""
        if not self._ended:
            self._host.switch_said(self, data)

    def lost(self, reason: str) -> None:
        """The connection has ended by itself."""
        if not self._ended:
            self._ended = True
            self._host.switch_gone(self, reason)

    def end(self, reason: str, fault: RemoteProtocolError | None = None) -> None:
        """End the connection."""
        if not self._ended:
            self.fault = fault
            self._close(reason)
            self.lost(reason)

    def tick(self, now: float) -> None:
        """Keep deadlines."""
        try:
            self.session.tick(now)
        except RemoteProtocolError as fault:
            self.end(fault.reason, fault)

    def flush(self) -> None:
        """Send what may go out now."""
        if not self._ended and (data := self.session.output(asyncio.get_running_loop().time())):
            self._write(data)


class _Outbox:
    """Messages for one peer, which a task of its own sends as fast as the peer reads."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._wanted = asyncio.Event()
        self._reason = ""

    def put(self, message: Message) -> None:
        if len(self._messages) < MAX_UNSENT_MESSAGES:
            self._messages.append(message)
        else:
            self._reason = f"does not read: {MAX_UNSENT_MESSAGES} messages wait"
        self._wanted.set()

    def end(self, reason: str) -> None:
        self._reason = reason
        self._wanted.set()

    async def send_to(self, channel: Channel) -> None:
        """Send until the channel ends; a lost channel shows where it is read."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            messages, self._messages = self._messages, []
            try:
                if messages:
                    await channel.send(*messages)
            except OSError:
                return
            if self._reason:
                if self._reason.startswith("does not read"):
                    channel.fail(RemoteProtocolError(self._reason, Fault.STALLED))
                await channel.close(self._reason)
                return

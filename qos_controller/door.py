"""The local socket: xenflow-server brings the plan, operators ask (all over `xenflow.channel`, without TLS).

    server: Begin, Update, End -> Inbox -> `Controller.want`, `Store` -> Problem if refused; Ack once in the kernel
    anybody: Query "qos", "qos explain" -> Answer

Rules: one plan, from whoever sent last; a connection that ends takes nothing with it. The facts of the disk are known
before the first connection, and what the next snapshot does not have is gone. If the disk has none, the first plan is a
whole snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import msgspec

from qos_controller import status
from qos_controller.controller import Controller
from qos_controller.link import Standing
from qos_controller.store import Store
from xenflow.bandwidth import PortQueues
from xenflow.channel import Channel
from xenflow.errors import RemoteProtocolError
from xenflow.identity import Identity
from xenflow.replica import Inbox
from xenflow.wire import (
    QUEUES_SCOPE,
    VERSION,
    Ack,
    Answer,
    Begin,
    End,
    Hello,
    Message,
    Problem,
    Query,
    Role,
    Update,
    Welcome,
)

log = logging.getLogger(__name__)


class Door:
    """Serves channels; see the module."""

    def __init__(self, controller: Controller, store: Store, clock: Callable[[], float]) -> None:
        self._controller, self._store, self._clock = controller, store, clock
        self._inbox = Inbox(QUEUES_SCOPE)
        self._server: Channel | None = None
        self._token = 0
        self._seqs: dict[int, int] = {}
        self._told: set[str] = set()
        self._outgoing: asyncio.Queue[Message] = asyncio.Queue()
        controller.on_looked, controller.on_installed = self._tell_refused, self._installed

    def start(self) -> None:
        """Take the last plan from the disk. Raises ConfigError if the file cannot be read."""
        kept = self._store.load()
        self._inbox.seed(kept.links)
        self._controller.datapath_type = kept.datapath_type
        if kept.links:
            log.info("plan from=disk links=%d", len(kept.links))
            self._controller.want(kept.links)

    def welcome(self, hello: Hello, peer: Identity) -> Welcome:
        """Return the answer to a Hello."""
        return Welcome(VERSION, Role.NODE, "qos")

    async def serve(self, channel: Channel) -> None:
        """Serve one connection until it ends."""
        try:
            async for message in channel:
                match message:
                    case Query():
                        await channel.send(self._answer(message))
                    case Begin() | Update() | End():
                        self._take_in(channel, message)
                    case _:
                        raise RemoteProtocolError(f"{type(message).__name__} is not for a qos-controller")
        finally:
            if self._server is channel:
                self._server = None
                self._inbox.suspend()

    def _take_in(self, channel: Channel, message: Begin | Update | End) -> None:
        if isinstance(message, Begin) and self._server is not channel:
            self._server = channel
            self._seqs.clear()
            self._told.clear()
            self._outgoing = asyncio.Queue()
            channel.start(self._speak(channel, self._outgoing))
        elif self._server is not channel:
            raise RemoteProtocolError("another connection brings the plan by now")
        change = self._inbox.receive(message)
        if isinstance(message, Begin) or not (self._inbox.in_sync or self._controller.has_plan):
            return  # with no plan on disk, half of a snapshot would make orphans of links that are yet to come
        self._token += 1
        self._seqs[self._token] = change.seq
        self._controller.want(self._facts(), self._token)
        if self._inbox.in_sync:
            self._store.save(self._facts(), self._controller.datapath_type)

    def _facts(self) -> list[PortQueues]:
        return [cast(PortQueues, fact) for fact in self._inbox.facts.of(PortQueues.KIND).values()]

    def _tell_refused(self) -> None:
        """Tell why links are refused, each reason once."""
        for port, link in self._controller.links.items():
            text = f"{port}: {link.why}"
            if link.standing is Standing.REFUSED and text not in self._told:
                self._told.add(text)
                self._outgoing.put_nowait(Problem(QUEUES_SCOPE, text))

    def _installed(self, token: int) -> None:
        """Acknowledge the newest sequence number that is carried out."""
        if self._inbox.in_sync:
            self._store.save(self._facts(), self._controller.datapath_type)
        seq = self._seqs.get(token)
        if seq is not None and self._server is not None:
            self._seqs = {key: value for key, value in self._seqs.items() if key > token}
            self._outgoing.put_nowait(Ack(QUEUES_SCOPE, seq))

    async def _speak(self, channel: Channel, messages: asyncio.Queue[Message]) -> None:
        try:
            while True:
                await channel.send(await messages.get())
        except OSError as error:
            log.info("server went away: %s", error)

    def _answer(self, query: Query) -> Answer:
        controller = self._controller
        if query.what == "qos":
            answer = status.qos_status(
                controller.links, controller.sharing, controller.datapath_type, ovsdb=controller.has_rows
            )
            return Answer(query.number, msgspec.json.encode(answer))
        if query.what == "qos explain":
            port = query.arguments.get("port", "")
            link = controller.links.get(port)
            if link is None or link.decision is None:
                known = ", ".join(sorted(controller.links)) or "none"
                return Answer(query.number, error=f"no link {port!r} is shaped here; links: {known}")
            answered = status.explanation(port, link, link.decision, self._clock())
            return Answer(query.number, msgspec.json.encode(answered))
        return Answer(query.number, error=f"a qos-controller does not know {query.what!r}; ask qos, or qos explain")

"""Adapter: the server's connection to the app, or to the qos-controller: sends what the scopes have, at once.

Place in the flow: scopes (node, routers) -> uplink -> app; Ack, Confirm and Problem come back. It decides nothing.

There is no timer on the way out: a change is sent at once, and what arrives while a send waits for the app is
coalesced by the outboxes. When the connection comes back every scope starts over; scopes that nobody has begun yet
are not sent, so that the app can tell "not in sync" from "empty".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from xenflow.backoff import Backoff
from xenflow.errors import ConfigError, RemoteProtocolError
from xenflow.wire import NODE_SCOPE, Close, Message

log = logging.getLogger(__name__)
CLOSED = "closed by the other side"
MAX_KEPT = 256
"""Single messages that wait for the app; then the oldest go."""


class Source(Protocol):
    """The sending side of one scope."""

    @property
    def scope(self) -> str:
        """Its name."""

    @property
    def pending(self) -> bool:
        """Whether `take` has something."""

    def take(self) -> list[Message]:
        """Return the next messages."""

    def restart(self) -> None:
        """A connection starts."""

    def stop(self) -> None:
        """The connection is gone."""


class Stream(Protocol):
    """What is needed of a channel."""

    async def send(self, *messages: Message) -> None:
        """Send, and wait while the other side is slow."""

    def __aiter__(self) -> AsyncIterator[Message]:
        """Yield what arrives until the end."""

    async def close(self, reason: str) -> None:
        """Say why, and close."""


class Uplink:
    """Keeps a connection to the app, and its scopes equal to the sources."""

    def __init__(
        self, connect: Callable[[], Awaitable[Stream]], on_message: Callable[[Message], None], peer: str = "app"
    ) -> None:
        """`peer` is whom it leads to, for people to read."""
        self._peer = peer
        self._connect = connect
        self._on_message = on_message
        self._sources: dict[str, Source] = {}
        self._dirty: dict[str, None] = {}
        self._closed: dict[str, Close] = {}
        self._said: list[Message] = []
        self._kept: list[Message] = []
        self._work = asyncio.Event()
        self._sending = asyncio.Lock()
        self._stream: Stream | None = None
        self._backoff = Backoff(0.1, 0.5)
        self._complaint = ""
        self._draining = False

    @property
    def connected(self) -> bool:
        """Whether the app hears us."""
        return self._stream is not None

    def open(self, source: Source) -> None:
        """Send this scope from now on; one that is open already stays as it is."""
        if self._sources.get(source.scope) is source:
            return
        self._sources[source.scope] = source
        if self._stream is not None:
            source.restart()
        self.wake(source.scope)

    def close(self, scope: str, *, moved: bool = False) -> None:
        """Tell the app that the scope is gone for good, or has moved to another node."""
        source = self._sources.pop(scope, None)
        if source is not None:
            source.stop()
        self._closed[scope] = Close(scope, moved)
        self._work.set()

    def wake(self, scope: str) -> None:
        """A scope may have something to send."""
        self._dirty[scope] = None
        self._work.set()

    def say(self, message: Message) -> None:
        """Send a single message if the app is there; nobody waits for it otherwise."""
        if self._stream is not None:
            self._said.append(message)
            self._work.set()

    def keep(self, message: Message) -> None:
        """Send a single message, once the app is there."""
        self._kept = [*self._kept[1 - MAX_KEPT :], message]
        self._work.set()

    async def run(self) -> None:
        """Connect, again and again, until drained."""
        while not self._draining:
            try:
                stream = await self._connect()
            except (OSError, RemoteProtocolError, ConfigError) as error:
                self._complain(str(error) or type(error).__name__)
                await asyncio.sleep(self._backoff.next())
                continue
            log.info("%s from=away to=connected", self._peer)
            self._complaint = ""
            try:
                await self._serve(stream)
            finally:
                self._away()
            await asyncio.sleep(self._backoff.next())

    async def drain(self, reason: str) -> None:
        """Send what waits, then close the connection; `run` returns."""
        stream = self._stream
        if stream is not None:
            self._draining, self._complaint = True, CLOSED
            try:
                await self._flush(stream)
                await stream.close(reason)
            except (OSError, RemoteProtocolError) as error:
                log.info("%s went away during shutdown: %s", self._peer, error)

    async def _serve(self, stream: Stream) -> None:
        self._stream = stream
        for source in self._sources.values():
            source.restart()
            self.wake(source.scope)
        writer = asyncio.create_task(self._write(stream))
        try:
            async for message in stream:
                self._backoff.reset()
                self._on_message(message)
            reason = CLOSED
        except (OSError, RemoteProtocolError) as error:
            reason = str(error) or type(error).__name__
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        self._complain(reason)

    def _away(self) -> None:
        self._stream = None
        self._said.clear()
        for source in self._sources.values():
            source.stop()

    async def _write(self, stream: Stream) -> None:
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                await self._flush(stream)
        except (OSError, RemoteProtocolError) as error:
            self._complain(str(error) or type(error).__name__)
            await stream.close("cannot send")

    async def _flush(self, stream: Stream) -> None:
        """Send until nothing is left; the node's own scope comes first, the others take turns."""
        async with self._sending:
            while self._dirty or self._closed or self._said or self._kept:
                await self._speak(stream)
                if NODE_SCOPE in self._dirty:
                    await self._take(stream, NODE_SCOPE)
                    continue
                closed, self._closed = self._closed, {}
                if closed:
                    await stream.send(*closed.values())
                for scope in list(self._dirty):
                    await self._take(stream, scope)

    async def _speak(self, stream: Stream) -> None:
        """Send single messages; that a router has moved comes before the node's scope says that it is not here."""
        moved = [close for close in self._closed.values() if close.moved]
        if self._said or self._kept or moved:
            kept, said, self._kept, self._said = self._kept, self._said, [], []
            for close in moved:
                del self._closed[close.scope]
            try:
                await stream.send(*kept, *said, *moved)
            except (OSError, RemoteProtocolError, asyncio.CancelledError):
                self._kept = [*kept, *self._kept]
                self._closed = {**{close.scope: close for close in moved}, **self._closed}
                raise

    async def _take(self, stream: Stream, scope: str) -> None:
        self._dirty.pop(scope, None)
        source = self._sources.get(scope)
        if source is None:
            return
        messages = source.take()
        if source.pending:
            self._dirty[scope] = None
        if messages:
            await stream.send(*messages)

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            log.warning("%s to=away: %s; trying again until it answers", self._peer, reason)
            self._complaint = reason

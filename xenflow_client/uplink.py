"""The connection to whichever server is at hand: made again and again, fed from the Outbox.

    WAITING --tables known--> CONNECTING --Welcome--> REPORTING --connection lost, refused--> CONNECTING (after a pause)

Rules: a new connection begins with a whole snapshot, and an epoch of its own; credentials are read again for each; a
pause is never longer than 0.5 s, and a server out of reach is noticed as soon (see `path`), so that a router that moved
reports to the new server at once. One log line for each transition, and one for each new reason of a failure, however
often it is tried.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from xenflow.backoff import Backoff
from xenflow.channel import Channel, Limits, connect
from xenflow.errors import ConfigError, Fault, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.wire import VERSION, Ack, Announce, Announced, Hello, Message, Problem, Role, Welcome
from xenflow_client.path import Path, unacknowledged
from xenflow_client.patience import Patience
from xenflow_client.report import Report, lower_cap
from xenflow_client.settings import ClientSettings

logger = logging.getLogger(__name__)

_LIMITS = Limits(keepalive_s=0.25, idle_s=5.0)
"""A router may move at any time. The host that it has come to does not know the connection, and its kernel says so at
the next Ping; a server that says nothing may be busy, and is given up later, but sooner than elsewhere."""
_WATCH_S = 0.1
_OUT_OF_REACH = "the server's host is out of reach"
_STEADY_S = 5.0
"""A connection that has lasted so long is a success; before, it may be one of a row of failures."""


def new_epoch(last: int = 0) -> int:
    """Return a number above `last` that grows from start to start, over reboots too: milliseconds since 1970."""
    return max(time.time_ns() // 1_000_000, last + 1)


class Announcements(Protocol):
    """Who carries out what the server says about announcements."""

    def start(self, order: Announce, local: tuple[str, int]) -> None:
        """Announce; `local` is our end of the session: address, and interface index if it is link-local."""

    def confirmed(self, epoch: int) -> None:
        """It has been heard."""

    def stop(self) -> None:
        """The session is over."""


def expect_node(identity: Identity) -> str | None:
    """Return why `identity` cannot be a server, None if it can: which node is at hand is not for the router to say."""
    return None if identity.role is Role.NODE else f"{identity.uri} is not a node"


class Uplink:
    """Reports to the server for as long as `run` is awaited; `installed` is the last `seq` that switches follow."""

    def __init__(self, settings: ClientSettings, report: Report, announcements: Announcements) -> None:
        self.settings = settings
        self.installed = 0
        self._report = report
        self._announcements = announcements
        self._credentials = settings.tls.credentials()
        self._epoch = 0
        self._wake = asyncio.Event()
        self._channel: Channel | None = None
        self._failure = ""
        self._patience = Patience()
        self._brief = False  # whether the last connection ended soon: then its end is no news
        report.changed = self.changed

    def changed(self) -> None:
        """There may be something to send."""
        if self._report.outbox.pending:
            self._wake.set()

    async def run(self) -> None:
        """Connect, report, and again; ends only by being cancelled, and says Bye then."""
        backoff = Backoff()
        while True:
            try:
                await self._once(backoff)
            except (OSError, RemoteProtocolError, ConfigError, EOFError) as error:
                self._failed(error)
            await asyncio.sleep(backoff.next())

    def apply(self, settings: ClientSettings) -> None:
        """Use other settings from the next connection on. Raises ConfigError for what needs a restart."""
        if settings.router != self.settings.router:
            raise ConfigError(["router: the name of a router that runs cannot change; restart the client"])
        self.settings = settings
        self._credentials = settings.tls.credentials()

    async def close(self, reason: str) -> None:
        """End the connection that there is; `run` makes a new one."""
        if self._channel is not None:
            self._failure = reason  # expected: no line in the log
            await self._channel.close(reason)

    async def _once(self, backoff: Backoff) -> None:
        settings = self.settings
        self._epoch = new_epoch(self._epoch)
        channel = await self._connect(settings)
        self._channel = channel
        if not self._brief:
            self._log_reporting(channel)
        steady = asyncio.get_running_loop().call_later(_STEADY_S, self._steady, channel, backoff)
        welcome = channel.session.peer_welcome
        self._report.set_cap(lower_cap(settings.max_routes, welcome.max_routes if isinstance(welcome, Welcome) else 0))
        outbox = self._report.outbox
        outbox.restart()
        self._wake.set()
        self._brief = True
        try:
            await _first_of(
                lambda: self._send(channel), lambda: self._receive(channel, backoff), lambda: _watch(channel)
            )
        finally:
            steady.cancel()
            self._announcements.stop()
            outbox.stop()
            self._channel = None
            await channel.close("the client ends the session")
        raise ConnectionError(channel.reason or "the connection ended")

    async def _connect(self, settings: ClientSettings) -> Channel:
        """Return a connection to the server. Raises what `connect` does."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            channel = await connect(
                settings.server,
                self._credentials,
                Hello(VERSION, Role.ROUTER, settings.router, self._epoch),
                expect_node,
                timeout_s=self._patience.limit_s,
                limits=_LIMITS,
            )
        except (TimeoutError, ConnectionAbortedError):
            self._patience.gave_up()
            raise
        self._patience.succeeded(loop.time() - began)
        return channel

    def _log_reporting(self, channel: Channel) -> None:
        logger.info("reporting server=%s node=%s", self.settings.server, channel.peer.name)
        self._failure = ""

    def _steady(self, channel: Channel, backoff: Backoff) -> None:
        """The connection lasts: the next failure is a new one."""
        backoff.reset()
        self._patience.steady()
        self._brief = False
        if self._failure:
            self._log_reporting(channel)

    async def _send(self, channel: Channel) -> None:
        outbox = self._report.outbox
        while True:
            await self._wake.wait()
            self._wake.clear()
            while messages := outbox.take():
                await channel.send(*messages)
                await asyncio.sleep(0)

    async def _receive(self, channel: Channel, backoff: Backoff) -> None:
        try:
            async for message in channel:
                if isinstance(message, Announce):
                    self._announcements.start(message, _local(channel))
                else:
                    self._take_in(message, backoff)
        except RemoteProtocolError as error:
            if error.fault is Fault.IDLE_TIMEOUT:
                channel.abort(error.reason)
            raise

    def _take_in(self, message: Message, backoff: Backoff) -> None:
        if isinstance(message, Ack):
            backoff.reset()
            if not self.installed:
                logger.info("installed seq=%d shed=%d", message.seq, message.shed)
            self.installed = message.seq
        elif isinstance(message, Problem):
            logger.warning("the server reports a problem: %s", message.text)
        elif isinstance(message, Announced):
            self._announcements.confirmed(message.epoch)

    def _failed(self, error: Exception) -> None:
        """Log why there is no connection, once for each reason."""
        reason = str(error) or type(error).__name__
        self.installed = 0
        if reason != self._failure:
            logger.warning("not connected server=%s reason=%s; trying again", self.settings.server, reason)
            self._failure = reason


async def _watch(channel: Channel) -> None:
    """End the channel when the server's host cannot be reached any more."""
    connection, path = channel.socket, Path()
    loop = asyncio.get_running_loop()
    while connection is not None and channel.is_open:
        await asyncio.sleep(_WATCH_S)
        try:
            unacked, acked_ago_s = unacknowledged(connection)
        except OSError:  # closed meanwhile
            break
        if path.lost(loop.time(), unacked, acked_ago_s):
            channel.abort(_OUT_OF_REACH)
    await asyncio.Event().wait()  # whoever receives sees the end, after what came before it


def _local(channel: Channel) -> tuple[str, int]:
    """Return our address of a connection, and the interface's index if it is link-local."""
    name = channel.socket.getsockname() if channel.socket is not None else ("::", 0, 0, 0)
    return str(name[0]), int(name[3]) if len(name) > 3 else 0


async def _first_of(*actions: Callable[[], Awaitable[None]]) -> None:
    """Run all until one ends, then end the others; raises what that one raised."""
    tasks = [asyncio.ensure_future(action()) for action in actions]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

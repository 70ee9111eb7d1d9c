"""The connection to whichever server is at hand: made again and again, fed from the Outbox.

    WAITING --tables known--> CONNECTING --Welcome--> REPORTING --connection lost, refused--> CONNECTING (after a pause)

Rules: a new connection begins with a whole snapshot; credentials are read again for each; a pause is never longer
than 0.5 s, so that a router that moved reports to the new server at once. One log line for each transition, and one
for each new reason of a failure, however often it is tried.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from xenflow.backoff import Backoff
from xenflow.channel import Channel, Limits, connect
from xenflow.errors import ConfigError, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.wire import VERSION, Ack, Hello, Message, Problem, Role, Welcome
from xenflow_client.report import Report, lower_cap
from xenflow_client.settings import ClientSettings

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 1.5
_LIMITS = Limits(keepalive_s=1.0, idle_s=5.0)
"""A router may move at any time: a server that says nothing is given up sooner than elsewhere."""
_STEADY_S = 5.0
"""A connection that has lasted so long is a success; before, it may be one of a row of failures."""


def new_epoch() -> int:
    """Return a number that grows from start to start, over reboots too: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def expect_node(identity: Identity) -> str | None:
    """Return why `identity` cannot be a server, None if it can: which node is at hand is not for the router to say."""
    return None if identity.role is Role.NODE else f"{identity.uri} is not a node"


class Uplink:
    """Reports to the server for as long as `run` is awaited; `installed` is the last `seq` that switches follow."""

    def __init__(self, settings: ClientSettings, report: Report) -> None:
        self.settings = settings
        self.installed = 0
        self._report = report
        self._credentials = settings.tls.credentials()
        self._hello = Hello(VERSION, Role.ROUTER, settings.router, new_epoch())
        self._wake = asyncio.Event()
        self._channel: Channel | None = None
        self._failure = ""
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
        channel = await connect(
            settings.server,
            self._credentials,
            self._hello,
            expect_node,
            timeout_s=_CONNECT_TIMEOUT_S,
            limits=_LIMITS,
        )
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
            await _first_of(lambda: self._send(channel), lambda: self._receive(channel))
        finally:
            steady.cancel()
            outbox.stop()
            self._channel = None
            await channel.close("the client ends the session")
        raise ConnectionError(channel.reason or "the connection ended")

    def _log_reporting(self, channel: Channel) -> None:
        logger.info("reporting server=%s node=%s", self.settings.server, channel.peer.name)
        self._failure = ""

    def _steady(self, channel: Channel, backoff: Backoff) -> None:
        """The connection lasts: the next failure is a new one."""
        backoff.reset()
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

    async def _receive(self, channel: Channel) -> None:
        async for message in channel:
            self._take_in(message)

    def _take_in(self, message: Message) -> None:
        if isinstance(message, Ack):
            if not self.installed:
                logger.info("installed seq=%d shed=%d", message.seq, message.shed)
            self.installed = message.seq
        elif isinstance(message, Problem):
            logger.warning("the server reports a problem: %s", message.text)

    def _failed(self, error: Exception) -> None:
        """Log why there is no connection, once for each reason."""
        reason = str(error) or type(error).__name__
        self.installed = 0
        if reason != self._failure:
            logger.warning("not connected server=%s reason=%s; trying again", self.settings.server, reason)
            self._failure = reason


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

"""The core under POX (branch halosaur): POX owns the connections to switches, a thread of ours owns everything else.

    POX's thread                                   | our thread (asyncio)
    openflow.of_01 on 127.0.0.1 --whole messages---|--> SwitchLink --> Host --> Core
                 ^------------- core.callLater ----|------- bytes -----'
    switches == TLS ==> Terminator (our thread) --> openflow.of_01
                                 `-- after POX's handshake, both ways --> SwitchLink    (see diversion)

POX cannot decode what the pipeline needs (Nicira's packet-ins, flow dumps). So, once POX's handshake is done, a
connection's own `unpackers` and `handlers` (attributes of the one connection, nothing global) are replaced: messages
are cut from the buffer as they are and handed on. POX's port list is kept up to date for other components. Behind the
terminator its `send` is replaced as well: what other components send goes the same way as ours, in whole messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from pox.core import core as pox_core

from xenflow.address import Address, Scheme
from xenflow.errors import ConfigError, UnavailableError
from xenflow.notify import Notifier
from xenflow.settings import load
from xenflow_app.diversion import MARK
from xenflow_app.effects import Core
from xenflow_app.host import Host, SwitchLink
from xenflow_app.openflow.encode import Type
from xenflow_app.settings import AppSettings
from xenflow_app.terminator import Terminator

_log = logging.getLogger(__name__)

BRANCH: Final = (0, 8)
LOOPBACK: Final = "127.0.0.1"
STOP_S: Final = 10.0


def launch(config: str, make_core: Callable[[AppSettings], Core] | None = None) -> None:
    """Start everything with the settings in the file `config`; called by POX while it starts.

    POX ends with exit code 2 if they cannot be used, 1 if an address to listen at is not there yet. `make_core` makes
    another core than the controller's.
    """
    try:
        _check_branch()
        settings = load(Path(str(config)), AppSettings)
        PoxHost(make_core or _make_controller, settings).start()
    except ConfigError as error:
        for problem in error.problems:
            print(f"xenflow.app: {problem}", file=sys.stderr)
        pox_core.quit(1 if isinstance(error, UnavailableError) else 2)


def _make_controller(settings: AppSettings) -> Core:
    from xenflow_app.controller import Controller

    return Controller(settings, "pox")


def _check_branch() -> None:
    version = tuple(getattr(pox_core, "version", ()))
    if version[:2] != BRANCH:
        found = ".".join(map(str, version)) or "of an unknown version"
        raise ConfigError([f"this POX is {found}; XenFlow needs branch halosaur (0.8): git checkout halosaur"])


def _check_components() -> None:
    if not pox_core.hasComponent("openflow"):
        raise ConfigError(["POX was started with --no-openflow; leave it out"])
    if pox_core.hasComponent("of_01"):
        raise ConfigError(["openflow.of_01 runs already; leave it out, xenflow.app starts it on loopback (pox.port)"])


class PoxHost:
    """Both threads and what passes between them.

    Keeps true: messages of one switch reach the core in the order in which POX read them; our bytes reach POX in the
    order in which the core gave them; the core is called in our thread only.
    """

    def __init__(self, make_core: Callable[[AppSettings], Core], settings: AppSettings) -> None:
        self._make_core, self._settings = make_core, settings
        self._verified = settings.openflow.scheme is Scheme.SSL
        port = settings.pox.port if self._verified else settings.openflow.port
        self._pox_address = Address(Scheme.TCP, LOOPBACK, port)
        self._notifier = Notifier.from_environment()
        self._terminator: Terminator | None = None
        self._ready = threading.Event()
        self._problem: ConfigError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._host: Host | None = None
        self._thread = threading.Thread(target=self._run, name="xenflow", daemon=True)

    def start(self) -> None:
        """Listen at all places and let POX listen behind them. Raises ConfigError."""
        if not self._verified and self._settings.openflow.host != LOOPBACK:
            raise ConfigError([f"openflow: POX takes plain TCP at {LOOPBACK} only (not {self._settings.openflow})"])
        _check_components()
        _check_free(self._pox_address)
        self._thread.start()
        self._ready.wait()
        if self._problem is not None:
            raise self._problem
        from pox.openflow import of_01

        nexus = pox_core.openflow
        nexus.clear_flows_on_connect = False  # flows outlive the controller
        nexus.miss_send_len = None  # our session sets it
        nexus.addListenerByName("ConnectionUp", self._connection_up)
        nexus.addListenerByName("ConnectionDown", self._connection_down)
        pox_core.addListenerByName("GoingDownEvent", self._going_down)
        of_01.launch(port=self._pox_address.port, address=LOOPBACK)
        _log.info(
            "ready listen=%s openflow=%s pox=%s", self._settings.listen, self._settings.openflow, self._pox_address
        )
        self._call(self._notifier.ready, f"in POX, listens at {self._settings.listen} and {self._settings.openflow}")

    # our thread

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            self._host = host = Host(self._make_core(self._settings), self._stop)
            await host.listen(self._settings)
            if self._verified:
                await self._open_terminator()
        except ConfigError as error:
            self._problem = error
            self._stop.set()
        finally:
            self._ready.set()
        await self._stop.wait()
        self._notifier.stopping()
        if self._terminator is not None:
            await self._terminator.close()
        if self._host is not None:
            await self._host.close()
            if self._host.failed:
                pox_core.callLater(pox_core.quit, 1)

    async def _open_terminator(self) -> None:
        settings = self._settings
        credentials = settings.tls.credentials()
        terminator = Terminator(settings.openflow, credentials, self._pox_address, settings.limits.max_switches)
        await terminator.open()
        assert self._host is not None  # see _serve
        self._host.watch_door(str(settings.openflow), terminator.refusals.counts)
        self._terminator = terminator

    def _opened(self, connection: _Connection) -> None:
        assert self._host is not None  # POX listens only after we do
        port = connection.port

        def write(data: bytes) -> None:
            if self._terminator is not None:
                self._terminator.send(port, data)
            else:
                pox_core.callLater(connection.pox.send, data)

        def close(reason: str) -> None:
            if self._terminator is not None and connection.link is not None and connection.link.fault is not None:
                self._terminator.refuse(port, connection.link.fault)
            pox_core.callLater(_disconnect, connection.pox, reason)

        connection.link = self._host.open_switch(connection.node, write, close, greeted=True)
        if self._terminator is not None:
            self._terminator.divert(port, connection.link.received)

    def _receive(self, connection: _Connection) -> None:
        """Take in, together, the messages that have come by way of POX; behind the mark there is nothing new."""
        messages = [connection.waiting.popleft() for _ in range(len(connection.waiting))]
        if self._terminator is not None and MARK in messages:
            self._take(connection, messages[: messages.index(MARK)])
            connection.is_diverted = True
            self._terminator.marked(connection.port)
        elif not connection.is_diverted:
            self._take(connection, messages)

    def _take(self, connection: _Connection, messages: list[bytes]) -> None:
        if connection.link is not None and messages:
            connection.link.received(b"".join(messages))

    # POX's thread

    def _connection_up(self, event: Any) -> None:
        """POX has shaken hands: take the connection over, or end it if nobody has verified who it is."""
        connection = event.connection
        port = connection.sock.getpeername()[1]
        node = self._terminator.node(port) if self._terminator is not None else None
        if connection.sock.getsockname() != (LOOPBACK, self._pox_address.port) or (self._verified and node is None):
            _log.warning(
                "refused a switch that went around %s from=%s", self._settings.openflow, connection.sock.getpeername()
            )
            connection.disconnect("not verified")
            return
        # Nagle's algorithm would hold a packet-out behind the flow-mods before it, until they are acknowledged (40 ms).
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ours = _Connection(connection, port, node)
        connection.unpackers = _WHOLE_MESSAGES
        connection.handlers = _Everything(connection.handlers, partial(self._handed_over, ours))
        connection.xenflow = ours
        if self._terminator is not None:
            connection.send = partial(self._send, port)
        self._call(self._opened, ours)

    def _handed_over(self, connection: _Connection, message: bytes) -> None:
        connection.waiting.append(message)
        self._call(self._receive, connection)

    def _send(self, port: int, message: Any) -> None:
        """Send what a component of POX sends: bytes, or a message of POX's."""
        assert self._terminator is not None  # see _connection_up
        self._call(self._terminator.send, port, message if isinstance(message, bytes) else message.pack())

    def _connection_down(self, event: Any) -> None:
        ours = getattr(event.connection, "xenflow", None)
        if isinstance(ours, _Connection):
            self._call(_lost, ours)

    def _going_down(self, _event: Any) -> None:
        assert self._stop is not None  # set before `start` returned
        self._call(self._stop.set)
        self._thread.join(STOP_S)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call in our thread, after all that was passed before."""
        assert self._loop is not None  # set before `start` returned
        with contextlib.suppress(RuntimeError):  # our thread has ended: POX is going down
            self._loop.call_soon_threadsafe(function, *arguments)


@dataclass(slots=True)
class _Connection:
    """A connection of POX's and what we know of it; `link` and `is_diverted` belong to our thread.

    `waiting` are messages that POX's thread has appended and ours has not taken yet.
    """

    pox: Any
    port: int
    node: str | None
    link: SwitchLink | None = None
    is_diverted: bool = False
    waiting: deque[bytes] = field(default_factory=deque)


def _lost(connection: _Connection) -> None:
    if connection.link is not None:
        connection.link.lost("connection closed")


def _disconnect(connection: Any, reason: str) -> None:
    if not connection.disconnected:
        connection.disconnect(reason)


class _WholeMessages:
    """Stands in for POX's table of unpackers: a message stays the bytes that it is."""

    def __getitem__(self, _kind: int) -> Callable[[bytes, int], tuple[int, bytes]]:
        return _cut


def _cut(buffer: bytes, offset: int) -> tuple[int, bytes]:
    end = offset + int.from_bytes(buffer[offset + 2 : offset + 4], "big")
    return end, bytes(buffer[offset:end])


_WHOLE_MESSAGES = _WholeMessages()


class _Everything:
    """Stands in for POX's table of handlers: hands every message on, and lets POX see what changes its port list."""

    def __init__(self, original: Any, take: Callable[[bytes], None]) -> None:
        self._original, self._take = original, take

    def __getitem__(self, kind: int) -> Callable[[Any, Any], None]:
        return self._hand_on

    def _hand_on(self, connection: Any, message: Any) -> None:
        if not isinstance(message, bytes):  # read before we took over, and only now delivered
            self._take(message.pack())
            return
        if message[1] == Type.PORT_STATUS:
            from pox.openflow import of_01

            _end, unpacked = of_01.unpackers[Type.PORT_STATUS](message, 0)
            self._original[Type.PORT_STATUS](connection, unpacked)
        self._take(message)


def _check_free(address: Address) -> None:
    """Raise ConfigError if POX could not listen there: POX itself would only log it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            problem = f"{address}: POX cannot listen there: {error.strerror}; set pox.port to a free one"
            raise ConfigError([problem]) from error

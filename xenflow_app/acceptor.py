"""Accepts switches: TLS 1.3, both sides verified, identity `node NAME`; plain TCP on loopback only.

Both hosts use it. What an unknown peer can make us spend is bounded (handshakes at once, connections at once, time);
refusals are counted and logged once. When certificates, authority or CRL change on disk, new connections use the new
ones, and live ones are checked again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from xenflow.address import Address, Scheme
from xenflow.connection import CLOSE_S, tls_reason
from xenflow.errors import ConfigError, Fault, RemoteProtocolError
from xenflow.guard import Guard
from xenflow.listener import RECHECK_S, WATCH_S
from xenflow.listening import bound_address, listen, stop_listening
from xenflow.refusals import Refusals
from xenflow.tls import Credentials, peer_identity
from xenflow.wire import Role

_log = logging.getLogger(__name__)

READ_BYTES: Final = 1 << 18
HANDSHAKE_S: Final = 5.0
HANDSHAKES_AT_ONCE: Final = 32
_EXHAUSTED_S: Final = 0.1
"""Pause when the process has no file descriptors left."""


@dataclass(frozen=True, slots=True, eq=False)
class SwitchStream:
    """A connection from a switch. `node` is its verified name, `certificate` its proof; None on plain TCP."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    node: str | None
    certificate: bytes | None

    @property
    def peer(self) -> str:
        """Who it is, for logs."""
        return f"node/{self.node}" if self.node else _host(self.writer.get_extra_info("peername"))


OnSwitch: TypeAlias = Callable[[SwitchStream], Awaitable[None]]


class SwitchAcceptor:
    """Listens at an address; calls `on_switch` for each verified switch and closes its connection afterwards.

    `on_switch` may raise RemoteProtocolError: the switch is then counted as refused.
    """

    def __init__(
        self, address: Address, credentials: Credentials | None, on_switch: OnSwitch, max_switches: int
    ) -> None:
        """`credentials` are None for plain TCP, and only for it. Raises ConfigError."""
        if (address.scheme is Scheme.SSL) == (credentials is None):
            raise ConfigError([f"{address}: ssl: needs credentials, tcp: takes none"])
        if address.scheme is Scheme.TCP and not address.is_loopback:
            raise ConfigError([f"{address}: plain TCP is for loopback only; use ssl:HOST:PORT"])
        self._address, self._on_switch, self._max_switches = address, on_switch, max_switches
        self._guard = Guard(credentials) if credentials is not None else None
        self._listeners: list[socket.socket] = []
        self._work: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._handshakes: dict[asyncio.Task[None], str] = {}
        self._live: set[SwitchStream] = set()
        self.refusals = Refusals(str(address))

    async def open(self) -> None:
        """Listen; on return switches can connect. Raises ConfigError."""
        self._listeners = listen(self._address)
        loop = asyncio.get_running_loop()
        self._work = {loop.create_task(self._accept(listener)) for listener in self._listeners}
        if self._guard is not None:
            self._work.add(loop.create_task(self._watch(self._guard)))

    @property
    def address(self) -> Address:
        """Where it listens, with the real port."""
        return bound_address(self._listeners[0], self._address)

    async def close(self) -> None:
        """Stop listening and end all connections."""
        ending = [*self._work, *self._serving]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for listener in self._listeners:
            stop_listening(listener)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, where = await loop.sock_accept(listener)
            except OSError as error:
                _log.error("cannot accept a switch at=%s why=%s", self._address, error)
                await asyncio.sleep(_EXHAUSTED_S)
                continue
            peer = _host(where)
            if not self._admit(peer):
                connection.close()
                continue
            task = loop.create_task(self._serve(connection, peer))
            self._handshakes[task] = peer
            self._serving.add(task)
            task.add_done_callback(self._ended)

    def _admit(self, peer: str) -> bool:
        """Return whether one more may come in; the oldest handshake gives way (a good one takes milliseconds)."""
        if len(self._serving) >= self._max_switches:
            self._refuse(peer, RemoteProtocolError("too many connections (limits.max_switches)", Fault.TOO_MANY))
            return False
        if len(self._handshakes) >= HANDSHAKES_AT_ONCE:
            oldest, its_peer = next(iter(self._handshakes.items()))
            del self._handshakes[oldest]
            oldest.cancel()
            self._refuse(its_peer, RemoteProtocolError("too many handshakes at once", Fault.TOO_MANY))
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._handshakes.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "serving a switch", "exception": error})

    async def _serve(self, connection: socket.socket, peer: str) -> None:
        try:
            stream = await self._shake_hands(connection)
        except RemoteProtocolError as refusal:
            self._refuse(peer, refusal)
            return
        finally:
            task = asyncio.current_task()
            assert task is not None  # a coroutine runs in a task
            self._handshakes.pop(task, None)
        self._live.add(stream)
        try:
            await self._on_switch(stream)
        except RemoteProtocolError as refusal:
            self._refuse(stream.peer, refusal)
        finally:
            self._live.discard(stream)
            stream.writer.transport.abort()

    async def _shake_hands(self, connection: socket.socket) -> SwitchStream:
        try:
            writer, reader = await self._open_stream(connection)
        except ssl.SSLCertVerificationError as error:
            raise RemoteProtocolError(tls_reason(error), Fault.CERTIFICATE) from error
        except ssl.SSLError as error:
            raise RemoteProtocolError(tls_reason(error), Fault.TLS) from error
        except ConnectionAbortedError as error:  # asyncio's word for a handshake that takes too long
            raise RemoteProtocolError(f"no TLS handshake within {HANDSHAKE_S:g} s", Fault.HANDSHAKE_TIMEOUT) from error
        except OSError as error:
            raise RemoteProtocolError(str(error) or "connection lost", Fault.TLS) from error
        secure = writer.get_extra_info("ssl_object")
        if secure is None:
            return SwitchStream(reader, writer, None, None)
        try:
            identity = peer_identity(secure)
            if identity.role is not Role.NODE:
                raise RemoteProtocolError(f"{identity} is no node, so it has no switch", Fault.IDENTITY)
        except RemoteProtocolError:
            writer.transport.abort()
            raise
        return SwitchStream(reader, writer, identity.name, secure.getpeercert(binary_form=True))

    async def _open_stream(self, connection: socket.socket) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(READ_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        context = self._guard.context if self._guard is not None else None
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport, _protocol = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_S if context is not None else None,
                ssl_shutdown_timeout=CLOSE_S if context is not None else None,
            )
        except OSError:
            connection.close()
            raise
        return asyncio.StreamWriter(transport, protocol, reader, loop), reader

    def _refuse(self, peer: str, refusal: RemoteProtocolError) -> None:
        self.refusals.add(peer, refusal, asyncio.get_running_loop().time())

    async def _watch(self, guard: Guard) -> None:
        loop = asyncio.get_running_loop()
        checked = loop.time()
        while True:
            await asyncio.sleep(WATCH_S)
            if not guard.credentials.changed() and loop.time() < checked + RECHECK_S:
                continue
            checked = loop.time()
            for stream, why in guard.refresh(self._live).items():
                self._refuse(stream.peer, RemoteProtocolError(why, Fault.CERTIFICATE))
                stream.writer.transport.abort()


def _host(where: object) -> str:
    return str(where[0]) if isinstance(where, tuple) and where else "?"

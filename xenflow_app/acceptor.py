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
from xenflow.errors import ConfigError, Fault, RemoteProtocolError
from xenflow.listening import bound_address, listen, stop_listening
from xenflow.refusals import Refusals
from xenflow.revocation import recheck_all
from xenflow.tls import Credentials, peer_identity
from xenflow.wire import Role

_log = logging.getLogger(__name__)

READ_BYTES: Final = 1 << 18
HANDSHAKE_S: Final = 5.0
HANDSHAKES_AT_ONCE: Final = 32
WATCH_S: Final = 1.0
"""How often the files of the credentials are looked at."""


@dataclass(frozen=True, slots=True, eq=False)
class SwitchStream:
    """A connection from a switch. `node` is its verified name; None on plain TCP."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    node: str | None

    @property
    def peer(self) -> str:
        """Who it is, for logs."""
        return f"node/{self.node}" if self.node else _host(self.writer.get_extra_info("peername"))


OnSwitch: TypeAlias = Callable[[SwitchStream], Awaitable[None]]


class SwitchAcceptor:
    """Listens at an address; calls `on_switch` for each verified switch and closes its connection afterwards.

    Raises (open) ConfigError: port in use, certificates that cannot be used.
    """

    def __init__(
        self, address: Address, credentials: Credentials | None, on_switch: OnSwitch, max_switches: int
    ) -> None:
        """`credentials` may be None only for plain TCP; they are watched, so nobody else may use this object."""
        if (address.scheme is Scheme.SSL) == (credentials is None):
            raise ConfigError([f"{address}: ssl: needs credentials, tcp: takes none"])
        if address.scheme is Scheme.TCP and not address.is_loopback:
            raise ConfigError([f"{address}: plain TCP is for loopback only; use ssl:HOST:PORT"])
        self._address, self._credentials, self._on_switch = address, credentials, on_switch
        self._max_switches = max_switches
        self._context: ssl.SSLContext | None = None
        self._listeners: list[socket.socket] = []
        self._loops: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._live: dict[SwitchStream, bytes] = {}
        self._handshakes = 0
        self._said = ""
        self.refusals = Refusals(str(address))

    async def open(self) -> None:
        """Listen; on return switches can connect."""
        if self._credentials is not None:
            self._context = self._credentials.server_context()
        self._listeners = listen(self._address)
        self._loops = [asyncio.create_task(self._accept(listener)) for listener in self._listeners]
        if self._credentials is not None:
            self._loops.append(asyncio.create_task(self._watch(self._credentials)))

    @property
    def address(self) -> Address:
        """Where it listens, with the real port."""
        return bound_address(self._listeners[0], self._address)

    async def close(self) -> None:
        """Stop listening and end all connections."""
        ending = [*self._loops, *self._tasks]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for listener in self._listeners:
            stop_listening(listener)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or gone before it was accepted
                _log.warning("cannot accept a switch at=%s why=%s", self._address, error)
                await asyncio.sleep(0.1)
                continue
            try:
                self._admit(connection)
            except RemoteProtocolError as refusal:
                connection.close()
                self._refuse(_host(peer), refusal)

    def _admit(self, connection: socket.socket) -> None:
        if self._handshakes >= HANDSHAKES_AT_ONCE:
            raise RemoteProtocolError(f"{self._handshakes} handshakes at once", Fault.TOO_MANY)
        if len(self._tasks) >= self._max_switches:
            raise RemoteProtocolError(f"{len(self._tasks)} connections (limits.max_switches)", Fault.TOO_MANY)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "serving a switch", "exception": error})

    async def _serve(self, connection: socket.socket) -> None:
        peer = _host(connection.getpeername())
        self._handshakes += 1
        try:
            stream = await self._shake_hands(connection)
        except RemoteProtocolError as refusal:
            self._refuse(peer, refusal)
            return
        finally:
            self._handshakes -= 1
        secure = stream.writer.get_extra_info("ssl_object")
        if secure is not None:
            self._live[stream] = secure.getpeercert(binary_form=True) or b""
        try:
            await self._on_switch(stream)
        except RemoteProtocolError as refusal:
            self._refuse(stream.peer, refusal)
        finally:
            self._live.pop(stream, None)
            stream.writer.transport.abort()

    async def _shake_hands(self, connection: socket.socket) -> SwitchStream:
        loop = asyncio.get_running_loop()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = asyncio.StreamReader(READ_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        timeouts = {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": 1.0} if self._context else {}
        try:
            transport, _protocol = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._context, **timeouts
            )
        except ssl.SSLError as error:
            connection.close()
            wrong = Fault.CERTIFICATE if isinstance(error, ssl.SSLCertVerificationError) else Fault.TLS
            raise RemoteProtocolError(f"no TLS 1.3 connection: {error.reason or error}", wrong) from error
        except OSError as error:
            connection.close()
            raise RemoteProtocolError(f"no TLS 1.3 connection: {error}", Fault.TLS) from error
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        if self._context is None:
            return SwitchStream(reader, writer, None)
        try:
            identity = peer_identity(writer.get_extra_info("ssl_object"))
            if identity.role is not Role.NODE:
                raise RemoteProtocolError(f"{identity} is no node, so it has no switch", Fault.IDENTITY)
        except RemoteProtocolError:
            writer.transport.abort()
            raise
        return SwitchStream(reader, writer, identity.name)

    def _refuse(self, peer: str, refusal: RemoteProtocolError) -> None:
        self.refusals.add(peer, refusal, asyncio.get_running_loop().time())

    async def _watch(self, credentials: Credentials) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            if not credentials.changed():
                continue
            try:
                self._context = credentials.server_context()
                verdicts = recheck_all(self._live.values(), credentials)
            except ConfigError as error:  # half of the files replaced, or a mistake: what is at hand stays
                if str(error) != self._said:
                    self._said = str(error)
                    _log.warning("credentials changed and not usable, kept the old ones why=%s", self._said)
                continue
            self._said = ""
            for stream, verdict in zip(tuple(self._live), verdicts, strict=True):
                if verdict is not None:
                    self._refuse(stream.peer, RemoteProtocolError(verdict, Fault.CERTIFICATE))
                    stream.writer.transport.abort()


def _host(peername: object) -> str:
    return str(peername[0]) if isinstance(peername, tuple) and peername else "?"

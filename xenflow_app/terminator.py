"""TLS in front of POX: accepts verified switches and carries their bytes to POX's own listener on loopback.

    switch == TLS 1.3, mutual ==> Terminator -- plain, 127.0.0.1 --> POX (openflow.of_01)
                                      `----- once POX has handed it over: straight to the core (diversion)

POX's own TLS does not verify and blocks; so POX listens on loopback only. The source port of each loopback connection
tells the POX component whose it is; a connection from any other port was made by somebody else on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from xenflow.address import Address
from xenflow.errors import Fault, RemoteProtocolError
from xenflow.refusals import Refusals
from xenflow.tls import Credentials
from xenflow_app.acceptor import READ_BYTES, SwitchAcceptor, SwitchStream
from xenflow_app.diversion import Diversion


class Terminator:
    """Knows the node behind every loopback port in use. `refuse` may be called with a port while it is in use."""

    def __init__(self, address: Address, credentials: Credentials, pox: Address, max_switches: int) -> None:
        """Listen at `address` (after `open`) for switches that POX, at `pox`, is to serve."""
        self._pox = pox
        self._nodes: dict[int, str] = {}
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._diversions: dict[int, Diversion] = {}
        self._faults: dict[int, RemoteProtocolError] = {}
        self._acceptor = SwitchAcceptor(address, credentials, self._carry, max_switches)

    async def open(self) -> None:
        """Listen. Raises ConfigError."""
        await self._acceptor.open()

    async def close(self) -> None:
        """Stop listening and end all connections."""
        await self._acceptor.close()

    @property
    def address(self) -> Address:
        """Where it listens, with the real port."""
        return self._acceptor.address

    @property
    def refusals(self) -> Refusals:
        """Who was refused, counted."""
        return self._acceptor.refusals

    def node(self, port: int) -> str | None:
        """Return the node whose bytes come from this loopback port; None if the connection is not ours.

        The only method that may be called from another thread.
        """
        return self._nodes.get(port)

    def refuse(self, port: int, fault: RemoteProtocolError) -> None:
        """Note why the connection from this port is about to be ended, to be counted as a refusal of its switch."""
        if port in self._nodes:
            self._faults[port] = fault

    def send(self, port: int, data: bytes) -> None:
        """Send whole messages to the switch, past POX; nothing happens if it is gone."""
        writer = self._writers.get(port)
        if writer is not None:
            writer.write(data)

    def divert(self, port: int, take: Callable[[bytes], None]) -> None:
        """Hand messages from the switch to `take`, past POX, once `marked` was called for the mark."""
        if port in self._diversions:
            self._diversions[port].divert(take)

    def marked(self, port: int) -> None:
        """The mark has come out of POX."""
        if port in self._diversions:
            self._diversions[port].marked()

    async def _carry(self, stream: SwitchStream) -> None:
        """Carry bytes both ways until either side ends. Raises RemoteProtocolError if the switch was refused."""
        assert stream.node is not None  # the acceptor verifies: there is no plain TCP here
        own = _bound_socket(self._pox)
        port = own.getsockname()[1]
        self._nodes[port] = stream.node  # before POX can see the connection
        try:
            await asyncio.get_running_loop().sock_connect(own, (self._pox.host, self._pox.port))
            reader, writer = await asyncio.open_connection(sock=own, limit=READ_BYTES)
            diversion = Diversion(writer.write)
            self._writers[port], self._diversions[port] = stream.writer, diversion
            await _join(stream, diversion, reader, writer)
        except OSError as error:
            raise RemoteProtocolError(f"POX does not take it: {error}", Fault.REFUSED) from error
        finally:
            own.close()
            del self._nodes[port]
            self._writers.pop(port, None)
            self._diversions.pop(port, None)
            fault = self._faults.pop(port, None)
        if fault is not None:
            raise fault


def _bound_socket(pox: Address) -> socket.socket:
    """Return a non-blocking socket bound to a free port of POX's loopback address."""
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so only for sockets that it makes
    own.setblocking(False)
    own.bind((pox.host, 0))
    return own


async def _join(
    stream: SwitchStream, diversion: Diversion, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Copy both ways, no faster than is read at the other end, until one direction ends.

    Raises RemoteProtocolError for a switch that does not speak OpenFlow 1.0.
    """
    copies = {
        asyncio.create_task(_copy(stream.reader, diversion.receive, writer)),
        asyncio.create_task(_copy(reader, stream.writer.write, stream.writer)),
    }
    try:
        done, _ = await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        for copy in done:
            copy.result()
    finally:
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, give: Callable[[bytes], None], writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(READ_BYTES):
            give(data)
            await writer.drain()

"""An open connection to another process of XenFlow: a `Session` over an asyncio stream.

Place in the flow: made by `xenflow.channel.connect` and `xenflow.listener`; programs iterate over it and send.

Rules: whoever iterates does the reading, and `send` waits while the other side does not read, so memory is bounded
both ways; deadlines and Pings are kept while the program is busy elsewhere; a fault of the other side is raised to
whoever iterates, everything else just ends the iteration and leaves the `reason`.
"""

from __future__ import annotations

import asyncio
import asyncio.trsock
import contextlib
import socket
import ssl
import struct
from collections import deque
from collections.abc import Coroutine
from typing import Final

from xenflow.errors import Fault, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.session import Session, State
from xenflow.wire import Message

READ_BYTES: Final = 1 << 18
CLOSE_S: Final = 1.0
"""How long a connection that closes may take to send what is left."""
_WRITE_HIGH_BYTES: Final = 1 << 20
_DROP: Final = struct.pack("@ii", 1, 0)
"""struct linger (socket(7)): closing drops what is unsent, and sends one reset."""


class Channel:
    """One connection, open from `open` until `close`, a Bye, a fault, or the loss of the connection.

    One task iterates (or calls `receive`, for all messages at hand); any number may `send`.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: Session) -> None:
        self.session = session
        self.reason = ""
        """Why it ended; empty while it is open."""
        self.certificate: bytes | None = _certificate(writer)
        """The other side's certificate (DER), None without TLS."""
        self._peer: Identity | None = None
        self._reader, self._writer = reader, writer
        self._messages: deque[Message] = deque()
        self._loop = asyncio.get_running_loop()
        self._paused_at: float | None = None  # None: somebody reads
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        writer.transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        _set_no_delay(writer)

    @property
    def peer(self) -> Identity:
        """Who is at the other end; known once the channel is open."""
        assert self._peer is not None  # set by `open`, before a program sees the channel
        return self._peer

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self.session.state is State.OPEN and self._closing is None

    async def open(self, peer: Identity | None) -> None:
        """Shake hands; `peer` is the identity in the certificate, None where the other side's word is enough.

        Raises RemoteProtocolError, or OSError if the connection was lost; it is then closed.
        """
        try:
            self._writer.write(self.session.start())
            while self.session.state is State.HANDSHAKE:
                await self._shake_hands()
            self._peer = peer or self._claimed()
        except RemoteProtocolError as fault:
            self.fail(fault)
            raise
        except OSError as error:
            self._end(str(error))
            raise
        except asyncio.CancelledError:
            self._end("given up within the handshake")
            raise
        self._paused_at = self._loop.time()
        self.start(self._keep_deadlines())

    @property
    def socket(self) -> asyncio.trsock.TransportSocket | None:
        """The connection's socket, to ask the kernel about it; None for a stream without one."""
        connection: asyncio.trsock.TransportSocket | None = self._writer.get_extra_info("socket")
        return connection

    async def receive(self) -> list[Message]:
        """Return the messages at hand, at least one; empty when the channel has ended.

        Raises RemoteProtocolError for a fault of the other side, after the messages before it.
        """
        while not self._messages:
            if self.session.fault is not None:
                self._end(self.session.fault.reason)
                raise self.session.fault
            if self._closing is not None or self.session.state is State.CLOSED:
                self._end(self.session.bye)
                return []
            await self._take_in()
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> Message:
        if not self._messages:
            self._messages.extend(await self.receive())
        if not self._messages:
            raise StopAsyncIteration
        return self._messages.popleft()

    async def send(self, *messages: Message) -> None:
        """Send messages, and wait while too much is unsent.

        Raises ConnectionResetError when the channel has ended, LocalProtocolError for what may not be sent.
        """
        if not self.is_open:
            raise ConnectionResetError(self.reason or "the session has ended")
        self._writer.write(b"".join(map(self.session.send, messages)))
        await self._drain()

    async def close(self, reason: str) -> None:
        """Say Bye with the reason and close; true afterwards, whatever the other side does. Again: no effect."""
        self._end(reason)
        assert self._closing is not None  # by _end
        await asyncio.shield(self._closing)

    def abort(self, reason: str) -> None:
        """End the channel at once: the other side cannot be reached, so nobody waits for what is left to be sent.

        Not the kernel either. It would repeat what it has left, and ask for the neighbor in vain; if that comes back
        meanwhile, all that is for it waits until the next question, up to a second (RFC 4861, RetransTimer).
        """
        self._end(reason)
        if self.socket is not None:
            with contextlib.suppress(OSError):  # closed already
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP)
        self._writer.transport.abort()

    def fail(self, fault: RemoteProtocolError) -> None:
        """End the channel because of what the other side did; it is told the reason."""
        self.session.fail(fault)
        self._end(fault.reason)

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside the channel, as long as it is open."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _shake_hands(self) -> None:
        deadline = self.session.next_deadline()
        try:
            async with asyncio.timeout_at(deadline):
                data = await self._reader.read(READ_BYTES)
        except TimeoutError:
            self.session.tick(max(deadline, self._loop.time()))
            raise
        except ssl.SSLError as error:
            raise RemoteProtocolError(f"refused by the other side: {tls_reason(error)}", Fault.CERTIFICATE) from error
        if not data:
            raise ConnectionResetError("ended within the handshake; if that repeats, the other side's log says why")
        self._messages += self.session.receive(data, self._loop.time())
        self._writer.write(self.session.output())

    def _claimed(self) -> Identity:
        first = self.session.peer_hello or self.session.peer_welcome
        assert first is not None  # the session is open
        try:
            return Identity(first.role, first.name)
        except ValueError as error:
            raise RemoteProtocolError(str(error), Fault.IDENTITY) from error

    async def _take_in(self) -> None:
        data = await self._read()
        if not data:
            self._end(self.session.bye or "connection lost")
            return
        try:
            self._messages += self.session.receive(data, self._loop.time())
        except RemoteProtocolError as fault:
            self.fail(fault)
            return
        if output := self.session.output():
            self._writer.write(output)
            with contextlib.suppress(OSError):  # a lost connection shows at the next read
                await self._drain()

    async def _read(self) -> bytes:
        if self._paused_at is not None:
            self.session.resume(self._loop.time() - self._paused_at)
            self._paused_at = None
        try:
            return await self._reader.read(READ_BYTES)
        except OSError as error:
            self._end(f"connection lost: {error}")
            return b""
        finally:
            self._paused_at = self._loop.time()

    async def _drain(self) -> None:
        stalled_s = self.session.limits.stalled_s
        try:
            async with asyncio.timeout(stalled_s) as timeout:
                await self._writer.drain()
        except TimeoutError as error:
            if timeout.expired():
                self.fail(RemoteProtocolError(f"has not read for {stalled_s:g} s what was sent", Fault.STALLED))
            raise ConnectionResetError(self.reason or str(error)) from error

    async def _keep_deadlines(self) -> None:
        while self.session.state is not State.CLOSED:
            reading = self._paused_at is None
            await asyncio.sleep(self.session.next_deadline(reading=reading) - self._loop.time())
            try:
                self._writer.write(self.session.tick(self._loop.time(), reading=self._paused_at is None))
            except RemoteProtocolError as fault:
                self.fail(fault)

    def _end(self, reason: str) -> None:
        if self._closing is not None:
            return
        self.reason = reason
        farewell = self.session.output() + self.session.close(reason)
        self._closing = self._loop.create_task(self._shut(farewell))

    async def _shut(self, farewell: bytes) -> None:
        for task in self._tasks:
            task.cancel()
        if not self._writer.is_closing():  # a second close would break asyncio's TLS transport
            self._writer.write(farewell)
            self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._writer.wait_closed()
        except TimeoutError:  # what is left cannot be sent
            self._writer.transport.abort()
        except OSError:  # lost already
            pass


def tls_reason(error: ssl.SSLError) -> str:
    """Return what OpenSSL says, as a person would."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or str(error)).replace("_", " ").lower()


def _certificate(writer: asyncio.StreamWriter) -> bytes | None:
    connection = writer.get_extra_info("ssl_object")
    return connection.getpeercert(binary_form=True) if isinstance(connection, ssl.SSLObject) else None


def _set_no_delay(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

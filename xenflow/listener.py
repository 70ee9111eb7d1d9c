"""Accepts connections: bounded, checked, counted; each becomes a `Channel` that the program serves.

    accept -> too many? -> TLS handshake -> identity -> Hello/Welcome -> program (one task each)
              refused      refused          refused     refused          RemoteProtocolError: refused

Rules: one bad peer costs the others nothing: each address has its share, and when there are too many handshakes at
once the oldest gives way (a good one takes milliseconds). While the program runs, changed files of the credentials
make a fresh context, and live peers are checked again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from xenflow.address import Address
from xenflow.connection import CLOSE_S, READ_BYTES, Channel, tls_reason
from xenflow.errors import Fault, RemoteProtocolError
from xenflow.guard import Guard, guard
from xenflow.identity import Identity
from xenflow.limits import Limits
from xenflow.listening import bound_address, host_text, listen, stop_listening
from xenflow.rates import PeerRates
from xenflow.refusals import Refusals
from xenflow.session import Session
from xenflow.tls import Credentials, peer_identity
from xenflow.wire import Hello, Role, Welcome

_log = logging.getLogger(__name__)

WATCH_S: Final = 1.0
"""How often the files of the credentials are looked at."""
RECHECK_S: Final = 60.0
"""How often live peers are checked although no file has changed: certificates expire."""
_EXHAUSTED_S: Final = 0.1
"""Pause when the process has no file descriptors left."""

OPERATORS: Final = frozenset({Role.OPERATOR})

WelcomePeer = Callable[[Hello, Identity], Welcome]
OnChannel = Callable[[Channel], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """Connections in all, per address of a peer, and within their handshake; then what each session may take.

    `rate_per_s` and `burst` bound how often one address may connect: each handshake costs milliseconds.
    """

    connections: int = 1024
    per_peer: int = 64
    handshakes: int = 64
    rate_per_s: float = 20.0
    burst: int = 200
    session: Limits = field(default_factory=Limits)


async def serve(
    address: Address,
    credentials: Credentials | None,
    welcome: WelcomePeer,
    on_channel: OnChannel,
    limits: ListenerLimits = ListenerLimits(),
    local: frozenset[Role] = OPERATORS,
) -> Listener:
    """Return a listener at `address`; a local socket (unix:) has no credentials and is for the roles in `local`.

    `welcome` answers the Hello of an identity, or refuses it with RemoteProtocolError. `on_channel` serves an open
    channel, which is closed when it returns; it may raise RemoteProtocolError or OSError. Raises ConfigError.
    """
    listener = Listener(address, credentials, welcome, on_channel, limits, local)
    listener.begin()
    return listener


class Listener:
    """The listening sockets at one address and the connections that came in through them."""

    def __init__(
        self,
        address: Address,
        credentials: Credentials | None,
        welcome: WelcomePeer,
        on_channel: OnChannel,
        limits: ListenerLimits,
        local: frozenset[Role] = OPERATORS,
    ) -> None:
        self._local = local
        self.channels: set[Channel] = set()
        """Those that are open."""
        self.addresses: tuple[Address, ...] = ()
        """Where it listens, with the real port."""
        self._wanted, self._welcome, self._on_channel, self._limits = address, welcome, on_channel, limits
        self._refusals = Refusals(str(address))
        self._rates = PeerRates(limits.rate_per_s, limits.burst)
        self._guard = guard(address, credentials)
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._sockets: list[socket.socket] = []
        self._duties: list[asyncio.Task[None]] = []
        self._work: set[asyncio.Task[None]] = set()
        self._handshakes: dict[asyncio.Task[None], str] = {}
        self._peers: Counter[str] = Counter()

    @property
    def refusals(self) -> Mapping[Fault, int]:
        """How many peers have been refused, by fault."""
        return self._refusals.counts

    def begin(self) -> None:
        """Listen. Raises ConfigError."""
        self._sockets = listen(self._wanted)
        self.addresses = tuple(bound_address(each, self._wanted) for each in self._sockets)
        for each in self._sockets:
            self._duties.append(self._spawn(self._accept(each)))
        if self._guard is not None:
            self._duties.append(self._spawn(self._watch(self._guard)))
        _log.info("listening at=%s", ",".join(map(str, self.addresses)))

    async def wait(self) -> None:
        """Return once the listener is closed; raises what a program's `on_channel` or `welcome` failed with."""
        await asyncio.shield(self._failed)

    async def close(self, reason: str = "shutting down") -> None:
        """Stop listening, say Bye to everybody and wait until all are gone."""
        await _cancel(self._duties)
        for each in self._sockets:
            stop_listening(each)
        self._sockets.clear()
        await asyncio.gather(*(channel.close(reason) for channel in self.channels))
        await _cancel(self._work - {asyncio.current_task()})
        if not self._failed.done():
            self._failed.set_result(None)

    def refuse(self, peer: str, error: RemoteProtocolError) -> None:
        """Count a refusal, and log it unless that has been done recently."""
        self._refusals.add(peer, error, self._loop.time())

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.error("program failed at=%s", self._wanted, exc_info=error)
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, where = await self._loop.sock_accept(listener)
            except OSError as error:
                if listener.fileno() < 0:
                    return
                _log.error("cannot accept at=%s why=%s", self._wanted, error)
                await asyncio.sleep(_EXHAUSTED_S)
                continue
            peer = host_text(where) if isinstance(where, tuple) else "local"
            if not self._admit(peer):
                connection.close()
                continue
            self._peers[peer] += 1
            task = self._spawn(self._serve(connection, peer))
            self._handshakes[task] = peer
            task.add_done_callback(functools.partial(self._gone, peer))
            await asyncio.sleep(0)  # sock_accept does not wait in a flood; the task must begin, to close what it has

    def _admit(self, peer: str) -> bool:
        limits = self._limits
        if self._peers.total() >= limits.connections or self._peers[peer] >= limits.per_peer:
            self.refuse(peer, RemoteProtocolError("too many connections", Fault.TOO_MANY))
            return False
        if self._guard is not None and not self._rates.take(peer, self._loop.time()):
            self.refuse(peer, RemoteProtocolError("connects too often", Fault.TOO_OFTEN))
            return False
        if len(self._handshakes) >= limits.handshakes:
            oldest, its_peer = next(iter(self._handshakes.items()))
            del self._handshakes[oldest]
            oldest.cancel()
            self.refuse(its_peer, RemoteProtocolError("too many handshakes at once", Fault.TOO_MANY))
        return True

    def _gone(self, peer: str, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        self._peers[peer] -= 1
        if self._peers[peer] <= 0:
            del self._peers[peer]

    async def _serve(self, connection: socket.socket, peer: str) -> None:
        try:
            channel = await self._shake_hands(connection, peer)
        except RemoteProtocolError as error:
            self.refuse(peer, error)
            return
        except OSError as error:
            self.refuse(peer, RemoteProtocolError(str(error) or "connection lost", Fault.TLS))
            return
        finally:
            task = asyncio.current_task()
            assert task is not None  # a coroutine runs in a task
            self._handshakes.pop(task, None)
        self.channels.add(channel)
        _log.info("channel open peer=%s from=%s", channel.peer, peer)
        try:
            await self._run(channel, peer)
        finally:
            self.channels.discard(channel)
            _log.info("channel closed peer=%s from=%s why=%s", channel.peer, peer, channel.reason)

    async def _run(self, channel: Channel, peer: str) -> None:
        reason = "ended by the program"
        try:
            await self._on_channel(channel)
        except RemoteProtocolError as error:
            channel.fail(error)
        except OSError as error:
            reason = str(error)
        finally:
            await channel.close(reason)
            if channel.session.fault is not None:
                self.refuse(f"{channel.peer} from {peer}", channel.session.fault)

    async def _shake_hands(self, connection: socket.socket, peer: str) -> Channel:
        limits, began = self._limits.session, self._loop.time()
        reader = asyncio.StreamReader(limit=READ_BYTES)
        writer = await self._open_stream(connection, reader)
        identity: Identity | None = None
        try:
            if self._guard is not None:
                identity = peer_identity(writer.get_extra_info("ssl_object"))
        except RemoteProtocolError as error:
            writer.transport.abort()
            raise RemoteProtocolError(error.reason, Fault.CERTIFICATE) from error

        def welcome(hello: Hello) -> Welcome:
            return self._welcome(hello, identity or _local(hello, self._local))

        session = Session(hello=None, welcome=welcome, peer=identity, now=began, limits=limits)
        channel = Channel(reader, writer, session)
        await channel.open(identity)
        return channel

    async def _open_stream(self, connection: socket.socket, reader: asyncio.StreamReader) -> asyncio.StreamWriter:
        protocol = asyncio.StreamReaderProtocol(reader)
        context = self._guard.context if self._guard is not None else None
        handshake_s = self._limits.session.handshake_s if context is not None else None
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=handshake_s,
                ssl_shutdown_timeout=CLOSE_S if context is not None else None,
            )
        except ssl.SSLCertVerificationError as error:
            raise RemoteProtocolError(tls_reason(error), Fault.CERTIFICATE) from error
        except ssl.SSLError as error:
            raise RemoteProtocolError(tls_reason(error), Fault.TLS) from error
        except ConnectionAbortedError as error:  # asyncio's word for a handshake that takes too long
            raise RemoteProtocolError(f"no TLS handshake within {handshake_s} s", Fault.HANDSHAKE_TIMEOUT) from error
        return asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def _watch(self, guard: Guard) -> None:
        checked = self._loop.time()
        while True:
            await asyncio.sleep(WATCH_S)
            now = self._loop.time()
            if not guard.credentials.changed() and now < checked + RECHECK_S:
                continue
            checked = now
            bad = guard.refresh(self.channels)
            for channel, reason in bad.items():
                channel.fail(RemoteProtocolError(reason, Fault.CERTIFICATE))


def _local(hello: Hello, roles: frozenset[Role]) -> Identity:
    """Return who speaks at a local socket; its file's mode lets nobody else in."""
    if hello.role not in roles:
        wanted = " or ".join(sorted(roles))
        raise RemoteProtocolError(f"a local socket is for {wanted}s, not for a {hello.role}", Fault.IDENTITY)
    try:
        return Identity(hello.role, hello.name)
    except ValueError as error:
        raise RemoteProtocolError(str(error), Fault.IDENTITY) from error


async def _cancel(tasks: Iterable[asyncio.Task[None] | None]) -> None:
    """Cancel tasks and wait until they have ended; what they fail with is for `Listener.wait`."""
    waiting = [task for task in tasks if task is not None]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

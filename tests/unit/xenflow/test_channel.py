"""Channels over local sockets and over TLS: bulk, back-pressure, refusals, floods, changed credentials."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import logging
import os
import shutil
import socket
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import pytest

from tests.fakes import clock
from xenflow import wire
from xenflow.address import Address
from xenflow.channel import Channel, Limits, Listener, ListenerLimits, connect, serve
from xenflow.errors import ConfigError, Fault, RemoteProtocolError, UnavailableError
from xenflow.identity import Identity
from xenflow.listening import host_text, listen
from xenflow.model import Hop, Route, RouteKind
from xenflow.pki.authority import Authority
from xenflow.replica import Inbox, Outbox
from xenflow.tls import Credentials
from xenflow.wire import Ack, Begin, End, Hello, Query, Role, Update, Welcome

ROUTER, NODE = Identity(Role.ROUTER, "r1"), Identity(Role.NODE, "n1")
HELLO = Hello(wire.VERSION, Role.ROUTER, "r1", 1)
OPERATOR = Hello(wire.VERSION, Role.OPERATOR, "root")
TLS = Address.parse("ssl:127.0.0.1:0")


Test = Callable[..., Awaitable[None]]


def bounded(run: Callable[[Coroutine[object, object, None]], None], test: Test) -> Callable[..., None]:
    @functools.wraps(test)
    def whole(*args: object, **kwargs: object) -> None:
        async def story() -> None:
            async with asyncio.timeout(10):
                await test(*args, **kwargs)

        run(story())

    return whole


in_loop = functools.partial(bounded, asyncio.run)
in_jumping_loop = functools.partial(bounded, clock.run)
"""For tests that wait a second or so for something of their own process."""


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; the test's own deadline ends it."""
    while not condition():
        await asyncio.sleep(0.005)


class Pki:
    """An authority and what it issued, each identity with files of its own, as on machines of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.create(directory / "ca")

    def credentials(self, identity: Identity) -> Credentials:
        home = self.directory / str(identity).replace("/", "-")
        home.mkdir(exist_ok=True)
        issued = self.authority.issue(identity)
        paths = [self.authority.ca_path, issued.certificate, issued.key, self.authority.crl_path]
        names = ["ca.pem", "cert.pem", "key.pem", "crl.pem"]
        for path, name in zip(paths, names, strict=True):
            shutil.copy2(path, home / name)
        return Credentials(*(home / name for name in names))

    def publish_crl(self, credentials: Credentials) -> None:
        assert credentials.crl is not None
        fresh = credentials.crl.with_suffix(".new")
        shutil.copy(self.authority.crl_path, fresh)
        fresh.rename(credentials.crl)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


class Program:
    """A program at a listener: takes everything in, and remembers it."""

    def __init__(self) -> None:
        self.hellos: list[tuple[Hello, Identity]] = []
        self.messages: list[wire.Message] = []
        self.ended: list[str] = []
        self.inbox = Inbox()

    def welcome(self, hello: Hello, identity: Identity) -> Welcome:
        self.hellos.append((hello, identity))
        if hello.name == "elsewhere":
            raise RemoteProtocolError("no such router on this node", Fault.IDENTITY)
        return Welcome(wire.VERSION, Role.NODE, "n1", 1000)

    async def serve(self, channel: Channel) -> None:
        try:
            async for message in channel:
                self.messages.append(message)
                if isinstance(message, Begin | Update | End):
                    self.inbox.receive(message)
                if isinstance(message, End):
                    await channel.send(Ack(message.scope, message.seq))
        finally:
            self.ended.append(channel.reason)


@contextlib.asynccontextmanager
async def listening(
    address: Address, credentials: Credentials | None, program: Program, limits: ListenerLimits | None = None
) -> AsyncIterator[Listener]:
    listener = await serve(address, credentials, program.welcome, program.serve, limits or ListenerLimits())
    try:
        yield listener
    finally:
        await listener.close()
        await listener.wait()


def anybody(_: Identity) -> str | None:
    return None


def local(tmp_path: Path) -> Address:
    return Address.parse(f"unix:{tmp_path}/app.sock")


# Over a local socket


@in_loop
async def test_an_operator_asks_over_a_local_socket(tmp_path: Path) -> None:
    program = Program()
    async with listening(local(tmp_path), None, program) as listener:
        assert stat.S_IMODE((tmp_path / "app.sock").stat().st_mode) == 0o600
        channel = await connect(listener.addresses[0], None, OPERATOR, anybody)
        assert channel.peer == NODE
        await channel.send(Query(1, "status"))
        await until(lambda: program.messages == [Query(1, "status")])
        assert program.hellos == [(OPERATOR, Identity(Role.OPERATOR, "root"))]
        await channel.close("thank you")
        await until(lambda: program.ended == ["thank you"])
        with pytest.raises(ConnectionResetError):
            await channel.send(Query(2, "status"))
    assert not (tmp_path / "app.sock").exists()


@in_loop
async def test_a_local_socket_is_for_operators(tmp_path: Path) -> None:
    async with listening(local(tmp_path), None, Program()) as listener:
        with pytest.raises(RemoteProtocolError, match="for operators"):
            await connect(listener.addresses[0], None, HELLO, anybody)
        await until(lambda: listener.refusals == {Fault.IDENTITY: 1})


@in_loop
async def test_closing_a_listener_says_bye_to_everybody(tmp_path: Path) -> None:
    async with listening(local(tmp_path), None, Program()) as listener:
        channel = await connect(listener.addresses[0], None, OPERATOR, anybody)
        await listener.close("node goes down")
        assert [message async for message in channel] == []
        assert channel.reason == "node goes down"
        assert not channel.is_open


@in_loop
async def test_a_socket_left_behind_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    address = local(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(address.path)
    async with listening(address, None, Program()):
        with pytest.raises(ConfigError, match="another process listens there"):
            await serve(address, None, Program().welcome, Program().serve)
        channel = await connect(address, None, OPERATOR, anybody)
        await channel.close("still there")
    Path(address.path).write_text("somebody's notes")
    with pytest.raises(ConfigError, match="no socket and is left alone"):
        await serve(address, None, Program().welcome, Program().serve)
    assert Path(address.path).read_text() == "somebody's notes"


@in_loop
async def test_silence_in_the_handshake_ends_in_time(tmp_path: Path) -> None:
    limits = ListenerLimits(session=Limits(handshake_s=0.05))
    async with listening(local(tmp_path), None, Program(), limits) as listener:
        reader, writer = await asyncio.open_unix_connection(listener.addresses[0].path)
        farewell = await reader.read()
        assert b"no handshake within 0.05 s" in farewell
        await until(lambda: listener.refusals == {Fault.HANDSHAKE_TIMEOUT: 1})
        writer.close()


@in_loop
async def test_half_a_frame_and_then_silence_ends_in_time(tmp_path: Path) -> None:
    limits = ListenerLimits(session=Limits(frame_s=0.05, keepalive_s=0.01))
    async with listening(local(tmp_path), None, Program(), limits) as listener:
        reader, writer = await asyncio.open_unix_connection(listener.addresses[0].path)
        writer.write(wire.encode(OPERATOR) + b"\0\0")
        assert b"half a frame" in await reader.read()
        await until(lambda: listener.refusals == {Fault.FRAME_TIMEOUT: 1})
        writer.close()


@in_loop
async def test_a_peer_that_says_nothing_is_pinged_and_then_left(tmp_path: Path) -> None:
    limits = ListenerLimits(session=Limits(idle_s=0.1, keepalive_s=0.03))
    async with listening(local(tmp_path), None, Program(), limits) as listener:
        reader, writer = await asyncio.open_unix_connection(listener.addresses[0].path)
        writer.write(wire.encode(OPERATOR))
        received = await reader.read()
        assert wire.encode(wire.Ping(1)) in received
        assert b"silent for" in received
        await until(lambda: listener.refusals == {Fault.IDLE_TIMEOUT: 1})
        writer.close()


@in_jumping_loop
async def test_pings_keep_an_idle_channel_and_a_busy_program_alive(tmp_path: Path) -> None:
    busy = asyncio.Event()
    quick = Limits(idle_s=0.15, keepalive_s=0.02)

    async def slow(channel: Channel) -> None:
        await busy.wait()  # does not read
        async for message in channel:
            await channel.send(wire.Answer(1, error=type(message).__name__))

    program = Program()
    listener = await serve(local(tmp_path), None, program.welcome, slow, ListenerLimits(session=quick))
    channel = await connect(listener.addresses[0], None, OPERATOR, anybody, limits=quick)
    await channel.send(Query(1, "status"))
    reading = asyncio.create_task(channel.receive())
    began = asyncio.get_running_loop().time()
    await until(lambda: asyncio.get_running_loop().time() > began + 0.5)
    assert channel.is_open
    busy.set()
    assert await reading == [wire.Answer(1, error="Query")]
    await channel.close("done")
    await listener.close()


@in_jumping_loop
async def test_send_waits_for_a_slow_reader_and_gives_up_on_one_that_never_reads(tmp_path: Path) -> None:
    unsent = []

    async def talk(channel: Channel) -> None:
        while True:
            await channel.send(wire.Answer(1, bytes(100_000)))
            unsent.append(channel._writer.transport.get_write_buffer_size())

    limits = ListenerLimits(session=Limits(stalled_s=0.1))
    listener = await serve(local(tmp_path), None, Program().welcome, talk, limits)
    reader, writer = await asyncio.open_unix_connection(listener.addresses[0].path)
    writer.write(wire.encode(OPERATOR))
    await until(lambda: listener.refusals == {Fault.STALLED: 1})
    assert max(unsent) < 2_000_000
    writer.close()
    await listener.close()
    reader.feed_eof()


@in_loop
async def test_a_mistake_in_a_program_surfaces(tmp_path: Path) -> None:
    async def broken(channel: Channel) -> None:
        raise KeyError("a bug")

    listener = await serve(local(tmp_path), None, Program().welcome, broken)
    channel = await connect(listener.addresses[0], None, OPERATOR, anybody)
    with pytest.raises(KeyError):
        await listener.wait()
    assert await channel.receive() == []
    await listener.close()


# Over TLS


@in_loop
async def test_a_router_reports_100_000_routes_over_tls(pki: Pki) -> None:
    program = Program()
    async with listening(TLS, pki.credentials(NODE), program) as listener:
        channel = await connect(listener.addresses[0], pki.credentials(ROUTER), HELLO, anybody)
        assert channel.session.peer_welcome == Welcome(wire.VERSION, Role.NODE, "n1", 1000)
        outbox = Outbox("r1")
        hops = (Hop(1, b"\xc0\0\2\1"),)
        for i in range(100_000):
            outbox.put(Route((i << 8).to_bytes(4, "big") + b"\x18", RouteKind.UNICAST, hops))
        outbox.restart()
        began = asyncio.get_running_loop().time()
        while messages := outbox.take():
            await channel.send(*messages)
        assert await channel.receive() == [Ack("r1", outbox.last_seq)]
        assert asyncio.get_running_loop().time() - began < 5  # 0.2 s on an idle machine
        assert len(program.inbox.facts) == 100_000
        await channel.close("done")


@in_loop
async def test_what_is_not_ours_to_serve_is_refused(pki: Pki) -> None:
    program = Program()
    async with listening(TLS, pki.credentials(NODE), program) as listener:
        where = listener.addresses[0]
        router = pki.credentials(ROUTER)
        for hello, text in (
            (Hello(wire.VERSION, Role.ROUTER, "r2"), "certificate says router/r1"),
            (Hello(wire.VERSION, Role.NODE, "r1"), "certificate says router/r1"),
            (Hello(wire.VERSION + 1, Role.ROUTER, "r1"), "protocol version"),
        ):
            with pytest.raises(RemoteProtocolError, match=text):
                await connect(where, router, hello, anybody)
        elsewhere = pki.credentials(Identity(Role.ROUTER, "elsewhere"))
        hello = Hello(wire.VERSION, Role.ROUTER, "elsewhere")
        with pytest.raises(RemoteProtocolError, match="no such router on this node"):
            await connect(where, elsewhere, hello, anybody)
        await until(lambda: listener.refusals == {Fault.IDENTITY: 3, Fault.VERSION: 1})
        assert not listener.channels


@in_loop
async def test_the_client_checks_whom_it_talks_to(pki: Pki) -> None:
    async with listening(TLS, pki.credentials(Identity(Role.ROUTER, "r9")), Program()) as listener:
        with pytest.raises(RemoteProtocolError, match="router/r9 is not whom we want: not a node") as caught:
            await connect(listener.addresses[0], pki.credentials(ROUTER), HELLO, lambda _: "not a node")
        assert caught.value.fault is Fault.IDENTITY


@in_loop
async def test_another_authority_is_refused_on_both_sides(pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Pki(tmp_path / "other")
    stranger, node = other.credentials(ROUTER), pki.credentials(NODE)
    async with listening(TLS, node, Program()) as listener:
        with pytest.raises(RemoteProtocolError, match="no TLS connection") as caught:
            await connect(listener.addresses[0], stranger, HELLO, anybody)
        assert caught.value.fault is Fault.CERTIFICATE
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        trusting.load_cert_chain(stranger.certificate, stranger.key)
        port = listener.addresses[0].port
        with contextlib.suppress(OSError):
            reader, _ = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
            assert await reader.read() == b""
        await until(lambda: listener.refusals.get(Fault.CERTIFICATE) == 1)


@in_loop
async def test_nobody_gets_in_without_a_certificate_or_without_tls(pki: Pki) -> None:
    async with listening(TLS, pki.credentials(NODE), Program()) as listener:
        port = listener.addresses[0].port
        anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anonymous.check_hostname, anonymous.verify_mode = False, ssl.CERT_NONE
        with contextlib.suppress(OSError):
            reader, _ = await asyncio.open_connection("127.0.0.1", port, ssl=anonymous)
            assert await reader.read() == b""
        await until(lambda: sum(listener.refusals.values()) == 1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(wire.encode(HELLO))
        with contextlib.suppress(OSError):
            await reader.read()
        await until(lambda: listener.refusals.get(Fault.TLS, 0) >= 1)
        writer.close()


@in_jumping_loop
async def test_a_revoked_router_is_refused_and_a_live_one_is_closed(pki: Pki) -> None:
    node, router = pki.credentials(NODE), pki.credentials(ROUTER)
    other = Identity(Role.ROUTER, "r2")
    other_router = pki.credentials(other)
    program = Program()
    async with listening(TLS, node, program) as listener:
        channel = await connect(listener.addresses[0], router, HELLO, anybody)
        bystander = await connect(listener.addresses[0], other_router, Hello(wire.VERSION, other.role, "r2"), anybody)
        pki.authority.revoke(ROUTER)
        pki.publish_crl(node)
        assert await channel.receive() == []
        assert "revoked" in channel.reason
        await until(lambda: listener.refusals == {Fault.CERTIFICATE: 1})
        with pytest.raises((RemoteProtocolError, OSError)):
            await connect(listener.addresses[0], router, HELLO, anybody)
        await until(lambda: listener.refusals == {Fault.CERTIFICATE: 2})
        assert bystander.is_open
        await bystander.send(Begin("r2"))


@in_jumping_loop
async def test_a_client_connects_again_when_its_own_files_change(pki: Pki) -> None:
    node, router = pki.credentials(NODE), pki.credentials(ROUTER)
    async with listening(TLS, node, Program()) as listener:
        channel = await connect(listener.addresses[0], router, HELLO, anybody)
        pki.authority.renew_crl()
        pki.publish_crl(router)
        assert await channel.receive() == []
        assert channel.reason.startswith("credentials changed")
        pki.authority.revoke(NODE)
        pki.publish_crl(router)
        with pytest.raises(RemoteProtocolError, match="revoked"):
            await connect(listener.addresses[0], router, HELLO, anybody)


@in_jumping_loop
async def test_a_broken_file_leaves_live_channels_alone(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    node, router = pki.credentials(NODE), pki.credentials(ROUTER)
    program = Program()
    async with listening(TLS, node, program) as listener:
        channel = await connect(listener.addresses[0], router, HELLO, anybody)
        assert node.crl is not None
        node.crl.write_text("half a fi")
        with caplog.at_level(logging.ERROR):
            await until(lambda: "the last good ones stay" in caplog.text)
        await channel.send(Begin("r1"))
        await until(lambda: program.messages == [Begin("r1")])
        again = await connect(listener.addresses[0], pki.credentials(Identity(Role.ROUTER, "r2")),
                              Hello(wire.VERSION, Role.ROUTER, "r2"), anybody)  # fmt: skip
        assert again.is_open


@in_jumping_loop
async def test_an_expired_certificate_is_closed_although_no_file_changed(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xenflow import guard, revocation
    from xenflow import listener as listener_module

    node, router = pki.credentials(NODE), pki.credentials(ROUTER)
    monkeypatch.setattr(listener_module, "RECHECK_S", 0.0)
    async with listening(TLS, node, Program()) as listener:
        channel = await connect(listener.addresses[0], router, HELLO, anybody)
        later = dt.datetime.now(dt.UTC) + dt.timedelta(days=4000)
        check = functools.partial(revocation.recheck_all, now=later)
        watched = listener._guard
        assert isinstance(watched, guard.Guard)
        monkeypatch.setattr(watched, "_recheck", check)
        assert await channel.receive() == []
        assert "expired" in channel.reason


@in_loop
async def test_a_flood_of_handshakes_leaves_others_unaffected(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    limits = ListenerLimits(per_peer=300, handshakes=8, burst=300, session=Limits(handshake_s=30))
    node, router = pki.credentials(NODE), pki.credentials(ROUTER)
    async with listening(TLS, node, Program(), limits) as listener:
        where = listener.addresses[0]
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(socket.create_connection((where.host, where.port)))
            channel = await connect(where, router, HELLO, anybody)
            assert channel.is_open
            await until(lambda: listener.refusals.get(Fault.TOO_MANY, 0) >= 190)
            assert len(listener._handshakes) <= 8
            assert caplog.text.count("too many handshakes") == 1


@in_loop
async def test_an_address_that_connects_too_often_is_refused_before_tls(pki: Pki) -> None:
    limits = ListenerLimits(rate_per_s=0.001, burst=2)
    async with listening(TLS, pki.credentials(NODE), Program(), limits) as listener:
        where, router = listener.addresses[0], pki.credentials(ROUTER)
        for _ in range(2):
            channel = await connect(where, router, HELLO, anybody)
            await channel.close("again")
        with pytest.raises((OSError, RemoteProtocolError)):
            await connect(where, router, HELLO, anybody)
        assert listener.refusals == {Fault.TOO_OFTEN: 1}


@in_loop
async def test_one_address_has_its_share_of_connections(pki: Pki) -> None:
    limits = ListenerLimits(per_peer=3)
    address = Address.parse("ssl:0.0.0.0:0")
    async with listening(address, pki.credentials(NODE), Program(), limits) as listener:
        port = listener.addresses[0].port
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            await until(lambda: listener.refusals.get(Fault.TOO_MANY) == 7)
            elsewhere = socket.create_connection(("127.0.0.2", port), source_address=("127.0.0.3", 0))
            stack.enter_context(elsewhere)
            await until(lambda: listener._peers == {"127.0.0.1": 3, "127.0.0.3": 1})
        await until(lambda: not listener._peers)


@in_loop
async def test_garbage_after_the_handshake_ends_that_channel_only(pki: Pki) -> None:
    node, router = pki.credentials(NODE), pki.credentials(ROUTER)
    program = Program()
    async with listening(TLS, node, program) as listener:
        bad, good = [await connect(listener.addresses[0], router, HELLO, anybody) for _ in range(2)]
        bad._writer.write(wire.encode(Begin("r1")) + b"\0\0\0\1\xc1")
        assert await bad.receive() == []
        assert "not a message" in bad.reason
        assert program.messages == [Begin("r1")]
        bad_size = [await connect(listener.addresses[0], router, HELLO, anybody)]
        bad_size[0]._writer.write(b"\xff\xff\xff\xff")
        assert await bad_size[0].receive() == []
        await until(lambda: listener.refusals == {Fault.GARBAGE: 1, Fault.OVERSIZED: 1})
        assert good.is_open


@in_loop
async def test_an_aborted_channel_leaves_nothing_for_the_kernel_to_send(pki: Pki) -> None:
    """The other side reads none of what was still to be sent: it is reset at once."""
    program = Program()
    async with listening(TLS, pki.credentials(NODE), program) as listener:
        channel = await connect(listener.addresses[0], pki.credentials(ROUTER), HELLO, anybody)
        await until(lambda: listener.channels)
        (theirs,) = listener.channels
        theirs.abort("its machine is gone")
        assert await channel.receive() == []
        assert "reset" in channel.reason
        await until(lambda: program.ended == ["its machine is gone"])


@in_loop
async def test_a_router_that_reports_nonsense_is_told_why(pki: Pki) -> None:
    async with listening(TLS, pki.credentials(NODE), Program()) as listener:
        channel = await connect(listener.addresses[0], pki.credentials(ROUTER), HELLO, anybody)
        await channel.send(Update("r1", 1))
        assert await channel.receive() == []
        assert "Begin" in channel.reason
        await until(lambda: listener.refusals == {Fault.SEQUENCE: 1})


def test_a_link_local_address_keeps_its_zone() -> None:
    index, name = socket.if_nameindex()[0]
    assert host_text(("fe80::1", 6655, 0, index)) == f"fe80::1%{name}"
    assert host_text(("fe80::1", 6655, 0, 0xFFFFFF)) == "fe80::1"
    assert host_text(("::1", 6655, 0, 0)) == "::1"
    assert host_text(("127.0.0.1", 6655)) == "127.0.0.1"


# What a person set up


@in_loop
async def test_addresses_that_cannot_be_listened_at(pki: Pki, tmp_path: Path) -> None:
    node = pki.credentials(NODE)
    async with listening(TLS, node, Program()) as listener:
        used = str(listener.addresses[0])
        for text, cause in (
            (used, "in use by another process; `ss -ltnp"),
            ("ssl:192.0.2.77:6654", "not an address of this machine"),
            ("ssl:[fe80::1%nosuch0]:6654", "network interface"),
            (f"unix:{tmp_path}/none/app.sock", "mkdir -p"),
            ("tcp:127.0.0.1:6654", "plain TCP"),
        ):
            with pytest.raises(ConfigError, match=cause):
                await serve(Address.parse(text), node, Program().welcome, Program().serve)
    with pytest.raises(ConfigError, match="credentials"):
        await serve(TLS, None, Program().welcome, Program().serve)


@in_loop
async def test_what_cannot_be_reached_is_an_os_error(pki: Pki) -> None:
    router = pki.credentials(ROUTER)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = Address.parse(f"ssl:127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(OSError):
            await connect(address, router, HELLO, anybody)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address.parse(f"ssl:127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(TimeoutError):
            await connect(address, router, HELLO, anybody, timeout_s=0.05)


def test_a_client_needs_neither_pyopenssl_nor_cryptography() -> None:
    code = "import sys, xenflow.channel; print([m for m in ('OpenSSL', 'cryptography') if m in sys.modules])"
    with os.popen(f'"{sys.executable}" -c "{code}"') as process:
        assert process.read().strip() == "[]"


@pytest.mark.parametrize("place", ["ssl:192.0.2.1:0", "ssl:[fe80::1%nowhere]:0"])
def test_an_address_that_may_come_by_itself_is_told_apart(place: str) -> None:
    with pytest.raises(UnavailableError, match=r"not an address of this|no such host address"):
        listen(Address.parse(place))


def test_an_address_in_use_does_not_go_by_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match="in use") as raised:
            listen(Address.parse(f"tcp:127.0.0.1:{port}"))
    assert not isinstance(raised.value, UnavailableError)

"""Channels over TLS: bulk, identities, refusals, floods, changed credentials."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import logging
import socket
import ssl
from pathlib import Path

import pytest

from tests.unit.xenflow.channels import (
    HELLO,
    NODE,
    ROUTER,
    TLS,
    Pki,
    Program,
    anybody,
    in_jumping_loop,
    in_loop,
    listening,
    until,
)
from xenflow import wire
from xenflow.address import Address
from xenflow.channel import Limits, ListenerLimits, connect
from xenflow.errors import Fault, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.model import Hop, Route, RouteKind
from xenflow.replica import Outbox
from xenflow.wire import Ack, Begin, Hello, Role, Update, Welcome


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


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

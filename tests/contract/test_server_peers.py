"""Bad clients against the real server process: refused, said once, and a good router's session goes on."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.contract.test_server_process import AGE, LINK, MAC, Site, client, directory, report, tell
from tests.private_ovsdb import RealWorld
from xenflow import wire
from xenflow.channel import Channel
from xenflow.errors import RemoteProtocolError
from xenflow.identity import Identity
from xenflow.model import Machine, Route, RouteKind, pack_prefix
from xenflow.pki import Authority, Issued
from xenflow.replica import Outbox
from xenflow.tls import Credentials
from xenflow.wire import NODE_SCOPE, VERSION, Begin, Hello, Role

pytestmark = [pytest.mark.ovs, pytest.mark.root]
__all__ = ["directory"]
HOST, PORT = "::1", 16657
EVIL_MAC = "02:00:00:00:00:66"
EVIL = f"""
[[router]]
name = "evil"
interface = [{{ mac = "{EVIL_MAC}", network = "a" }}]
"""
FLOOD = 150


class Good:
    """The router that everything must leave alone: it reports one more route after each attack."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._outbox = Outbox("r1")
        self._outbox.put(LINK)
        self._outbox.restart()
        self._routes = 0

    async def works(self) -> None:
        """Report a change, and see it acknowledged as installed."""
        self._routes += 1
        self._outbox.put(Route(pack_prefix(f"10.{self._routes}.0.0/16"), RouteKind.BLACKHOLE))
        await report(self._channel, self._outbox)
        assert self._channel.is_open


async def raw(credentials: Credentials, first: bytes) -> None:
    """Open a TLS connection, send `first`, and return once the other side has ended it."""
    context = credentials.client_context()
    reader, writer = await asyncio.open_connection(HOST, PORT, ssl=context, server_hostname="")
    writer.write(first)
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.drain()
        while await reader.read(4096):
            pass
    writer.close()


def hello(version: int = VERSION) -> bytes:
    return wire.encode(Hello(version, Role.ROUTER, "evil"))


def nothing(_authority: Authority) -> None:
    """Prepare nothing."""


def attacked(
    directory: Path,
    attacks: Callable[[Site, Good], Awaitable[None]],
    prepare: Callable[[Authority], None] = nothing,
) -> None:
    """Tell the story of a node with one good router, and of `attacks` on its server."""

    async def story(site: Site) -> None:
        (directory / "definitions.d" / "b.toml").write_text(EVIL)
        prepare(site.authority)
        world = await asyncio.to_thread(RealWorld, directory / "ovs")
        try:
            await asyncio.to_thread(world.add_port, "vif1", {"attached-mac": MAC})
            await asyncio.to_thread(world.add_port, "vif2", {"attached-mac": EVIL_MAC})
            process = await site.start()
            await site.until(lambda: site.in_sync(NODE_SCOPE) and (Machine.KIND, b"r1") in site.app[NODE_SCOPE].facts)
            good = Good(await client(site.credentials("router/r1")))
            await good.works()
            await attacks(site, good)
            await good.works()
            process.terminate()
            assert await process.wait() == 0
            assert not site.said("Traceback")
        finally:
            await asyncio.to_thread(world.close)

    tell(directory, story)


EVIL_IDENTITY = Identity.from_text("router/evil")


def unknown(authority: Authority) -> Issued:
    return Authority.create(authority.directory.parent / "stranger").issue(EVIL_IDENTITY)


def expired(authority: Authority) -> Issued:
    back_then = dt.datetime.now(dt.UTC) - AGE
    return Authority.open(authority.directory, clock=lambda: back_then).issue(EVIL_IDENTITY, days=3)


def revoked(authority: Authority) -> Issued:
    issued = authority.issue(EVIL_IDENTITY)
    authority.revoke(EVIL_IDENTITY)
    return issued


@pytest.mark.parametrize(
    ("issue", "why"),
    [(unknown, "issuer"), (expired, "expired"), (revoked, "revoked")],
    ids=["unknown", "expired", "revoked"],
)
def test_a_certificate_that_does_not_count(directory: Path, issue: Callable[[Authority], Issued], why: str) -> None:
    made: list[Issued] = []

    async def attacks(site: Site, good: Good) -> None:
        (issued,) = made
        await asyncio.gather(show(issued), show(issued))
        await site.until(lambda: site.said("fault=certificate"))
        (line,) = [line for line in site.log if "fault=certificate" in line]
        assert why in line

    attacked(directory, attacks, lambda authority: made.append(issue(authority)))


def test_somebody_else_s_identity(directory: Path) -> None:
    shown: dict[str, Credentials] = {}

    async def attacks(site: Site, good: Good) -> None:
        for identity, name in (("router/r2", "r1"), ("router/r2", "r2"), ("operator/eve", "r1"), ("node/n2", "r1")):
            if identity not in shown:
                shown[identity] = site.credentials(identity)
            with pytest.raises((RemoteProtocolError, OSError)):
                await client(shown[identity], name)
            await good.works()
        (line,) = [line for line in site.log if "fault=identity" in line]
        assert "says to be router/r1, its certificate says router/r2" in line

    attacked(directory, attacks)


async def show(issued: Issued) -> None:
    """Show a certificate that our own side would refuse to use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(issued.certificate, issued.key)
    reader, writer = await asyncio.open_connection(HOST, PORT, ssl=context)
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        writer.write(hello())
        while await reader.read(4096):
            pass
    writer.close()


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (hello(VERSION + 1), "version"),
        (b"GET / HTTP/1.1\r\n\r\n", "oversized"),
        (b"\xff\xff\xff\xff", "oversized"),
        (b"\0\0\0\3\xc1\xc1\xc1", "garbage"),
        (hello() + wire.encode(Begin("evil")) + b"\0\0\0\1\xc1", "garbage"),
        (hello()[:-3], "handshake-timeout"),
        (b"", "handshake-timeout"),
        (hello() + wire.encode(Begin("evil"))[:-1], "frame-timeout"),
    ],
    ids=["version", "http", "oversized", "garbage", "garbage later", "half a hello", "silence", "half a frame"],
)
def test_what_is_said_is_not_what_may_be_said(directory: Path, sent: bytes, fault: str) -> None:
    async def attacks(site: Site, good: Good) -> None:
        evil = site.credentials("router/evil")
        await asyncio.gather(raw(evil, sent), raw(evil, sent))
        await site.until(lambda: site.said(f"fault={fault}"))
        assert site.said(f"fault={fault}") == 1

    attacked(directory, attacks)


def test_floods(directory: Path) -> None:
    async def attacks(site: Site, good: Good) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(FLOOD):
                with contextlib.suppress(ConnectionError):
                    _, writer = await asyncio.open_connection(HOST, PORT)
                    stack.callback(writer.close)
            await good.works()
        bad = site.credentials("router/r2")
        for _ in range(FLOOD):
            with pytest.raises((RemoteProtocolError, OSError)):
                await client(bad, "r2")
        await good.works()
        assert sum("refused" in line for line in site.log) < 20

    attacked(directory, attacks)

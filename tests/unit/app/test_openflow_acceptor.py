"""The doors for switches on real sockets: who comes in, who does not; one bad peer costs the others nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest

from tests.fakes import clock
from xenflow.address import Address
from xenflow.errors import ConfigError, Fault, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.pki.authority import Authority
from xenflow.tls import Credentials
from xenflow_app import acceptor
from xenflow_app.acceptor import SwitchAcceptor, SwitchStream
from xenflow_app.terminator import Terminator

ANY_PORT = Address.parse("ssl:127.0.0.1:0")
NAMES = ("controller/app", "node/n1", "router/r1")


def asynchronous(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """Run a test in a loop of its own, by a clock that jumps."""

    @functools.wraps(test)
    def run(**fixtures: object) -> None:
        clock.run(test(**fixtures))

    return run


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.create(tmp_path_factory.mktemp("pki"))
    for name in NAMES:
        made.issue(Identity.from_text(name))
    return made


def credentials(authority: Authority, name: str) -> Credentials:
    return Credentials(authority.ca_path, *authority.paths(Identity.from_text(name)), authority.crl_path)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def echo(stream: SwitchStream) -> None:
    """Serve a switch: say its name, then repeat what it says."""
    stream.writer.write(f"{stream.node}\n".encode())
    while data := await stream.reader.read(1 << 16):
        if data == b"bad":
            raise RemoteProtocolError("said a bad word", Fault.CONTENT)
        stream.writer.write(data)


@contextlib.asynccontextmanager
async def opened(authority: Authority, max_switches: int = 100) -> AsyncIterator[SwitchAcceptor]:
    made = SwitchAcceptor(ANY_PORT, credentials(authority, "controller/app"), echo, max_switches)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


async def connect(
    address: Address, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    name = "xenflow" if context else None
    return await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname=name)


def refused(made: SwitchAcceptor, fault: Fault, count: int = 1) -> Callable[[], bool]:
    return lambda: made.refusals.counts.get(fault, 0) >= count


@asynchronous
async def test_a_node_comes_in_under_its_name(authority: Authority) -> None:
    async with opened(authority) as made:
        reader, writer = await connect(made.address, credentials(authority, "node/n1").client_context())
        assert await reader.readline() == b"n1\n"
        writer.write(b"hello")
        assert await reader.read(100) == b"hello"
        writer.write(b"bad")
        await until(refused(made, Fault.CONTENT))
        assert await reader.read() == b""
        writer.close()


@asynchronous
async def test_others_do_not(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority.create(tmp_path / "other")
    stranger.issue(Identity.from_text("node/n1"))
    async with opened(authority) as made:
        context = credentials(authority, "router/r1").client_context()
        reader, writer = await connect(made.address, context)
        assert await reader.read() == b""
        await until(refused(made, Fault.IDENTITY))
        writer.close()

        foreign = credentials(stranger, "node/n1").client_context()
        foreign.load_verify_locations(authority.ca_path)
        foreign.verify_flags &= ~ssl.VERIFY_CRL_CHECK_LEAF
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            reader, writer = await connect(made.address, foreign)
            await reader.read()
        await until(refused(made, Fault.CERTIFICATE))

        for said in (b"\1\0\0\x08\0\0\0\1", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x40\x00" + bytes(500)):
            reader, writer = await connect(made.address, None)
            writer.write(said)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
        await until(refused(made, Fault.TLS, 2))
        reader, _writer = await connect(made.address, credentials(authority, "node/n1").client_context())
        assert await reader.readline() == b"n1\n", "the next good one comes in"


@asynchronous
async def test_silence_has_a_deadline(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "HANDSHAKE_S", 0.05)
    async with opened(authority) as made:
        reader, _writer = await connect(made.address, None)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await until(refused(made, Fault.HANDSHAKE_TIMEOUT))


@asynchronous
async def test_a_flood_of_silent_peers_does_not_keep_a_switch_out(authority: Authority) -> None:
    async with opened(authority) as made:
        silent = [await connect(made.address, None) for _ in range(acceptor.HANDSHAKES_AT_ONCE + 20)]
        await until(refused(made, Fault.TOO_MANY, 20))
        reader, _writer = await connect(made.address, credentials(authority, "node/n1").client_context())
        assert await reader.readline() == b"n1\n"
        for _reader, writer in silent:
            writer.close()


@asynchronous
async def test_connections_are_bounded(authority: Authority) -> None:
    async with opened(authority, max_switches=2) as made:
        context = credentials(authority, "node/n1").client_context()
        held = [await connect(made.address, context) for _ in range(2)]
        for reader, _writer in held:
            assert await reader.readline() == b"n1\n"
        with pytest.raises(OSError):
            await connect(made.address, context)
        await until(refused(made, Fault.TOO_MANY))
        held[0][1].close()
        await held[0][0].read()


@asynchronous
async def test_a_revoked_node_is_thrown_out(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "pki")
    for name in NAMES:
        authority.issue(Identity.from_text(name))
    async with opened(authority) as made:
        reader, _writer = await connect(made.address, credentials(authority, "node/n1").client_context())
        assert await reader.readline() == b"n1\n"
        authority.revoke(Identity.from_text("node/n1"))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await until(refused(made, Fault.CERTIFICATE))


@asynchronous
async def test_plain_tcp_is_for_loopback(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="plain TCP is for loopback only"):
        SwitchAcceptor(Address.parse("tcp:0.0.0.0:0"), None, echo, 1)
    with pytest.raises(ConfigError, match="tcp: takes none"):
        SwitchAcceptor(Address.parse("tcp:127.0.0.1:0"), credentials(authority, "controller/app"), echo, 1)
    made = SwitchAcceptor(Address.parse("tcp:127.0.0.1:0"), None, echo, 1)
    await made.open()
    reader, _writer = await connect(made.address, None)
    assert await reader.readline() == b"None\n"
    await made.close()


@asynchronous
async def test_the_terminator_names_the_source_port(authority: Authority) -> None:
    seen: list[tuple[int, str | None]] = []

    async def pox(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        seen.append((port, terminator.node(port)))
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.close()

    server = await asyncio.start_server(pox, "127.0.0.1", 0)
    behind = Address.parse(f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}")
    terminator = Terminator(ANY_PORT, credentials(authority, "controller/app"), behind, 10)
    await terminator.open()
    context = credentials(authority, "node/n1").client_context()
    reader, writer = await connect(terminator.address, context)
    writer.write(b"hello")
    assert await reader.read(100) == b"HELLO"
    assert [node for _port, node in seen] == ["n1"]
    _other_reader, other = await connect(behind, None)
    await until(lambda: len(seen) == 2)
    assert seen[1][1] is None, "a connection that did not come through it has no name"
    other.close()

    terminator.refuse(seen[0][0], RemoteProtocolError("not among the nodes", Fault.IDENTITY))
    writer.close()
    await until(lambda: terminator.node(seen[0][0]) is None)
    assert terminator.refusals.counts == {Fault.IDENTITY: 1}

    server.close()
    await server.wait_closed()
    reader, writer = await connect(terminator.address, context)
    assert await reader.read() == b""
    assert terminator.refusals.counts[Fault.REFUSED] == 1
    await terminator.close()

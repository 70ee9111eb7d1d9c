"""The connection to a server: real TLS on the loopback interface, a real listener at the other end,
and a clock that does not wait."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from tests.fakes import clock
from xenflow.address import Address
from xenflow.channel import Channel, Listener, serve
from xenflow.errors import RemoteProtocolError
from xenflow.identity import Identity
from xenflow.model import Link, Neighbor, Route, RouteKind, ShedRoutes
from xenflow.pki import Authority
from xenflow.replica import Inbox, Outbox
from xenflow.tls import TlsFiles
from xenflow.wire import VERSION, Ack, Announce, Announced, Begin, End, Hello, Role, Update, Welcome
from xenflow_client import uplink
from xenflow_client.report import Report
from xenflow_client.settings import ClientSettings
from xenflow_client.uplink import Uplink, new_epoch

LINK = Link(2, "eth0", b"\x02\0\0\0\0\1", 1500, True)
ROUTES = [Route(bytes([10, number, 0, 0, 16 + number]), RouteKind.BLACKHOLE) for number in range(1, 9)]


class Server:
    """A server that keeps what is reported, acknowledges it, and counts who came."""

    def __init__(self, tls: TlsFiles, port: int, max_routes: int = 0) -> None:
        self.address = Address.parse(f"ssl:127.0.0.1:{port}")
        self.tls = tls
        self.max_routes = max_routes
        self.inbox = Inbox("r1")
        self.hellos: list[Hello] = []
        self.ended: list[str] = []
        self.channels: list[Channel] = []
        self.refuse = ""
        self._listener: Listener | None = None

    def _welcome(self, hello: Hello, identity: Identity) -> Welcome:
        self.hellos.append(hello)
        if self.refuse:
            raise RemoteProtocolError(self.refuse)
        return Welcome(VERSION, Role.NODE, "n1", self.max_routes)

    async def _serve(self, channel: Channel) -> None:
        self.channels.append(channel)
        async for message in channel:
            if isinstance(message, Begin | Update | End):
                self.inbox.receive(message)
            if isinstance(message, End):
                await channel.send(Ack("r1", message.seq))
        self.ended.append(channel.reason)
        self.inbox.suspend()

    async def start(self) -> None:
        self._listener = await serve(self.address, self.tls.credentials(), self._welcome, self._serve)

    async def stop(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "pki")


def files(authority: Authority, who: str) -> TlsFiles:
    issued = authority.issue(Identity.parse(f"xenflow:{who}"), force=True)
    return TlsFiles(authority.ca_path, issued.certificate, issued.key, authority.crl_path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def reached(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.05)  # by the clock that jumps


class FakeAnnouncer:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.log: list[object] = []

    def start(self, order: Announce, local: tuple[str, int]) -> None:
        self.log.append((order, local))

    def confirmed(self, epoch: int) -> None:
        self.log.append(epoch)

    def stop(self) -> None:
        self.log.append("end")


class Bench:
    """A client's reporting half and a server for it."""

    def __init__(self, authority: Authority, server_is: str = "node/n1", max_routes: int = 0, cap: int = 0) -> None:
        self.server = Server(files(authority, server_is), free_port(), cap)
        self.report = Report(Outbox("r1"))
        settings = ClientSettings("r1", self.server.address, files(authority, "router/r1"), max_routes)
        self.announced = FakeAnnouncer()
        self.uplink = Uplink(settings, self.report, self.announced)
        self.report.put(LINK)
        for route in ROUTES:
            self.report.put(route)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.server.start()
        task = asyncio.create_task(self.uplink.run())
        try:
            yield
        finally:
            await self.uplink.close("the test is over")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.server.stop()


def play(scenario: Coroutine[None, None, None]) -> None:
    clock.run(asyncio.wait_for(scenario, 30))


def test_snapshot_then_changes_then_acknowledged(authority: Authority) -> None:
    async def scenario() -> None:
        bench = Bench(authority)
        async with bench.running():
            await reached(lambda: bench.server.inbox.in_sync)
            assert dict(bench.server.inbox.facts) == dict(bench.report.outbox.facts)
            await reached(lambda: bench.uplink.installed == bench.report.outbox.last_seq)
            neighbor = Neighbor(2, b"\x0a\0\0\2", b"\x02\0\0\0\0\2")
            bench.report.put(neighbor)
            bench.report.drop(Route.KIND, ROUTES[0].prefix)
            bench.uplink.changed()
            await reached(lambda: dict(bench.server.inbox.facts) == dict(bench.report.outbox.facts))
            assert (Neighbor.KIND, neighbor.key) in bench.server.inbox.facts

    play(scenario())


def test_server_that_comes_back_is_found_at_once_and_told_everything(authority: Authority) -> None:
    async def scenario() -> None:
        bench = Bench(authority)
        async with bench.running():
            await reached(lambda: bench.server.inbox.in_sync)
            await bench.server.stop()
            await reached(lambda: not bench.server.inbox.in_sync)
            bench.report.drop(Route.KIND, ROUTES[0].prefix)
            bench.report.put(Route(ROUTES[1].prefix, RouteKind.SLOW))
            bench.uplink.changed()
            bench.server.inbox = Inbox("r1")
            await bench.server.start()
            began = asyncio.get_running_loop().time()
            await reached(lambda: bench.server.inbox.in_sync)
            assert asyncio.get_running_loop().time() - began < 2.0  # 0.5 s, and what a busy machine adds
            assert dict(bench.server.inbox.facts) == dict(bench.report.outbox.facts)
        first, second = (hello.epoch for hello in bench.server.hellos[-2:])
        assert first < second

    play(scenario())


@asynccontextmanager
async def slow_way(to: Address, late_s: float) -> AsyncIterator[Address]:
    """A relay to a server; what the server says first comes late, as between machines with little processor time."""

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, late_s: float = 0) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                await asyncio.sleep(late_s)
                late_s = 0
                target.write(data)
        target.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(to.host, to.port)
        await asyncio.gather(copy(reader, back), copy(there, writer, late_s))

    port = free_port()
    async with await asyncio.start_server(relay, "127.0.0.1", port):
        yield Address.parse(f"ssl:127.0.0.1:{port}")


def test_a_machine_that_is_slow_gets_the_time_that_a_handshake_takes_it(authority: Authority) -> None:
    async def scenario() -> None:
        bench = Bench(authority)
        async with slow_way(bench.server.address, 2.0) as address:
            bench.uplink.apply(msgspec.structs.replace(bench.uplink.settings, server=address))
            async with bench.running():
                await reached(lambda: bench.server.inbox.in_sync, 20)

    play(scenario())


def test_a_slow_machine_needs_one_attempt_once_it_knows(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It moves, and its next server is no faster: no attempt is given up on the way."""
    monkeypatch.setattr(uplink, "_STEADY_S", 0.0)

    async def scenario() -> None:
        bench = Bench(authority)
        async with slow_way(bench.server.address, 2.0) as address:
            bench.uplink.apply(msgspec.structs.replace(bench.uplink.settings, server=address))
            async with bench.running():
                await reached(lambda: bench.uplink.installed > 0, 20)
                caplog.clear()
                bench.server.inbox = Inbox("r1")
                await bench.server.channels[-1].close("the router has moved")
                await reached(lambda: bench.server.inbox.in_sync, 20)
        assert not [record for record in caplog.records if "TimeoutError" in record.getMessage()]

    play(scenario())


@pytest.mark.parametrize(("ours", "theirs"), [(3, 0), (0, 3), (3, 5), (5, 3)])
def test_the_lower_cap_counts(authority: Authority, ours: int, theirs: int) -> None:
    async def scenario() -> None:
        bench = Bench(authority, max_routes=ours, cap=theirs)
        async with bench.running():
            await reached(lambda: bench.server.inbox.in_sync)
            facts = bench.server.inbox.facts
            assert set(facts.of(Route.KIND)) == {route.prefix for route in ROUTES[-3:]}
            assert facts.of(ShedRoutes.KIND)[b""] == ShedRoutes(5)

    play(scenario())


def test_cap_that_goes_is_undone(authority: Authority) -> None:
    async def scenario() -> None:
        bench = Bench(authority, cap=3)
        async with bench.running():
            await reached(lambda: bench.server.inbox.in_sync)
            bench.server.max_routes = 0
            bench.server.inbox = Inbox("r1")
            await bench.server.channels[-1].close("limits changed")
            await reached(lambda: bench.server.inbox.in_sync)
            assert len(bench.server.inbox.facts.of(Route.KIND)) == len(ROUTES)
            assert not bench.server.inbox.facts.of(ShedRoutes.KIND)

    play(scenario())


def test_who_is_not_a_node_is_not_told_anything(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bench = Bench(authority, server_is="router/r2")
        async with bench.running():
            await reached(lambda: "not a node" in caplog.text)
            assert not bench.server.hellos

    play(scenario())


def test_refusal_is_logged_once_and_tried_again(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bench = Bench(authority)
        bench.server.refuse = "this router does not run here"
        async with bench.running():
            await reached(lambda: len(bench.server.hellos) >= 4)
            said = [record for record in caplog.records if record.name == "xenflow_client.uplink"]
            assert len(said) == 1
            bench.server.refuse = ""
            await reached(lambda: bench.server.inbox.in_sync)

    play(scenario())


def test_says_bye(authority: Authority) -> None:
    async def scenario() -> None:
        bench = Bench(authority)
        async with bench.running():
            await reached(lambda: bench.server.inbox.in_sync)
        await reached(lambda: bool(bench.server.ended))
        assert "the test is over" in bench.server.ended[0]

    play(scenario())


def test_epochs_grow() -> None:
    first = new_epoch()
    assert first > 1_700_000_000_000
    assert new_epoch(first) > first
    assert new_epoch(first + 10**9) == first + 10**9 + 1  # a clock that was set back


def test_announcements_are_carried_out_until_the_session_ends(authority: Authority) -> None:
    async def scenario() -> None:
        bench = Bench(authority)
        async with bench.running():
            await reached(lambda: bench.server.inbox.in_sync)
            order = Announce("r1", 3, b"key")
            await bench.server.channels[-1].send(order, Announced("r1", 3))
            await reached(lambda: len(bench.announced.log) == 2)
            assert bench.announced.log == [(order, ("127.0.0.1", 0)), 3]
            await bench.server.channels[-1].close("restart")
            await reached(lambda: bench.announced.log[2:3] == ["end"])

    play(scenario())

"""The command itself: real Open vSwitch, real TLS; app and client are played by the test."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.private_ovsdb import BRIDGE, RealWorld
from xenflow.address import Address
from xenflow.channel import Channel, Listener, connect, serve
from xenflow.errors import RemoteProtocolError
from xenflow.identity import Identity
from xenflow.model import Alarm, Hop, Link, Machine, Port, Route, RouteKind, pack_mac, pack_prefix
from xenflow.pki import Authority
from xenflow.replica import Inbox, Outbox
from xenflow.resources import Granted, Resources
from xenflow.tls import Credentials
from xenflow.wire import NODE_SCOPE, VERSION, Ack, Begin, Close, Confirm, Confirmed, End, Hello, Role, Update, Welcome

pytestmark = [pytest.mark.ovs, pytest.mark.root]
PATIENCE_S = 30.0
AGE = dt.timedelta(days=5)
"""Of the authority: a certificate that it issued for less has expired."""
MAC = "02:00:00:00:00:01"
DEFINITIONS = f"""
[[network]]
name = "a"
vid = 10
[[router]]
name = "r1"
[[router.interface]]
mac = "{MAC}"
network = "a"
"""
LINK = Link(5, "eth1", pack_mac(MAC), 1500, True)


class Site:
    """Files, certificates and addresses of one node; the test is the app."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        Authority.create(directory / "pki", clock=lambda: dt.datetime.now(dt.UTC) - AGE)
        self.authority = Authority.open(directory / "pki")
        self.app: dict[str, Inbox] = {}
        self.closed: list[str] = []
        self.confirmed: list[int] = []
        self.server: Channel | None = None
        self.log: list[str] = []
        self._running: list[tuple[asyncio.subprocess.Process, asyncio.Task[None]]] = []
        self._changed = asyncio.Event()

    def credentials(self, identity: str) -> Credentials:
        issued = self.authority.issue(Identity.from_text(identity))
        return Credentials(self.authority.ca_path, issued.certificate, issued.key, self.authority.crl_path)

    async def listen(self) -> Listener:
        """Play the app; write the settings that lead to it."""

        def welcome(hello: Hello, peer: Identity) -> Welcome:
            return Welcome(VERSION, Role.CONTROLLER, "app")

        address = Address.parse("ssl:127.0.0.1:0")
        listener = await serve(address, self.credentials("controller/app"), welcome, self._serve)
        files = self.credentials("node/n1")
        (self.directory / "definitions.d").mkdir()
        (self.directory / "definitions.d" / "a.toml").write_text(DEFINITIONS)
        (self.directory / "server.toml").write_text(
            f'node = "n1"\napp = "{listener.addresses[0]}"\nlisten = "ssl:[::1]:16657"\ndefinitions = "definitions.d"\n'
            f'[tls]\nca = "{files.ca}"\ncertificate = "{files.certificate}"\nkey = "{files.key}"\ncrl = "{files.crl}"\n'
            f'[ovs]\ndatabase = "unix:{self.directory}/ovs/db.sock"\nrundir = "ovs"\nbridge = "{BRIDGE}"\n'
        )
        return listener

    async def start(self) -> asyncio.subprocess.Process:
        command = (sys.executable, "-m", "xenflow_server.main", "--config", str(self.directory / "server.toml"))
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        self._running.append((process, asyncio.create_task(self._read(process))))
        return process

    async def stop(self) -> None:
        """Leave no process behind."""
        for process, reading in self._running:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def said(self, text: str) -> int:
        return sum(text in line for line in self.log)

    def in_sync(self, scope: str) -> bool:
        return scope in self.app and self.app[scope].in_sync

    async def _serve(self, channel: Channel) -> None:
        self.server = channel
        self.app.clear()
        async for message in channel:
            if isinstance(message, Begin | Update | End):
                inbox = self.app.setdefault(message.scope, Inbox())
                inbox.receive(message)
                if inbox.in_sync:
                    await channel.send(Ack(message.scope, inbox.seq))
            elif isinstance(message, Close):
                self.closed.append(message.scope)
            elif isinstance(message, Confirmed):
                self.confirmed.append(message.token)
            self._changed.set()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            self.log.append(line.decode().rstrip())
            self._changed.set()


async def client(credentials: Credentials, name: str = "r1", address: str = "ssl:[::1]:16657") -> Channel:
    hello = Hello(VERSION, Role.ROUTER, name)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await connect(Address.parse(address), credentials, hello, lambda peer: None)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)


async def report(channel: Channel, outbox: Outbox) -> None:
    """Send everything, and return when it is acknowledged as installed."""
    while outbox.pending:
        await channel.send(*outbox.take())
    async with asyncio.timeout(PATIENCE_S):
        async for message in channel:
            if isinstance(message, Ack) and message.seq == outbox.last_seq:
                return
    raise AssertionError(f"closed: {channel.reason}")


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="xft") as name:
        (Path(name) / "ovs").mkdir()
        yield Path(name)


def tell(directory: Path, story: Callable[[Site], Awaitable[None]]) -> None:
    async def run() -> None:
        site = Site(directory)
        listener = await site.listen()
        try:
            await story(site)
        except BaseException:
            print("\n".join(site.log))
            raise
        finally:
            await site.stop()
            await listener.close()

    asyncio.run(run())


def test_a_life_of_the_server(directory: Path) -> None:
    async def story(site: Site) -> None:
        process = await site.start()
        await site.until(lambda: site.said("is Open vSwitch running"))
        assert NODE_SCOPE not in site.app
        world = await asyncio.to_thread(RealWorld, directory / "ovs")
        try:
            await lives(site, world, process)
        finally:
            await asyncio.to_thread(world.close)

    async def lives(site: Site, world: RealWorld, process: asyncio.subprocess.Process) -> None:
        await asyncio.to_thread(world.add_port, "vif1", {"attached-mac": MAC})
        await site.until(lambda: site.in_sync(NODE_SCOPE) and (Machine.KIND, b"r1") in site.app[NODE_SCOPE].facts)
        assert site.said("is Open vSwitch running") == 1
        with pytest.raises(RemoteProtocolError, match="no definition of router r2"):
            await client(site.credentials("router/r2"), "r2")
        r1 = site.credentials("router/r1")
        outbox = Outbox("r1")
        outbox.put(LINK)
        outbox.put(Route(pack_prefix("10.1.0.0/16"), RouteKind.UNICAST, (Hop(5, bytes([10, 0, 0, 2])),)))
        outbox.restart()
        channel = await client(r1)
        await report(channel, outbox)
        assert site.server is not None
        await site.server.send(Confirm(9))
        await site.until(lambda: site.confirmed == [9])

        process.send_signal(signal.SIGKILL)
        await process.wait()
        site.app = {}
        process = await site.start()
        await site.until(lambda: site.in_sync(NODE_SCOPE))
        assert "r1" not in site.app  # it runs here, but has not reported to this server yet
        channel = await client(r1)
        outbox.restart()
        await report(channel, outbox)
        assert site.in_sync("r1")
        await asyncio.to_thread(world.remove_port, "vif1")
        await site.until(lambda: site.closed == ["r1"])
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0

    tell(directory, story)


def test_an_address_in_use_is_said_and_ends_it(directory: Path) -> None:
    async def story(site: Site) -> None:
        other = await asyncio.start_server(lambda reader, writer: writer.close(), "::1", 16657)
        process = await site.start()
        assert await process.wait() == 2
        await site.stop()
        assert site.said("listen at ssl:[::1]:16657") == 1
        other.close()

    tell(directory, story)


def test_a_control_network_that_comes_late_goes_and_is_made_anew(directory: Path) -> None:
    """The node is served all the time; clients connect whenever the interface is there."""
    bridge = f"xfg{os.getpid() % 100000}"
    add = f"ip link add {bridge} type bridge && ip address add fe80::1/64 dev {bridge} nodad && ip link set {bridge} up"

    async def ip(command: str) -> None:
        assert await (await asyncio.create_subprocess_shell(command)).wait() == 0

    def alarms(site: Site) -> list[str]:
        facts = site.app[NODE_SCOPE].facts.of(Alarm.KIND).values() if NODE_SCOPE in site.app else ()
        return [fact.text for fact in facts if isinstance(fact, Alarm)]

    async def connected(credentials: Credentials) -> bool:
        with pytest.raises(RemoteProtocolError, match="no definition of router r2"):
            await client(credentials, "r2", f"ssl:[fe80::1%{bridge}]:16657")
        return True

    async def story(site: Site) -> None:
        world = await asyncio.to_thread(RealWorld, directory / "ovs")
        settings = directory / "server.toml"
        settings.write_text(settings.read_text().replace("[::1]", f"[fe80::1%{bridge}]"))
        try:
            process, r2 = await site.start(), site.credentials("router/r2")
            await site.until(lambda: site.in_sync(NODE_SCOPE) and alarms(site))
            assert f"clients cannot connect: listen at ssl:[fe80::1%{bridge}]:16657: no such host" in alarms(site)[0]
            for _ in range(2):
                await ip(add)
                await site.until(lambda: not alarms(site))
                assert await connected(r2)
                await ip(f"ip link del {bridge}")
                await site.until(lambda: alarms(site))
            assert process.returncode is None
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        finally:
            await (await asyncio.create_subprocess_shell(f"ip link del {bridge} 2>/dev/null")).wait()
            await asyncio.to_thread(world.close)

    tell(directory, story)


@pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="needs python3-libvirt")
def test_a_server_that_asks_libvirt(directory: Path) -> None:
    """libvirt's test driver has one machine, made up by libvirt itself."""
    mac, machine = "aa:bb:cc:dd:ee:ff", "6695eb01-f6a4-8304-79aa-97f2502e193f"

    def granted(site: Site) -> object:
        return site.app[NODE_SCOPE].facts.of(Granted.KIND).get(b"r1")

    async def story(site: Site) -> None:
        wants = 'name = "r1"\nmemory_mib = 1024\nvcpus = {}\ncpu_cap = 50'
        definitions = DEFINITIONS.replace(MAC, mac).replace('name = "r1"', wants)
        (directory / "definitions.d" / "a.toml").write_text(definitions.format(1))
        with (directory / "server.toml").open("a") as settings:
            settings.write('[hypervisor]\nuri = "test:///default"\n')
        world = await asyncio.to_thread(RealWorld, directory / "ovs")
        try:
            process = await site.start()
            await site.until(lambda: site.in_sync(NODE_SCOPE) and (Machine.KIND, b"r1") in site.app[NODE_SCOPE].facts)
            await asyncio.to_thread(world.add_port, "vif1", {"attached-mac": mac, "vm-id": machine[::-1]})
            await site.until(lambda: site.said("but is not that machine's: left out"))
            await asyncio.to_thread(world.set_external_ids, "vif1", {"vm-id": machine})
            await site.until(lambda: site.app[NODE_SCOPE].facts.of(Port.KIND))
            no_cap = "cpu_cap = 50: libvirt's scheduler 'fair' of this machine has no such setting"
            await site.until(lambda: granted(site) == Granted("r1", Resources(1024, 1, 50), (no_cap,)))
            assert (Alarm.KIND, f"router r1: {no_cap}".encode()) in site.app[NODE_SCOPE].facts
            (directory / "definitions.d" / "a.toml").write_text(definitions.format(2))
            process.send_signal(signal.SIGHUP)
            await site.until(lambda: granted(site) == Granted("r1", Resources(1024, 2, 50), (no_cap,)))
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        finally:
            await asyncio.to_thread(world.close)

    tell(directory, story)

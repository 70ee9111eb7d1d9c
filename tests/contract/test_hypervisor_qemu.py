"""Real live migrations between two libvirtd with QEMU: what the server hears, and how the program that moves ends."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_hypervisor import Watched
from tests.private_libvirt import DOMAIN, QEMU, PrivateLibvirt, lacks, noise
from tests.private_ovs import wait_until
from xenflow_server.domains import Ended, Lost, Phase, Saying, Seen, Snapshot
from xenflow_server.migrate import CANCELLED

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(lacks()), reason=lacks() or "-"),
    pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="needs python3-libvirt"),
]
UUID = "0a1b2c3d-0000-4000-8000-00000000000c"


class Hosts:
    """Two hosts, and one machine that starts on the first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source, self.target = PrivateLibvirt(directory / "a"), PrivateLibvirt(directory / "b")
        self.memory = noise(directory)

    def begin(self, *, slow: bool) -> None:
        import libvirt

        connection = libvirt.open(self.source.uri)
        domain = connection.createXML(DOMAIN.format(name="r1", uuid=UUID, qemu=QEMU, memory=self.memory))
        if slow:
            domain.migrateSetMaxSpeed(1)
        connection.close()

    def end(self) -> None:
        import libvirt

        for host in (self.source, self.target):
            connection = libvirt.open(host.uri)
            for domain in connection.listAllDomains():
                domain.destroy()
            connection.close()

    def move(self) -> subprocess.Popen[str]:
        stream = self.directory / "stream.sock"
        stream.unlink(missing_ok=True)
        places = ["--hypervisor", self.source.uri, "--to", self.target.uri, "--stream", f"unix://{stream}"]
        argv = [sys.executable, "-m", "xenflow_server.migrate", "--machine", UUID, *places]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def pair() -> Iterator[Hosts]:
    directory = Path(tempfile.mkdtemp(prefix="xfv"))
    hosts = Hosts(directory)
    try:
        hosts.source.start()
        hosts.target.start()
        yield hosts
    finally:
        hosts.source.stop()
        hosts.target.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def hosts(pair: Hosts) -> Iterator[Hosts]:
    yield pair
    pair.end()


class Ears(Watched):
    """What is heard of one host, in order."""

    def __init__(self, uri: str) -> None:
        from xenflow_server.libvirt_adapter import LibvirtWatcher

        super().__init__()
        self.said: list[Saying] = []
        self.task = asyncio.create_task(LibvirtWatcher(uri).run(self.note))

    def note(self, saying: Saying) -> None:
        self.said.append(saying)
        self.hear(saying)

    @property
    def phases(self) -> list[object]:
        """The phases of the machine, repeated ones left out, and its end."""
        found: list[object] = []
        for one in self.said:
            now: Any = None
            if isinstance(one, Seen):
                now = one.domain.phase
            elif isinstance(one, Ended):
                now = one.moved
            elif isinstance(one, Snapshot) and one.domains:
                now = one.domains[0].phase
            if now is not None and found[-1:] != [now]:
                found.append(now)
        return found

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_live_migration_is_heard(hosts: Hosts, end: str) -> None:
    """libvirt's event loop serves one watcher in a process, as in the server: each end has a run of its own."""

    async def story() -> None:
        hosts.begin(slow=False)
        ears = Ears((hosts.source if end == "source" else hosts.target).uri)
        await ears.until(lambda domains: domains.known)
        move = hosts.move()
        out, complaint = await asyncio.to_thread(move.communicate, None, 60)
        assert (move.returncode, complaint) == (0, ""), out
        if end == "source":
            await ears.until(lambda _: ears.phases[-1:] == [True])
            assert ears.phases == [Phase.RUNNING, Phase.LEAVING, True]
        else:
            await ears.until(lambda _: ears.phases[-1:] == [Phase.RUNNING])
            assert ears.phases == [Phase.INCOMING, Phase.RUNNING]
        await ears.close()

    asyncio.run(story())


def test_a_migration_that_is_cancelled_leaves_the_machine_where_it_is(hosts: Hosts) -> None:
    hosts.begin(slow=True)
    move = hosts.move()
    assert move.stdout is not None
    assert move.stdout.readline().strip().endswith("%")
    move.send_signal(signal.SIGTERM)
    _, complaint = move.communicate(timeout=60)
    assert (move.returncode, complaint.strip().splitlines()[-1]) == (1, CANCELLED)
    assert places(hosts) == (True, False)


def test_libvirtd_killed_in_the_middle_of_a_migration(hosts: Hosts) -> None:
    async def story() -> None:
        hosts.begin(slow=True)
        ears = Ears(hosts.source.uri)
        await ears.until(lambda domains: domains.known)
        move = hosts.move()
        assert move.stdout is not None
        assert (await asyncio.to_thread(move.stdout.readline)).strip().endswith("%")
        hosts.source.kill()
        await ears.until(lambda domains: bool(domains.lost))
        await asyncio.to_thread(hosts.source.start)
        await ears.until(lambda domains: not domains.lost)
        _, complaint = await asyncio.to_thread(move.communicate, None, 90)
        assert move.returncode == 1
        assert complaint.strip()
        assert ears.phases[-1] in (Phase.RUNNING, Phase.LEAVING)
        assert any(isinstance(one, Lost) for one in ears.said)
        assert not any(isinstance(one, Ended) for one in ears.said)
        await ears.close()

    asyncio.run(story())
    wait_until(lambda: places(hosts) == (True, False), "the machine is on the source, and there alone")


def places(hosts: Hosts) -> tuple[bool | None, bool | None]:
    from xenflow_server.libvirt_adapter import LibvirtMove

    move = LibvirtMove(hosts.source.uri, UUID, hosts.target.uri)
    return move.here(), move.there()

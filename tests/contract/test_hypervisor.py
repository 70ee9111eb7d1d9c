"""One suite for everything that tells which machines run here: the model, and libvirt's own test driver.

libvirt's test driver has a life-cycle, events and interfaces, but no daemon, no migration and no hot-plug.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

import pytest

from tests.fakes.hypervisor import FakeHypervisor
from xenflow_server.domains import Domains, Saying
from xenflow_server.hypervisor import Watcher

PATIENCE_S = 20.0
A, B = "0a1b2c3d-0000-4000-8000-00000000000a", "0a1b2c3d-0000-4000-8000-00000000000b"
M1, M2 = (bytes([2, 0, 0, 0, 9, number]) for number in (1, 2))
URI = "test:///default"
XML = """<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>1</memory>
<os><type>hvm</type></os><devices>{interfaces}</devices></domain>"""
INTERFACE = """<interface type='bridge'><mac address='{mac}'/><source bridge='xenbr0'/>
<virtualport type='openvswitch'/><vlan><tag id='4095'/></vlan></interface>"""


class World(Protocol):
    """Somebody who starts and ends machines."""

    watcher: Watcher

    def start(self, uuid: str, name: str, *macs: bytes) -> None: ...
    def pause(self, uuid: str) -> None: ...
    def resume(self, uuid: str) -> None: ...
    def destroy(self, uuid: str) -> None: ...
    def rename(self, uuid: str, name: str) -> None: ...
    def close(self) -> None: ...


class ModelWorld:
    def __init__(self) -> None:
        self.watcher = FakeHypervisor()
        self._macs: dict[str, tuple[bytes, ...]] = {}

    def start(self, uuid: str, name: str, *macs: bytes) -> None:
        self._macs[uuid] = macs
        self.watcher.start(uuid, name, *macs)

    def pause(self, uuid: str) -> None:
        self.watcher.pause(uuid)

    def resume(self, uuid: str) -> None:
        self.watcher.resume(uuid)

    def destroy(self, uuid: str) -> None:
        self.watcher.end(uuid)

    def rename(self, uuid: str, name: str) -> None:
        self.destroy(uuid)
        self.start(uuid, name, *self._macs[uuid])

    def close(self) -> None:
        pass


class LibvirtWorld:
    """The test driver: its machines live in this process, and are shared by all of its connections."""

    def __init__(self) -> None:
        import libvirt

        from xenflow_server.libvirt_adapter import LibvirtWatcher, prepare

        prepare()
        self.watcher = LibvirtWatcher(URI)
        self._connection = libvirt.open(URI)
        self._error = libvirt.libvirtError

    def start(self, uuid: str, name: str, *macs: bytes) -> None:
        interfaces = "".join(INTERFACE.format(mac=mac.hex(":")) for mac in macs)
        self._connection.defineXML(XML.format(name=name, uuid=uuid, interfaces=interfaces)).create()

    def pause(self, uuid: str) -> None:
        self._connection.lookupByUUIDString(uuid).suspend()

    def resume(self, uuid: str) -> None:
        self._connection.lookupByUUIDString(uuid).resume()

    def destroy(self, uuid: str) -> None:
        self._connection.lookupByUUIDString(uuid).destroy()

    def rename(self, uuid: str, name: str) -> None:
        domain = self._connection.lookupByUUIDString(uuid)
        domain.destroy()
        domain.rename(name)
        domain.create()

    def close(self) -> None:
        for uuid in (A, B):
            with contextlib.suppress(self._error):
                domain = self._connection.lookupByUUIDString(uuid)
                with contextlib.suppress(self._error):
                    domain.destroy()
                domain.undefine()
        self._connection.close()


class Watched:
    """What the server makes of what it hears."""

    def __init__(self) -> None:
        self.domains = Domains()
        self._heard = asyncio.Event()

    def hear(self, saying: Saying) -> None:
        self.domains.take(saying)
        self._heard.set()

    async def until(self, condition: Callable[[Domains], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self.domains):
                self._heard.clear()
                await self._heard.wait()


@contextlib.asynccontextmanager
async def watching(world: World) -> AsyncIterator[Watched]:
    watched = Watched()
    task = asyncio.create_task(world.watcher.run(watched.hear))
    try:
        await watched.until(lambda domains: domains.known)
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


needs_libvirt = pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="needs python3-libvirt")


@pytest.fixture(params=["model", pytest.param("libvirt", marks=needs_libvirt)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def play(kind: str, story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        world: World = ModelWorld() if kind == "model" else LibvirtWorld()
        try:
            await story(world)
        finally:
            world.close()

    asyncio.run(run())


def test_a_machine_that_was_there_before(kind: str) -> None:
    async def story(world: World) -> None:
        world.start(A, "r1", M1, M2)
        async with watching(world) as watched:
            await watched.until(lambda domains: domains.owners.items() >= {M1: A, M2: A}.items())
            assert watched.domains.name(A) == "r1"

    play(kind, story)


def test_started_paused_resumed_destroyed(kind: str) -> None:
    async def story(world: World) -> None:
        async with watching(world) as watched:
            world.start(A, "r1", M1)
            await watched.until(lambda domains: domains.owners.get(M1) == A)
            world.pause(A)
            world.start(B, "r2", M2)  # what is told after a pause: the pause has been heard by then
            await watched.until(lambda domains: domains.owners.get(M2) == B)
            assert watched.domains.owners.get(M1) == A, "a paused machine is here"
            world.resume(A)
            world.destroy(A)
            await watched.until(lambda domains: M1 not in domains.owners)
            assert M1 not in watched.domains.moved
            assert watched.domains.owners.get(M2) == B

    play(kind, story)


def test_renamed_it_is_the_same_machine(kind: str) -> None:
    async def story(world: World) -> None:
        async with watching(world) as watched:
            world.start(A, "r1", M1)
            await watched.until(lambda domains: domains.owners.get(M1) == A)
            world.rename(A, "other")
            await watched.until(lambda domains: domains.owners.get(M1) == A and domains.name(A) == "other")

    play(kind, story)


def test_created_again_with_the_same_address(kind: str) -> None:
    async def story(world: World) -> None:
        async with watching(world) as watched:
            world.start(A, "r1", M1)
            await watched.until(lambda domains: domains.owners.get(M1) == A)
            world.destroy(A)
            world.start(B, "r1-again", M1)
            await watched.until(lambda domains: domains.owners.get(M1) == B)
            assert not watched.domains.conflicts()

    play(kind, story)


def test_the_second_machine_with_an_address_is_refused(kind: str) -> None:
    async def story(world: World) -> None:
        async with watching(world) as watched:
            world.start(A, "r1", M1)
            await watched.until(lambda domains: domains.owners.get(M1) == A)
            world.start(B, "thief", M1, M2)
            await watched.until(lambda domains: domains.conflicts() == {M1: (B,)})
            assert watched.domains.owners[M1] == A
            world.destroy(A)
            await watched.until(lambda domains: domains.owners.get(M1) == B)

    play(kind, story)


def test_the_loop_goes_on_while_the_hypervisor_is_asked(kind: str) -> None:
    async def story(world: World) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with watching(world):
            assert ticks
        ticking.cancel()

    play(kind, story)


@needs_libvirt
def test_a_hypervisor_that_cannot_be_reached_is_lost_and_the_reason_said() -> None:
    from xenflow_server.libvirt_adapter import LibvirtWatcher

    async def story() -> None:
        watched = Watched()
        watcher = LibvirtWatcher("qemu+unix:///system?socket=/nowhere/libvirt-sock")
        task = asyncio.create_task(watcher.run(watched.hear))
        await watched.until(lambda domains: "/nowhere/libvirt-sock" in domains.lost)
        assert not watched.domains.known
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())

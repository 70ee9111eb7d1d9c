"""One suite for everything that tells which machines run here: `hypervisor_worlds` has the model and the real ones.

XENFLOW_HYPERVISORS says with which of them it runs; Xen's are for Dom0 (tests/xen/test_hypervisor.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from tests.contract.hypervisor_worlds import PATIENCE, WORLDS, A, B, World
from xenflow_server.domains import Domains, Saying

PATIENCE_S = 20.0 * PATIENCE
M1, M2 = (bytes([2, 0, 0, 0, 9, number]) for number in (1, 2))
KINDS = os.environ.get("XENFLOW_HYPERVISORS", "model,libvirt").split(",")


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


@pytest.fixture(params=[pytest.param(kind, marks=[needs_libvirt] if kind == "libvirt" else []) for kind in KINDS])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def play(kind: str, story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        world = WORLDS[kind]()
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

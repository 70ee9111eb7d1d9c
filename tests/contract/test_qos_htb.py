"""Traffic control as the daemon uses it: one suite on the kernel in memory and on the real one in a namespace."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from pyroute2 import netns

from qos_controller.filters import UserspaceClassifier
from qos_controller.htb import Kernel
from qos_controller.plan import LINK_MINOR
from qos_controller.tree import (
    DEFAULT_MINOR,
    OUR_ROOT,
    DeleteClass,
    HtbClass,
    PutClass,
    PutLeaf,
    Root,
    Tree,
    as_inner,
    changes,
)
from tests.fakes.trafficcontrol import FakeKernel
from tests.unit.qos.trees import trees
from xenflow.bandwidth import Match, Queue, Selector

DEVICE = "e1"


class Fake:
    """The kernel in memory."""

    def __init__(self) -> None:
        self._kernel = FakeKernel()
        self._kernel.add(DEVICE)

    def kernel(self) -> FakeKernel:
        return self._kernel

    def entered(self) -> AbstractContextManager[None]:
        return nullcontext()

    def put_foreign(self) -> None:
        self._kernel.devices[DEVICE].tree = Tree(Root("htb", 0x10000, 10, 1))

    def close(self) -> None:
        pass


class Real:
    """A veth in a namespace of its own."""

    def __init__(self) -> None:
        self.namespace = f"xft-htb-{uuid.uuid4().hex[:8]}"
        self._run("ip", "netns", "add", self.namespace)
        self.inside("ip", "link", "add", DEVICE, "type", "veth", "peer", "name", "e2")
        for name in (DEVICE, "e2"):
            self.inside("ip", "link", "set", name, "up")

    def kernel(self) -> Kernel:
        return Kernel()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace, so that a socket which is opened stays there; nothing is forked for it."""
        netns.pushns(self.namespace)
        try:
            yield
        finally:
            netns.popns()

    def put_foreign(self) -> None:
        self.inside("tc", "qdisc", "add", "dev", DEVICE, "root", "handle", "1:", "htb", "default", "1")

    def inside(self, *command: str) -> str:
        return self._run("ip", "netns", "exec", self.namespace, *command)

    def close(self) -> None:
        self._run("ip", "netns", "del", self.namespace)

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


World = Fake | Real


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = Real() if request.param == "real" else Fake()
    try:
        yield made
    finally:
        made.close()


def use(world: World, work: Callable[[Kernel, int], Awaitable[None]]) -> None:
    """Run `work` with the kernel and the device's index."""

    async def inside() -> None:
        kernel = world.kernel()
        with world.entered():
            await kernel.open()
        try:
            device = await kernel.device(DEVICE)
            assert device is not None
            await work(kernel, device.index)  # type: ignore[arg-type]
        finally:
            await kernel.close()

    asyncio.run(inside())


async def found(kernel: Kernel, index: int) -> Tree:
    tree = await kernel.read(index)
    assert tree is not None
    return tree


async def make(kernel: Kernel, index: int, wanted: Tree) -> None:
    assert await kernel.apply(index, changes(wanted, await found(kernel, index))) == []


def one_class(minor: int, rate: int, ceil: int, quantum: int = 1522) -> HtbClass:
    return HtbClass(minor, LINK_MINOR, rate, ceil, 1000, 2000, quantum, 1, 64000)


LINK = as_inner(HtbClass(LINK_MINOR, 0, 12_500_000, 12_500_000, 5000, 5000, 0))
SMALL = Tree(
    OUR_ROOT, {LINK_MINOR: LINK, 2: one_class(2, 2_500_000, 12_500_000), 3: one_class(3, 5_000_000, 12_500_000)}
)


def test_what_is_written_is_read_back(world: World) -> None:
    selectors = (Selector(100, bytes(6), 3), Selector(0, match=Match(dscp=46, destination_ports=(5004, 5100))))
    programs = UserspaceClassifier().programs([Queue(1, "r", "", 1, selectors=selectors)])
    fast = one_class(4, 12_500_000_000, 50_000_000_000, 200_000)
    wanted = Tree(OUR_ROOT, {**SMALL.classes, 4: fast}, programs)

    async def work(kernel: Kernel, index: int) -> None:
        await make(kernel, index, wanted)
        assert await found(kernel, index) == wanted

    use(world, work)


def test_a_quantum_is_changed_in_place(world: World) -> None:
    async def work(kernel: Kernel, index: int) -> None:
        await make(kernel, index, SMALL)
        wanted = Tree(OUR_ROOT, {**SMALL.classes, 3: one_class(3, 5_000_000, 12_500_000, 3044)})
        operations = changes(wanted, await found(kernel, index))
        assert operations == [PutClass(wanted.classes[3], False)]
        assert await kernel.apply(index, operations) == []
        reading = await kernel.measure(index)
        assert reading.classes[3].quantum == 3044

    use(world, work)


def test_a_queues_bound_is_changed_in_place(world: World) -> None:
    async def work(kernel: Kernel, index: int) -> None:
        await make(kernel, index, SMALL)
        assert await kernel.apply(index, [PutLeaf(3, 99_000)]) == []
        assert (await found(kernel, index)).classes[3].limit_bytes == 99_000

    use(world, work)


def test_what_is_refused_is_told_and_the_rest_is_done(world: World) -> None:
    async def work(kernel: Kernel, index: int) -> None:
        await make(kernel, index, SMALL)
        other = one_class(7, 1_000_000, 2_000_000)
        refused = await kernel.apply(index, [DeleteClass(99), PutClass(other, True), PutLeaf(7, 64000)])
        assert [each.operation for each in refused] == [DeleteClass(99)]
        assert (await found(kernel, index)).classes[7] == other

    use(world, work)


def test_ours_is_told_from_foreign(world: World) -> None:
    async def work(kernel: Kernel, index: int) -> None:
        assert await kernel.ours() == {}
        await make(kernel, index, SMALL)
        assert await kernel.ours() == {DEVICE: index}
        await make(kernel, index, Tree())
        assert await kernel.ours() == {}

    use(world, work)


def test_a_foreign_qdisc_is_seen_as_such(world: World) -> None:
    world.put_foreign()

    async def work(kernel: Kernel, index: int) -> None:
        tree = await found(kernel, index)
        assert tree.root == Root("htb", 0x10000, 10, 1)
        assert await kernel.ours() == {}

    use(world, work)


def test_a_device_that_is_gone_reads_as_nothing(world: World) -> None:
    async def work(kernel: Kernel, index: int) -> None:
        assert await kernel.device("nobody") is None
        assert await kernel.read(9999) is None
        assert (await kernel.measure(9999)).classes == {}
        assert len(await kernel.apply(9999, [PutClass(LINK, True)])) == 1

    use(world, work)


def test_counters_begin_at_nothing(world: World) -> None:
    async def work(kernel: Kernel, index: int) -> None:
        await make(kernel, index, SMALL)
        reading = await kernel.measure(index)
        assert reading.counters[2].bytes == 0
        assert reading.counters.keys() == SMALL.classes.keys()

    use(world, work)


def test_a_dump_of_many_parts_is_read_to_its_end(world: World) -> None:
    leaves = {minor: one_class(minor, 1000 + minor, 12_500_000) for minor in range(1, 401)}

    async def work(kernel: Kernel, index: int) -> None:
        wanted = Tree(OUR_ROOT, {LINK_MINOR: LINK, **leaves})
        await make(kernel, index, wanted)
        assert await found(kernel, index) == wanted

    use(world, work)


@given(trees(), trees())
@hypothesis_settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_becomes_any_other(world: World, first: Tree, second: Tree) -> None:
    async def work(kernel: Kernel, index: int) -> None:
        for wanted in (first, second):
            valid = Tree(wanted.root, wanted.classes)  # any bytes are no program
            await make(kernel, index, valid)
            assert await found(kernel, index) == valid

    use(world, work)


@pytest.mark.root
def test_frames_are_counted_in_the_class_of_their_tag() -> None:
    world = Real()
    try:
        programs = UserspaceClassifier().programs([Queue(2, "r", "", 1, selectors=(Selector(100, pcp=5),))])
        default = one_class(DEFAULT_MINOR, 1_000_000, 12_500_000)
        wanted = Tree(OUR_ROOT, {**SMALL.classes, DEFAULT_MINOR: default}, programs)
        frames = [
            b"\xff" * 6 + bytes(6) + tag + bytes(60) for tag in (b"\x81\x00\xa0\x64", b"\x81\x00\x80\x64", b"\x08\x00")
        ]
        send = (
            "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW);"
            f" s.bind(({DEVICE!r}, 0)); [s.send(bytes.fromhex(each)) for each in sys.argv[1:]]"
        )

        async def work(kernel: Kernel, index: int) -> None:
            await make(kernel, index, wanted)
            before = (await kernel.measure(index)).counters
            world.inside("python3", "-c", send, *(frame.hex() for frame in frames))
            after = (await kernel.measure(index)).counters
            assert after[3].bytes - before[3].bytes == len(frames[0])
            assert after[DEFAULT_MINOR].bytes - before[DEFAULT_MINOR].bytes >= len(frames[1]) + len(frames[2])

        use(world, work)
    finally:
        world.close()

"""How long qos-controller takes to read classes from the kernel, and what it takes of a core when all is steady."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import netns

from bench.figure import Figure, figure
from qos_controller.htb import Kernel
from qos_controller.plan import LINK_MINOR
from qos_controller.tree import OUR_ROOT, HtbClass, Tree, as_inner, changes
from tests.private_qos import QosClient, QosNode
from xenflow.bandwidth import PortQueues, Queue, Selector

LINKS, CLASSES = 10, 100
ROUNDS = 20
STEADY_S = 5.0
STEADY_SAMPLES = 4
M = 10**6


@contextmanager
def namespace() -> Iterator[str]:
    """A namespace with LINKS devices."""
    name = f"xfb-qos-{uuid.uuid4().hex[:6]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        lines = [f"link add e{n} type veth peer name f{n}\nlink set e{n} up\nlink set f{n} up\n" for n in range(LINKS)]
        subprocess.run(["ip", "-n", name, "-batch", "-"], input="".join(lines), text=True, check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def link_tree(rate: int) -> Tree:
    link = as_inner(HtbClass(LINK_MINOR, 0, 12_500_000, 12_500_000, 5000, 5000, 0))
    leaves = {
        minor: HtbClass(minor, LINK_MINOR, rate, 12_500_000, 1000, 2000, 1522, 1, 64000)
        for minor in range(1, CLASSES + 1)
    }
    return Tree(OUR_ROOT, {LINK_MINOR: link, **leaves})


async def read_and_write(name: str) -> list[float]:
    """Return the milliseconds of ROUNDS readings of all links; print what writing them takes."""
    kernel = Kernel()
    netns.pushns(name)
    try:
        await kernel.open()
    finally:
        netns.popns()
    try:
        devices = [await kernel.device(f"e{n}") for n in range(LINKS)]
        indexes = [device.index for device in devices if device is not None]
        now = link_tree(100_000)
        for index in indexes:
            found = await kernel.read(index)
            assert found is not None
            assert not await kernel.apply(index, changes(now, found))
        samples, used = [], time.process_time()
        for _ in range(ROUNDS):
            began = time.perf_counter()
            count = sum([len((await kernel.measure(index)).classes) for index in indexes])
            samples.append((time.perf_counter() - began) * 1e3)
            assert count == LINKS * (CLASSES + 1)
        processor_ms = (time.process_time() - used) * 1e3 / ROUNDS
        wanted = link_tree(100_001)
        began = time.perf_counter()
        for index in indexes:
            assert not await kernel.apply(index, changes(wanted, now))
        write_ms = (time.perf_counter() - began) * 1e3
        assert await kernel.read(indexes[0]) == wanted
    finally:
        await kernel.close()
    print(f"    read: {processor_ms:.1f} ms of processor time; write all {LINKS * CLASSES} anew: {write_ms:.0f} ms")
    return samples


def plan() -> list[PortQueues]:
    """Return 50 queues on 5 links."""
    return [
        PortQueues(
            f"p{port}",
            100 * M,
            tuple(
                Queue(8 * n, f"r{n}", "", 5 * M, selectors=(Selector(100 + n, bytes(5) + bytes([n]), 0),))
                for n in range(1, 11)
            ),
        )
        for port in range(1, 6)
    ]


def steady_cpu() -> list[float]:
    """Return percents of a core that the daemon takes while nothing changes."""
    with tempfile.TemporaryDirectory(prefix="xq", ignore_cleanup_errors=True) as directory:
        node = QosNode(Path(directory), tuple(f"p{port}" for port in range(1, 6)))
        try:
            node.start()
            node.start_daemon(t_med_s=0.2)
            asyncio.run(_carry_out(node))
            assert node.daemon is not None
            samples = []
            time.sleep(2)
            for _ in range(STEADY_SAMPLES):
                before, began = _processor_s(node.daemon.pid), time.monotonic()
                time.sleep(STEADY_S)
                samples.append((_processor_s(node.daemon.pid) - before) / (time.monotonic() - began) * 100)
            return samples
        finally:
            node.stop()


async def _carry_out(node: QosNode) -> None:
    client = await QosClient.to(node)
    await client.plan(*plan())
    await client.close()


def _processor_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def run() -> list[Figure]:
    """Return qos_read_ms and qos_steady_cpu."""
    with namespace() as name:
        read_ms = asyncio.run(read_and_write(name))
    return [figure("qos_read_ms", read_ms), figure("qos_steady_cpu", steady_cpu())]

"""How long qos-controller takes to read classes from the kernel, and how much of a core it needs when all is steady.

    python -m bench.qos_kernel

- `qos_read_ms`: 1,000 HTB classes on 10 links, read with counters (one dump each), in processor and wall time.
- `qos_write_ms`: the same classes, all guarantees and ceilings changed.
- `qos_steady_cpu_percent`: the daemon itself, t_med 0.2 s, 50 queues on 5 links, nothing to write.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qos_controller.htb import Kernel
from qos_controller.plan import LINK_MINOR
from qos_controller.tree import OUR_ROOT, HtbClass, Tree, as_inner, changes
from tests.private_qos import QosClient, QosNode
from xenflow.bandwidth import PortQueues, Queue, Selector

LINKS, CLASSES = 10, 100
ROUNDS = 20
STEADY_S = 10.0
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


async def read_and_write(name: str) -> dict[str, float]:
    """Return milliseconds for all links: medians of ROUNDS."""
    kernel = Kernel(name)
    await kernel.open()
    try:
        devices = [await kernel.device(f"e{n}") for n in range(LINKS)]
        indexes = [device.index for device in devices if device is not None]
        now = link_tree(100_000)
        for index in indexes:
            found = await kernel.read(index)
            assert found is not None
            assert not await kernel.apply(index, changes(now, found))
        wall, cpu, write = [], [], []
        for _ in range(ROUNDS):
            began, used = time.perf_counter(), time.process_time()
            count = sum([len((await kernel.measure(index)).classes) for index in indexes])
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
            assert count == LINKS * (CLASSES + 1)
        for round_ in range(5):
            wanted = link_tree(100_001 + round_)
            began = time.perf_counter()
            for index in indexes:
                assert not await kernel.apply(index, changes(wanted, now))
            write.append(time.perf_counter() - began)
            now = wanted
        assert dataclasses.replace(now) == await kernel.read(indexes[0])
    finally:
        await kernel.close()
    medians = {"qos_read_ms": wall, "qos_read_cpu_ms": cpu, "qos_write_ms": write}
    return {key: statistics.median(values) * 1000 for key, values in medians.items()}


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


def steady_cpu() -> dict[str, float]:
    """Return what the daemon needs while nothing changes."""
    with tempfile.TemporaryDirectory(prefix="xq", ignore_cleanup_errors=True) as directory:
        node = QosNode(Path(directory), tuple(f"p{port}" for port in range(1, 6)))
        node.start()
        try:
            node.start_daemon(t_med_s=0.2)
            asyncio.run(_carry_out(node))
            assert node.daemon is not None
            time.sleep(2)
            before, lines = _processor_s(node.daemon.pid), len(node.log.read_text().splitlines())
            time.sleep(STEADY_S)
            used = _processor_s(node.daemon.pid) - before
            said = len(node.log.read_text().splitlines()) - lines
            return {"qos_steady_cpu_percent": used / STEADY_S * 100, "qos_steady_log_lines": said}
        finally:
            node.stop()


async def _carry_out(node: QosNode) -> None:
    client = await QosClient.to(node)
    await client.plan(*plan())
    await client.close()


def _processor_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    with namespace() as name:
        figures = asyncio.run(read_and_write(name))
    print(json.dumps(figures | steady_cpu(), indent=1))


if __name__ == "__main__":
    main()

"""The paper's scenario at half rate on the kernel datapath: 50 Mb/s, minimums 10 and 20, two greedy senders.

Queues are chosen by set_queue. The rates are those of HTB's counters; the same lab has plain Open vSwitch (`static`)
before. An emulated machine cannot send so many packets one by one: the senders hand ten of 1472 bytes to the kernel at
once (UDP_SEGMENT), which are parted behind the last switch. What was seen is printed, and appended to XENFLOW_RESULTS.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import fmean, stdev

import pytest

from bench.agent import SINK_PORT
from bench.tenants import DATAPATH, HEADERS_BYTES, NODE, PORT, SIZE_BYTES, Tenants, target, tenants
from qos_controller.filters import KERNEL_DATAPATH

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

LINK_MBPS = 50.0
HIRES = (10.0, 20.0)
OFFERED = (30.0, 45.0)
"""Without end: more than the share."""
IDEAL = [LINK_MBPS * hired / sum(HIRES) for hired in HIRES]
ROUNDS = 10
WINDOW_S = float(os.environ.get("QOS_WINDOW_S", "5"))
SETTLE_S = 8.0
STUDENT_9 = 2.262
"""Quantile of Student's t for a 95 % interval of ten samples."""
REACH = 0.97
SEGMENTS = 10
SEND = """
import socket, sys, time
address, port, size, count, bps = sys.argv[1], *map(int, sys.argv[2:])
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.IPPROTO_UDP, 103, size)
link.connect((address, port))
data, due_s = bytes(size * count), time.monotonic()
while True:
    try:
        link.send(data)
    except OSError:
        pass
    due_s = max(due_s + len(data) * 8 / bps, time.monotonic() - 0.1)
    time.sleep(max(due_s - time.monotonic(), 0))
"""


def lower(samples: Sequence[float]) -> float:
    """Return the lower end of the 95 % interval."""
    return fmean(samples) - STUDENT_9 * stdev(samples) / len(samples) ** 0.5


@contextmanager
def greedy(made: Tenants) -> Iterator[None]:
    """Inside the block both send without end."""
    with ExitStack() as stack:
        for n, mbps in zip(made.numbers, OFFERED, strict=True):
            payload_bps = round(mbps * 1e6 * SIZE_BYTES / (SIZE_BYTES + HEADERS_BYTES))
            numbers = [str(each) for each in (SINK_PORT, SIZE_BYTES, SEGMENTS, payload_bps)]
            argv = [sys.executable, "-c", SEND, target(n), *numbers]
            sender = stack.enter_context(made.lab.popen(f"s{n}", argv))
            stack.callback(sender.kill)
        made.let_flow(SETTLE_S)
        yield


def windows(made: Tenants) -> list[list[float]]:
    """Return the Mb/s of both tenants in each window, while both send without end."""
    queues = made.queues()
    with greedy(made):
        series = [made.watch(WINDOW_S, WINDOW_S) for _ in range(ROUNDS)]
    return [[one.mean(queues[n]) for n in made.numbers] for one in series]


def set_policy(made: Tenants, policy: str) -> None:
    """Let the sender's node have another policy."""
    path = made.lab.paths.config(NODE, "qos")
    path.write_text(re.sub(r'(?m)^policy = ".*"$', f'policy = "{policy}"', path.read_text()))
    made.lab.process("qos", NODE).signal(signal.SIGHUP)


def tell(**found: object) -> None:
    line = json.dumps(found)
    print(f"\n{line}", flush=True)
    if path := os.environ.get("XENFLOW_RESULTS"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def measure(made: Tenants, policy: str) -> tuple[float, float]:
    """Return the lower ends of the intervals of the worse fitness and of the link's use; all is told."""
    rates = windows(made)
    fitness = [min(made.fitness(one, IDEAL)) for one in rates]
    use = [sum(one) / LINK_MBPS for one in rates]
    least = lower(fitness), lower(use)
    means = [round(fmean(column), 2) for column in zip(*rates, strict=True)]
    tell(policy=policy, mbps=means, fitness=fmean(fitness), use=fmean(use), least_fitness=least[0], least_use=least[1])
    return least


def test_idle_capacity_goes_by_what_was_hired() -> None:
    assert DATAPATH == KERNEL_DATAPATH
    with tenants(f"k{os.getpid()}", HIRES, LINK_MBPS, {"policy": "static"}) as made:
        plain, _ = measure(made, "static")
        set_policy(made, "work-conserving")
        fitness, use = measure(made, "work-conserving")
        filters = made.lab.run(NODE, ["tc", "filter", "show", "dev", PORT], check=True).stdout
    assert min(fitness, use) >= REACH
    assert plain < fitness
    assert filters.count("bytecode") <= 1, "only BFD is told by a program"

"""The paper's scenario at half rate on the kernel datapath: 50 Mb/s, minimums 10 and 20, two greedy senders.

Queues are chosen by set_queue. The rates are those of HTB's counters; the same run has plain Open vSwitch (`static`).
What was seen is printed, and written to XENFLOW_RESULTS as JSON lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from statistics import fmean, stdev

import pytest

from bench.tenants import DATAPATH, Tenants, tenants
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


def lower(samples: Sequence[float]) -> float:
    """Return the lower end of the 95 % interval."""
    return fmean(samples) - STUDENT_9 * stdev(samples) / len(samples) ** 0.5


def windows(made: Tenants) -> list[list[float]]:
    """Return the Mb/s of both tenants in each window, while both send without end."""
    queues = made.queues()
    with made.sending(dict(zip(made.numbers, OFFERED, strict=True))):
        made.let_flow(SETTLE_S)
        series = [made.watch(WINDOW_S, WINDOW_S) for _ in range(ROUNDS)]
    return [[one.mean(queues[n]) for n in made.numbers] for one in series]


def tell(**found: object) -> None:
    line = json.dumps(found)
    print(f"\n{line}", flush=True)
    if path := os.environ.get("XENFLOW_RESULTS"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def test_idle_capacity_goes_by_what_was_hired() -> None:
    worst = {}
    for policy in ("static", "work-conserving"):
        with tenants(f"k{os.getpid()}", HIRES, LINK_MBPS, {"policy": policy}) as made:
            assert DATAPATH == KERNEL_DATAPATH
            rates = windows(made)
        fitness = [min(made.fitness(one, IDEAL)) for one in rates]
        use = [sum(one) / LINK_MBPS for one in rates]
        worst[policy] = lower(fitness), lower(use)
        means = [round(fmean(column), 2) for column in zip(*rates, strict=True)]
        tell(policy=policy, mbps=means, fitness=round(fmean(fitness), 4), use=round(fmean(use), 4), worst=worst[policy])
    assert min(worst["work-conserving"]) >= REACH
    assert worst["static"][0] < worst["work-conserving"][0]

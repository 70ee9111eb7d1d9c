"""How long a decision takes: 1,000 queues on 10 links, after each has moved, in processor time."""

from __future__ import annotations

import random
import time

import msgspec

from bench.figure import Figure, figure
from qos_controller.decision import Decision, Policy, Setting
from qos_controller.history import Load
from qos_controller.plan import ClassPlan, LinkPlan
from qos_controller.policy import decide

LINKS = 10
QUEUES = 100
ROUNDS = 30
SET = 4
"""Owners with a set of queues have so many; a quarter of all queues is in one."""


def run() -> list[Figure]:
    """Return qos_decide_ms: a sample is one decision on every link. Its floor, the settings alone, is printed."""
    pick = random.Random(1)
    links = [_link(number, pick) for number in range(LINKS)]
    settings: list[dict[int, Setting]] = [{} for _ in links]
    samples, floors = [], []
    for _ in range(ROUNDS):
        loads = [{item.queue: _load(item, pick) for item in link.classes} for link in links]
        began = time.process_time()
        decisions = [decide(link, *state, Policy()) for link, *state in zip(links, loads, settings, strict=True)]
        samples.append((time.process_time() - began) * 1e3)
        settings = [decision.settings for decision in decisions]
        floors.append(_floor_ms(decisions))
    print(f"    {LINKS * QUEUES} queues; building the settings that come out takes {min(floors):.2f} ms")
    return [figure("qos_decide_ms", samples)]


def _link(number: int, pick: random.Random) -> LinkPlan:
    """Return a link of 1 Gbit/s of which about half is hired."""
    classes = tuple(
        ClassPlan(
            queue,
            f"r{queue // SET * SET if queue // SET % SET == 0 else queue}",
            str(queue),
            hired_bps=pick.randint(1, 10) * 1_000_000,
            control=queue % 25 == 24,
        )
        for queue in range(QUEUES)
    )
    return LinkPlan(f"eth{number}", 1_000_000_000, classes)


def _load(item: ClassPlan, pick: random.Random) -> Load:
    return Load(item.hired_bps * pick.uniform(0, 3), backlogged=pick.random() < 0.3)


def _floor_ms(decisions: list[Decision]) -> float:
    """Return how long it takes to build the same settings when everything is known."""
    began = time.process_time()
    for decision in decisions:
        {minor: Setting(*msgspec.structs.astuple(setting)) for minor, setting in decision.settings.items()}
    return (time.process_time() - began) * 1e3

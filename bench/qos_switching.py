"""Eight tenants whose demands switch at random for two minutes (fixed seed): who gets what while demands are steady.

The ideal is weighted max-min fair, by hires, of what the link has beside the small guaranteed queues for control.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from bench.figure import Figure, figure, mean_and_interval
from bench.tenants import Series, Tenants, tenants
from qos_controller.ideal import fill
from xenflow_lab.traffic.launch import Tool, ToolError

SEED = 8
SECONDS = float(os.environ.get("QOS_SWITCHING_S", "120"))
LINK_MBPS = 100.0
HIRES = (1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0)
MOST_OFFERED_MBPS = 170.0
"""Of all together: more than that a machine of two cores does not send."""
FACTORS = (0.0, 0.5, 1.0, 2.0, 6.0)
"""A demand is one of these times the hire."""
EPOCH_S = (5.0, 10.0)
T_MED_S, K_MED = 0.2, 3
START_S = 1.0
"""Until a sender that was started sends, at most."""
SAMPLE_S = 0.25
WINDOW_S = 1.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """A time of steady demands (Mb/s by tenant)."""

    begin_s: float
    end_s: float
    demands: Mapping[int, float]


def run() -> list[Figure]:
    """Return the mean fitness, and what was carried of what could be."""
    qos = {"t_med_s": T_MED_S, "k_med": K_MED, "ceilings": os.environ.get("QOS_CEILINGS", "equation")}
    with tenants(f"bench{os.getpid()}", HIRES, LINK_MBPS, qos) as made:
        queues = made.queues()
        made.begin_watch(SECONDS, SAMPLE_S)
        epochs = list(_switch(made))
        series = made.watched()
    fitness, carried = [], []
    for epoch in epochs:
        for rates in _windows(series, queues, epoch):
            each, part = _judge(rates, epoch.demands, LINK_MBPS - made.control_mbps)
            fitness += each
            carried.append(part)
    print(f"    {len(epochs)} switches, {len(carried)} windows of steady demand, ceilings: {qos['ceilings']}")
    print(f"    fitness: mean {mean_and_interval(fitness)[0]:.3f}, least {min(fitness):.3f}", flush=True)
    return [
        figure("qos_fitness_8", fitness, mean_and_interval(fitness)[0]),
        figure("qos_use_8", carried, mean_and_interval(carried)[0]),
    ]


def _switch(made: Tenants) -> Iterator[Epoch]:
    """Let demands switch until the time is over; yield each epoch when it is."""
    chance = random.Random(SEED)
    senders: dict[int, Tool] = {}
    demands: dict[int, float] = {}
    end_s = time.monotonic() + SECONDS
    with ExitStack() as stack:
        while (left_s := end_s - time.monotonic()) > 1:
            wanted = _demands(chance, demands)
            for n in made.numbers:
                if wanted.get(n) != demands.get(n):
                    if n in senders:
                        with suppress(ToolError):
                            senders.pop(n).stop()
                    if wanted.get(n):
                        senders[n] = stack.enter_context(made.sender(n, wanted[n]))
            demands = wanted
            begin_s = time.monotonic() + START_S
            made.let_flow(min(chance.uniform(*EPOCH_S), left_s))
            yield Epoch(begin_s, time.monotonic(), dict(demands))


def _demands(chance: random.Random, before: Mapping[int, float]) -> dict[int, float]:
    """Return new demands of about half of the tenants, beside those of the others."""
    while True:
        wanted = dict(before)
        for n, hired in enumerate(HIRES, start=1):
            if not before or chance.random() < 0.5:
                wanted[n] = min(hired * chance.choice(FACTORS), LINK_MBPS)
        if sum(wanted.values()) <= MOST_OFFERED_MBPS:
            return wanted


def _windows(series: Series, queues: Mapping[int, list[int]], epoch: Epoch) -> Iterator[list[float]]:
    """Yield the tenants' rates in each window of an epoch, from `k_med` + 2 steps after the switch."""
    first_s = epoch.begin_s + (K_MED + 2) * T_MED_S
    places = [place for place, at_s in enumerate(series.times_s) if first_s <= at_s <= epoch.end_s]
    step = round(WINDOW_S / SAMPLE_S)
    for begin in places[:-step:step]:
        window = Series(
            [series.times_s[begin], series.times_s[begin + step]],
            {queue: [each[begin], each[begin + step]] for queue, each in series.sent_bytes.items()},
        )
        yield [window.mean(queues[n]) for n in range(1, len(HIRES) + 1)]


def _judge(rates: list[float], demands: Mapping[int, float], left: float) -> tuple[list[float], float]:
    """Return the fitness of those who want something, of `left` Mb/s, and what was carried of what could be."""
    wanted = [demands.get(n, 0.0) for n in range(1, len(HIRES) + 1)]
    ideal = fill(left, HIRES, wanted)
    fitness = [1 - abs(1 - got / part) for got, part in zip(rates, ideal, strict=True) if part]
    could = min(sum(wanted), LINK_MBPS)
    return fitness, sum(rates) / could if could else 1.0

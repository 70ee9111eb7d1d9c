"""The paper's figures 3(a) and 3(b): two virtual networks with minimums of 20 and 40 Mb/s share a link of 100 Mb/s.

Both send UDP of 1472 bytes without end. Until the middle of a run nothing limits them but the cable; then the routers
hire their minimums, with a definition and SIGHUP as an operator does it, and qos-controller shares the link. `static`
is plain Open vSwitch: the same minimums, ceilings of 100, the kernel's own quanta. Rates are those that arrive.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.tenants import HEADERS_BYTES, SIZE_BYTES, Tenants, tenants

MINIMUMS_MBPS = (20.0, 40.0)
LINK_MBPS = 100.0
OFFERED_MBPS = 80.0
"""Of each: more than its share, and together more than the cable takes."""
INTERVAL_S = 1.0
SECONDS = 60.0
SETTLE_S = 5.0
"""How long after the hire the window of figure 3(b) begins: k_med + 2 steps."""
POLICIES = ("static", "paper", "work-conserving")
LABELS = {
    "static": "Open vSwitch",
    "paper": "the paper's rules",
    "work-conserving": "XenFlow (work-conserving)",
}
PAPER_FITNESS = {"static": 0.85, "paper": 0.97}
EXPECTED_MBPS = tuple(LINK_MBPS * minimum / sum(MINIMUMS_MBPS) for minimum in MINIMUMS_MBPS)


@dataclass(frozen=True, slots=True)
class Round:
    """One run: Mb/s of frames of each network in each interval; the hire came in the middle."""

    policy: str
    rates_mbps: tuple[list[float], ...]

    @property
    def hired_at(self) -> int:
        """The number of the first interval after the hire."""
        return len(self.rates_mbps[0]) // 2

    def means(self) -> list[float]:
        """Return what each network had in the window, in Mb/s."""
        first = self.hired_at + round(SETTLE_S / INTERVAL_S)
        return [sum(rates[first:]) / len(rates[first:]) for rates in self.rates_mbps]

    def fitness(self) -> list[float]:
        """Return the fitness of each network in the window: equation (2)."""
        return [1 - abs(1 - got / wanted) for got, wanted in zip(self.means(), EXPECTED_MBPS, strict=True)]

    def use(self) -> float:
        """Return which part of the link was used in the window."""
        return sum(self.means()) / LINK_MBPS


def measure(rounds: int, seconds: float = SECONDS) -> list[Round]:
    """Return all rounds of all policies."""
    print(f"  figures 3(a), 3(b): {len(POLICIES)} x {rounds} rounds of {seconds:g} s", flush=True)
    found = []
    for policy in POLICIES:
        name = f"bench{os.getpid()}"
        with tenants(name, MINIMUMS_MBPS, LINK_MBPS, {"policy": policy}, cable_mbps=LINK_MBPS) as made:
            for _ in range(rounds):
                one = _round(policy, made, seconds)
                found.append(one)
                shown = ", ".join(f"{rate:.1f}" for rate in one.means())
                fitness = ", ".join(f"{value:.3f}" for value in one.fitness())
                print(f"    {policy}: {shown} Mb/s, fitness {fitness}, link use {one.use():.3f}", flush=True)
    return found


def _round(policy: str, made: Tenants, seconds: float) -> Round:
    made.hire([0.0 for _ in MINIMUMS_MBPS])
    with made.sending(dict.fromkeys(made.numbers, OFFERED_MBPS)):
        receivers = [made.agents[f"d{n}"] for n in made.numbers]
        made.let_flow(1)
        began = time.monotonic()
        for receiver in receivers:
            receiver.tell("rates", devices=["eth0"], seconds=seconds, interval_s=INTERVAL_S)
        made.let_flow(began + seconds / 2 - time.monotonic())
        made.hire(MINIMUMS_MBPS)
        rates_pps = [receiver.answer()[0] for receiver in receivers]
    return Round(policy, tuple([_mbps(pps) for pps in each] for each in rates_pps))


def _mbps(packets_s: float) -> float:
    return packets_s * (SIZE_BYTES + HEADERS_BYTES) * 8 / 1e6


def summary(found: Sequence[Round]) -> dict[tuple[str, str], list[float]]:
    """Return the samples of each figure: (policy, which) -> one of each round."""
    samples: dict[tuple[str, str], list[float]] = {}
    for one in found:
        values = {f"fitness of network {n}": value for n, value in enumerate(one.fitness(), start=1)}
        values |= {f"Mb/s of network {n}": value for n, value in enumerate(one.means(), start=1)}
        values["fitness, mean of both"] = sum(one.fitness()) / len(one.fitness())
        values["link use"] = one.use()
        for name, value in values.items():
            samples.setdefault((one.policy, name), []).append(value)
    return samples

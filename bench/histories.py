"""The table of docs/design/qos.md in packets: what two tenants get for their demands, by policy and past.

*fresh*: both hire while they send already. *quiet*: nothing was sent for some seconds. Hires of 20 and 40 on a link of
100 Mb/s; rates of HTB's counters.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from bench.tenants import Tenants, tenants

HIRES = (20.0, 40.0)
LINK_MBPS = 100.0
DEMANDS = ((100, 100), (100, 0), (100, 10), (10, 100), (100, 30))
FRESH, QUIET = "fresh", "after a quiet time"
_IDEAL = ((33.3, 66.7), (100, 0), (90, 10), (10, 90), (70, 30))
_EQUATION = ((26.7, 53.3), (40, 0), (37.5, 10), (10, 60), (32.5, 30))
EXPECTED = {
    ("work-conserving", FRESH): _IDEAL,
    ("work-conserving", QUIET): _IDEAL,
    ("paper", FRESH): _IDEAL,
    ("paper", QUIET): ((33.3, 66.7), (50, 0), (47.5, 10), (10, 76), (42.5, 30)),
    ("equation-1-only", FRESH): _EQUATION,
    ("equation-1-only", QUIET): _EQUATION,
}
"""What simulation says."""
QUIET_S = 6.0
START_S = 1.0
"""Until senders send: a class that is measured idle has a past."""
SETTLE_S, WINDOW_S = 6.0, 3.0
OFFERED_MBPS = 110.0
"""What a demand of the whole link is: a backlog even where the link is all one's own."""
GREEDY_MBPS = 85.0
"""The same where both want that."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table under one policy: demands, Mb/s of each as measured, and as simulated."""

    policy: str
    past: str
    demands: tuple[int, int]
    rates_mbps: tuple[float, ...]
    expected_mbps: tuple[float, ...]


def measure(rounds: int) -> list[Cell]:
    """Return all cells, as often as there are rounds."""
    seconds = len(DEMANDS) * (2 * (SETTLE_S + WINDOW_S) + QUIET_S)
    print(f"  table of policies: 3 x {rounds} rounds of {seconds:.0f} s", flush=True)
    found = []
    for policy in dict.fromkeys(policy for policy, _ in EXPECTED):
        with tenants(f"bench{os.getpid()}", HIRES, LINK_MBPS, {"policy": policy}) as made:
            for _ in range(rounds):
                for past in (FRESH, QUIET):
                    found += [_cell(made, policy, past, row) for row in range(len(DEMANDS))]
    return found


def _cell(made: Tenants, policy: str, past: str, row: int) -> Cell:
    if past == FRESH:
        made.hire([0.0 for _ in HIRES])
    else:
        made.let_flow(QUIET_S)
    most = GREEDY_MBPS if min(DEMANDS[row]) == LINK_MBPS else OFFERED_MBPS
    demands = {n: most if wanted >= LINK_MBPS else wanted for n, wanted in enumerate(DEMANDS[row], start=1) if wanted}
    with made.sending(demands):
        if past == FRESH:
            made.let_flow(START_S)
            made.hire(HIRES)
        made.let_flow(SETTLE_S)
        queues = made.queues()
        series = made.watch(WINDOW_S, WINDOW_S)
    rates = tuple(series.mean(queues[n]) for n in made.numbers)
    expected = EXPECTED[policy, past][row]
    shown = ", ".join(f"{got:.1f} ({wanted:g})" for got, wanted in zip(rates, expected, strict=True))
    print(f"    {policy}, {past}, demands {DEMANDS[row]}: {shown} Mb/s", flush=True)
    return Cell(policy, past, DEMANDS[row], rates, expected)

"""What the past counts: level 1 after too much use, and how far a burst of one interval moves ceilings."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.figure import Figure, figure
from bench.tenants import Tenants, tenants
from xenflow_lab.command import wait_until

T_MED_S = 1.0
LINK_MBPS = 20.0
HIRES = (4.0, 4.0)
K_MED = 3
AT_REST_MBPS = {1: 1.0, 2: 1.5 * LINK_MBPS}
"""The second is backlogged: its ceiling is what the first leaves it."""
POLL_S = 0.1
ASKED_S = POLL_S + 0.1
"""So much later than it is so a rate in force may be read: a poll, the daemon's writing, and the answer."""
BURSTS = 6
"""Each begins anywhere in an interval; the one that fills an interval best moves ceilings farthest."""


def run() -> list[Figure]:
    """Return both figures."""
    return [level1(), burst()]


def level1() -> Figure:
    """Return after how many k_med t_med the guarantee of one that used 3 x its hire is that of the other again.

    The interval in which it stops using more is not counted, since its measurement has some of that; nor is the asking.
    """
    with _lab(K_MED) as made, made.sending({1: 3.9, 2: 3.9}):
        with made.sending({1: 8}):
            made.let_flow((K_MED + 2) * T_MED_S)
            over = made.guarantees_bps()
        began = time.monotonic()
        wait_until(lambda: _is_level(made.guarantees_bps()), 60, "equal guarantees again", POLL_S)
        took_s = time.monotonic() - began
    part = part_of_k_med(took_s)
    ratio = over[1] / over[2]
    print(f"    level 1: {ratio:.2f} of the other's guarantee at 3 x its hire, equal {took_s:.1f} s after", flush=True)
    return figure("qos_level1", [part], part if ratio < 0.95 else math.inf)


def part_of_k_med(took_s: float) -> float:
    """Return a time as a part of `K_MED` intervals, less the one in which it began and the asking."""
    return max(took_s - T_MED_S - ASKED_S, 0.0) / (K_MED * T_MED_S)


def _is_level(guarantees: Mapping[int, int]) -> bool:
    return abs(1 - guarantees[1] / guarantees[2]) <= 0.02


def burst() -> Figure:
    """Return how far a burst of `T_MED_S` moves a ceiling at k_med 5, as a part of how far at 1; the larger of two."""
    with_one, with_five = _farthest(1), _farthest(5)
    for k_med, moved in ((1, with_one), (5, with_five)):
        print(f"    k_med {k_med}: a burst moves ceilings by {_shown(moved)} Mb/s", flush=True)
    moving = {n: moved for n, moved in with_one.items() if moved or with_five[n]}
    parts = [with_five[n] / moved if moved else 99.0 for n, moved in moving.items()]
    return figure("qos_burst", parts, max(parts))


def _farthest(k_med: int) -> dict[int, float]:
    """Return by how many Mb/s each tenant's ceiling moves at most in some bursts of the first."""
    farthest = dict.fromkeys(AT_REST_MBPS, 0.0)
    with _lab(k_med) as made, made.sending(AT_REST_MBPS):
        for _ in range(BURSTS):
            made.let_flow((k_med + 2) * T_MED_S)
            before = made.ceilings_bps()
            with made.sending({1: 1.5 * LINK_MBPS}):
                made.let_flow(T_MED_S)
            end_s = time.monotonic() + (k_med + 1) * T_MED_S
            while time.monotonic() < end_s:
                now = made.ceilings_bps()
                moved = {n: abs(now[n] - before[n]) / 1e6 for n in farthest}
                farthest = {n: max(moved[n], so_far) for n, so_far in farthest.items()}
    return farthest


def _shown(moved: Mapping[int, float]) -> str:
    return ", ".join(f"{mbps:.2f}" for mbps in moved.values())


@contextmanager
def _lab(k_med: int) -> Iterator[Tenants]:
    with tenants(f"bench{os.getpid()}", HIRES, LINK_MBPS, {"t_med_s": T_MED_S, "k_med": k_med}) as made:
        yield made

"""What `processor` found, as plots: round trips beside a VM that spins, and what Dom0 spends by a router's ceiling."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.figure import mean_and_interval
from bench.plots import save
from bench.processor import CAPPED, CEILINGS_MBPS, EQUAL, FIRST, GREEDY, LIMITED, QUIET, TCP, Beside, Spent

_STATES = {QUIET: "#3b8f3b", CAPPED: "#8fb3d9", FIRST: "#1f5fa8", EQUAL: "#d9730d"}
_TRAFFIC = {TCP: ("#1f5fa8", "o"), LIMITED: ("#3b8f3b", "^"), GREEDY: ("#d9730d", "s")}


def draw(beside: Sequence[Beside], spent: Sequence[Spent], out: Path) -> None:
    """Draw all three panels."""
    figure, grid = plt.subplots(1, 3, figsize=(16, 5.6), squeeze=False)
    trips, changes, dom0 = grid[0]
    _distribution(trips, {state: _all(beside, state, "trips_ms") for state in _STATES})
    trips.set_xlabel("round trip through a router (ms, logarithmic)")
    _distribution(changes, {state: _all(beside, state, "changes_ms") for state in _STATES})
    changes.set_xlabel("from a route to its flow (ms, logarithmic)")
    trips.set_ylabel("part of all, worst last")
    _ceilings(dom0, spent)
    rounds = len([one for one in beside if one.state == QUIET])
    figure.suptitle(f"Beside a router whose VM spins on all its processors ({rounds} rounds), and Dom0 by ceiling")
    figure.tight_layout()
    save(figure, out / "processor")


def _all(found: Sequence[Beside], state: str, name: str) -> list[float]:
    return sorted(value for one in found if one.state == state for value in getattr(one, name))


def _distribution(axes: Axes, samples: dict[str, list[float]]) -> None:
    for state, ordered in samples.items():
        p99 = ordered[int(0.99 * len(ordered))]
        label = f"{state}: median {statistics.median(ordered):.2f}, p99 {p99:.2f} ms"
        axes.plot(
            ordered, [1 - place / len(ordered) for place in range(len(ordered))], color=_STATES[state], label=label
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.axhline(0.01, color="grey", linestyle=":", linewidth=1)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False, fontsize=9)


def _ceilings(axes: Axes, spent: Sequence[Spent]) -> None:
    for traffic, (color, marker) in _TRAFFIC.items():
        pairs = [
            mean_and_interval(
                [100 * one.processors for one in spent if (one.traffic, one.ceiling_mbps) == (traffic, ceiling)]
            )
            for ceiling in CEILINGS_MBPS
        ]
        means, halves = [mean for mean, _ in pairs], [half or 0.0 for _, half in pairs]
        axes.errorbar(CEILINGS_MBPS, means, yerr=halves, color=color, marker=marker, capsize=3, label=traffic)
    axes.set_xlabel("ceiling of the router (Mb/s)")
    axes.set_ylabel("ovs-vswitchd, above idle (% of a processor)")
    axes.set_xlim(0, 1.05 * CEILINGS_MBPS[-1])
    axes.set_ylim(0, 200 * max(one.processors for one in spent))
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False, fontsize=9)

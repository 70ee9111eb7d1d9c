"""Processors: ratios by hand-made samples, and a plot that can be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import processor_plots
from bench.processor import (
    CAPPED,
    CEILINGS_MBPS,
    EQUAL,
    FIRST,
    GREEDY,
    LIMITED,
    QUIET,
    TCP,
    Beside,
    Spent,
    ceiling_ratios,
    over_all,
    ratios,
)


def rounds(state: str, factor: float) -> list[Beside]:
    return [Beside(state, [factor * trip for trip in range(1, 101)], [factor, 2 * factor, 9.0], 1.0) for _ in range(2)]


FOUND = [*rounds(QUIET, 1.0), *rounds(EQUAL, 3.0), *rounds(FIRST, 1.2), *rounds(CAPPED, 1.1)]
SPENT = [
    Spent(traffic, ceiling, ceiling / 100 * factor, ceiling)
    for traffic, factor in ((TCP, 1.0), (LIMITED, 1.2), (GREEDY, 2.0))
    for ceiling in CEILINGS_MBPS
]


def test_delay_is_compared_by_its_99th_percentile() -> None:
    assert ratios(FOUND, EQUAL, "delay") == pytest.approx([3.0, 3.0])
    assert over_all(FOUND, FIRST, "delay") == pytest.approx(1.2)


def test_changes_are_compared_by_their_median() -> None:
    assert ratios(FOUND, FIRST, "route") == pytest.approx([1.2, 1.2])
    assert over_all(FOUND, EQUAL, "route") == pytest.approx(3.0)


def test_the_lowest_ceiling_is_compared_with_the_highest() -> None:
    assert ceiling_ratios(SPENT, LIMITED) == pytest.approx([CEILINGS_MBPS[0] / CEILINGS_MBPS[-1]])


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    processor_plots.draw(FOUND, SPENT, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"processor.png", "processor.svg"}

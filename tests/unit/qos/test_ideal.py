"""The oracle: progressive filling, and what fitness means."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qos_controller.history import Load
from qos_controller.ideal import expected, fair_shares, fill, fitness
from qos_controller.plan import ClassPlan, LinkPlan

M = 1_000_000
WEIGHTS = st.just(0.0) | st.floats(1e-6, 100)
PARTIES = st.lists(st.tuples(WEIGHTS, st.floats(0, 100)), max_size=8)


@given(st.floats(0, 200), PARTIES)
def test_filling_is_weighted_max_min(amount: float, parties: list[tuple[float, float]]) -> None:
    """All is handed out that can be, nobody is over its limit, and who has less for its weight is at its limit."""
    weights, limits = [weight for weight, _ in parties], [limit for _, limit in parties]
    parts = fill(amount, weights, limits)
    can = sum(limit for weight, limit in parties if weight > 0)
    assert sum(parts) == pytest.approx(min(amount, can), abs=1e-6)
    most = max((part / weight for part, weight in zip(parts, weights, strict=True) if weight > 0), default=0)
    for part, weight, limit in zip(parts, weights, limits, strict=True):
        assert 0 <= part <= limit + 1e-9
        if weight > 0 and part < limit - 1e-6:
            assert part / weight >= most * (1 - 1e-6) - 1e-9


def test_infinite_limits_divide_all() -> None:
    assert fill(90, [1, 2], [math.inf, math.inf]) == pytest.approx([30, 60])
    assert fill(90, [1, 2], [10, math.inf]) == pytest.approx([10, 80])
    assert fill(90, [], []) == []


def test_owners_share_by_what_they_hired_in_sum_and_control_comes_first() -> None:
    classes = (
        ClassPlan(0, "r1", hired_bps=20 * M),
        ClassPlan(1, "r2", "voice", 5 * M),
        ClassPlan(2, "r2", "bulk", 15 * M, borrows=False),
        ClassPlan(3, "r2", "control", M, control=True),
        ClassPlan(4, "r3", hired_bps=20 * M, ceiling_bps=25 * M),
    )
    link = LinkPlan("t", 101 * M, classes)
    greedy = dict.fromkeys(range(5), math.inf)
    got = fair_shares(link, greedy)
    assert got == pytest.approx({3: 1e6, 4: 25e6, 0: 37.5e6, 1: 22.5e6, 2: 15e6})
    assert fair_shares(link, {}) == dict.fromkeys(range(5), 0.0)


def test_what_is_expected_follows_from_what_was_measured() -> None:
    link = LinkPlan("t", 100 * M, (ClassPlan(0, "a", hired_bps=20 * M), ClassPlan(1, "b", hired_bps=40 * M)))
    assert expected(link, {0: Load(50e6, backlogged=True), 1: Load(30e6)}) == pytest.approx({0: 70e6, 1: 30e6})


def test_fitness_is_equation_2() -> None:
    assert fitness(10, 10) == 1
    assert fitness(9, 10) == pytest.approx(0.9)
    assert fitness(11, 10) == pytest.approx(0.9)
    assert (fitness(0, 0), fitness(1, 0)) == (1, 0)

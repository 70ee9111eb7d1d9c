"""Each policy does what is said of it (docs/design/qos.md): the paper's scenario and its variations, h = 20 and 40."""

from __future__ import annotations

import pytest

from qos_controller.decision import Ceilings, Policy, PolicyKind, standard
from qos_controller.plan import ClassPlan, LinkPlan
from tests.unit.qos.fluid import M, Run, mean

LINK = LinkPlan("trunk", 100 * M, (ClassPlan(0, "vn1", hired_bps=20 * M), ClassPlan(1, "vn2", hired_bps=40 * M)))
ROWS = [
    # demand,    ideal,        equation-1-only, paper,        paper after a quiet time
    ((100, 100), (33.3, 66.7), (26.7, 53.3), (33.3, 66.7), (33.3, 66.7)),
    ((100, 0), (100, 0), (40, 0), (100, 0), (50, 0)),
    ((100, 10), (90, 10), (37.5, 10), (90, 10), (47.5, 10)),
    ((10, 100), (10, 90), (10, 60), (10, 90), (10, 76)),
    ((100, 30), (70, 30), (32.5, 30), (70, 30), (42.5, 30)),
]
TOLERANCE = 0.03
IDS = [f"{row[0][0]}, {row[0][1]}" for row in ROWS]


def settled(policy: Policy, demand: tuple[int, int], quiet_steps: int = 0, k_med: int = 3) -> tuple[float, float]:
    """Return what both get in Mbit/s in the end: the mean of 20 steps, which some policies need."""
    run = Run(LINK, policy, k_med)
    run.steps({0: 5 * M, 1: 5 * M}, quiet_steps)
    run.steps({0: demand[0] * M, 1: demand[1] * M}, 60)
    last = run.rates[-20:]
    return mean(rates[0] / M for rates in last), mean(rates[1] / M for rates in last)


@pytest.mark.parametrize("quiet_steps", [0, 60])
@pytest.mark.parametrize("k_med", [1, 3, 5])
@pytest.mark.parametrize("ceilings", list(Ceilings))
@pytest.mark.parametrize(("demand", "ideal", "_1", "_2", "_3"), ROWS, ids=IDS)
def test_work_conserving_is_ideal_from_every_past(
    demand: tuple[int, int],
    ideal: tuple[float, float],
    _1: object,
    _2: object,
    _3: object,
    ceilings: Ceilings,
    k_med: int,
    quiet_steps: int,
) -> None:
    assert settled(Policy(ceilings=ceilings), demand, quiet_steps, k_med) == pytest.approx(ideal, rel=TOLERANCE)


@pytest.mark.parametrize(("demand", "_1", "_2", "fresh", "after_quiet"), ROWS, ids=IDS)
def test_paper_depends_on_the_past(
    demand: tuple[int, int],
    _1: object,
    _2: object,
    fresh: tuple[float, float],
    after_quiet: tuple[float, float],
) -> None:
    paper = standard(PolicyKind.PAPER)
    assert settled(paper, demand) == pytest.approx(fresh, rel=TOLERANCE)
    assert settled(paper, demand, quiet_steps=40) == pytest.approx(after_quiet, rel=TOLERANCE)


@pytest.mark.parametrize("quiet_steps", [0, 40])
@pytest.mark.parametrize(("demand", "_1", "rates", "_2", "_3"), ROWS, ids=IDS)
def test_equation_1_only_takes_its_own_loan_back(
    demand: tuple[int, int], _1: object, rates: tuple[float, float], _2: object, _3: object, quiet_steps: int
) -> None:
    policy = standard(PolicyKind.EQUATION_1_ONLY)
    assert settled(policy, demand, quiet_steps) == pytest.approx(rates, rel=TOLERANCE)


def test_equation_1_only_swings_with_one_measurement() -> None:
    run = Run(LINK, standard(PolicyKind.EQUATION_1_ONLY), k_med=1)
    run.steps({0: 100 * M, 1: 100 * M}, 40)
    totals = [sum(rates.values()) / M for rates in run.rates[-10:]]
    assert (min(totals), max(totals)) == pytest.approx((60, 100), rel=TOLERANCE)


def test_open_vswitch_as_it_comes_shares_equally() -> None:
    assert settled(standard(PolicyKind.STATIC), (100, 100)) == pytest.approx((40, 60), rel=TOLERANCE)


def test_static_never_moves() -> None:
    run = Run(LINK, standard(PolicyKind.STATIC))
    for demand in (100, 0, 30):
        run.steps({0: demand * M, 1: 50 * M}, 5)
    assert not any(decision.changed for decision in run.decisions[1:])

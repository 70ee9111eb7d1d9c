"""Eight networks whose demands switch at random for two minutes: what each policy makes of it (docs/design/qos.md)."""

from __future__ import annotations

import random

import pytest

from qos_controller.decision import Ceilings, Policy, PolicyKind, standard
from qos_controller.ideal import fair_shares, fitness
from qos_controller.plan import ClassPlan, LinkPlan
from tests.unit.qos.fluid import M, Run, mean

HIRED = (1, 1, 2, 3, 4, 5, 10, 30)
LINK = LinkPlan("trunk", 100 * M, tuple(ClassPlan(i, f"n{i}", hired_bps=rate * M) for i, rate in enumerate(HIRED)))
DURATION_S = 120


def switching(policy: Policy, t_med_s: float, hold_s: float, seed: int = 1) -> tuple[float, float]:
    """Return mean fitness and the part carried of what could be; a demand holds for `hold_s` in the mean."""
    pick = random.Random(seed)
    run = Run(LINK, policy, t_med_s=t_med_s)
    demands = dict.fromkeys(range(len(HIRED)), 0.0)
    until_s = [pick.expovariate(1 / hold_s) for _ in HIRED]
    fits: list[float] = []
    carried = possible = 0.0
    while run.time_s < DURATION_S:
        for queue, rate in enumerate(HIRED):
            if run.time_s >= until_s[queue]:
                demands[queue] = pick.choice([0, rate / 2, rate * 1.5, 100, 100]) * M
                until_s[queue] = run.time_s + pick.expovariate(1 / hold_s)
        rates, ideal = run.step(demands), fair_shares(LINK, demands)
        fits += [fitness(rates[queue], ideal[queue]) for queue in ideal if ideal[queue] > 0]
        carried += sum(rates.values())
        possible += sum(ideal.values())
    return mean(fits), carried / possible


@pytest.mark.parametrize(
    ("policy", "t_med_s", "hold_s", "fit", "carried"),
    [
        (Policy(), 1.0, 15, 0.95, 0.97),
        (Policy(), 0.2, 15, 0.98, 0.98),
        (Policy(), 0.2, 5, 0.97, 0.97),
        (Policy(ceilings=Ceilings.LINK), 1.0, 5, 0.97, 0.999),
        (Policy(ceilings=Ceilings.LINK), 1.0, 15, 0.98, 0.999),
    ],
)
def test_work_conserving_follows(policy: Policy, t_med_s: float, hold_s: float, fit: float, carried: float) -> None:
    found_fit, found_carried = switching(policy, t_med_s, hold_s)
    assert found_fit >= fit
    assert found_carried >= carried


@pytest.mark.parametrize("kind", [PolicyKind.PAPER, PolicyKind.EQUATION_1_ONLY])
def test_the_papers_own_reading_leaves_much_of_the_link_idle(kind: PolicyKind) -> None:
    assert switching(standard(kind), 1.0, 15)[1] < 0.8

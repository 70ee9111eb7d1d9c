"""What holds of `work-conserving` for any hires, any demands, and from any past, against the oracle.

A past is a few demands, each for some steps; then a demand stays. Hires go from a twentieth of the link to all of it,
since level 1 means most where little is hired.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qos_controller.decision import Ceilings, Policy
from qos_controller.plan import ClassPlan, LinkPlan
from tests.unit.qos.fluid import M, Run, use, worst_fitness

CAPACITY = 100 * M
EXAMPLES = 500
FIT = 0.97
WEIGHTS = st.lists(st.sampled_from([1, 2, 3, 5, 8, 13, 20]), min_size=1, max_size=6)
HIRED = st.sampled_from([5, 30, 60, 90, 100])
K_MED = st.sampled_from([1, 2, 3, 5])
Demands = dict[int, float]


@dataclass(frozen=True)
class Case:
    link: LinkPlan
    k_med: int
    past: tuple[tuple[Demands, int], ...]
    demands: Demands

    def run(self, policy: Policy) -> Run:
        """Return a run that has gone through the past."""
        run = Run(self.link, policy, self.k_med)
        for demands, steps in self.past:
            run.steps(demands, steps)
        return run

    @property
    def wanted_and_promised(self) -> dict[int, float]:
        """What each queue has a right to in any case."""
        return {item.queue: min(self.demands[item.queue], item.hired_bps) for item in self.link.classes}


@functools.cache  # a strategy that is made anew for each example costs more than what it draws
def demands_of(queues: int, least: int) -> st.SearchStrategy[Demands]:
    """Return demands of so many queues: none, all, any, and often about `least` bit/s."""
    demand = st.one_of(
        st.sampled_from([0.0, 1.0 * CAPACITY]),
        st.integers(0, CAPACITY).map(float),
        st.integers(0, 2 * least).map(float),
    )
    return st.tuples(*(demand for _ in range(queues))).map(lambda rates: dict(enumerate(rates)))


@functools.cache
def pasts_of(queues: int, least: int) -> st.SearchStrategy[list[tuple[Demands, int]]]:
    return st.lists(st.tuples(demands_of(queues, least), st.integers(1, 8)), max_size=4)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    weights = draw(WEIGHTS)
    hired = draw(HIRED) * M
    classes = tuple(
        ClassPlan(queue, f"n{queue}", hired_bps=hired * weight // sum(weights)) for queue, weight in enumerate(weights)
    )
    drawn = len(weights), hired // len(weights)
    past = draw(pasts_of(*drawn))
    return Case(LinkPlan("trunk", CAPACITY, classes), draw(K_MED), tuple(past), draw(demands_of(*drawn)))


@pytest.mark.parametrize("ceilings", list(Ceilings))
@settings(max_examples=EXAMPLES)
@given(case=cases())
def test_any_demand_is_met_as_the_oracle_says_within_k_med_and_two_steps(ceilings: Ceilings, case: Case) -> None:
    """Fitness, work conservation, convergence, steadiness; no guarantee broken on the way."""
    run = case.run(Policy(ceilings=ceilings))
    for _ in range(case.k_med + 2):
        rates = run.step(case.demands)
        for queue, least in case.wanted_and_promised.items():
            assert rates[queue] >= least - 1
    for _ in range(2 * case.k_med + 2):
        rates = run.step(case.demands)
        assert worst_fitness(case.link, rates, case.demands) >= FIT
        assert use(case.link, rates, case.demands) >= FIT
    for _ in range(5):
        run.step(case.demands)
        assert run.decision.changed == run.decision.removed == ()
        assert worst_fitness(case.link, run.rates[-1], case.demands) >= FIT


@settings(max_examples=EXAMPLES)
@given(case=cases(), ceilings=st.sampled_from(list(Ceilings)))
def test_settings_always_keep_every_promise(case: Case, ceilings: Ceilings) -> None:
    run = case.run(Policy(ceilings=ceilings))
    run.steps(case.demands, 3)
    for decision in run.decisions:
        leaves = {item.queue: decision.settings[item.minor] for item in case.link.classes}
        assert sum(setting.rate_bps for setting in leaves.values()) <= CAPACITY
        for item in case.link.classes:
            setting = leaves[item.queue]
            assert item.hired_bps <= setting.rate_bps <= setting.ceil_bps <= CAPACITY
            assert 1522 <= setting.quantum_bytes <= 200_000

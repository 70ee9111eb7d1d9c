"""What holds of `work-conserving` where control, ceilings, sets of queues and too many hires come together.

Beside the oracle, as `test_properties` does it for plain queues.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qos_controller.decision import Ceilings, Policy
from qos_controller.plan import ClassPlan, LinkPlan, groups
from tests.unit.qos.fluid import M, Run, use, worst_fitness

CAPACITY = 100 * M
CONTROL = 128_000
EXAMPLES = 300
FIT = 0.97
ROUNDING_BPS = 10
WEIGHTS = st.lists(st.sampled_from([1, 2, 3, 5, 8]), min_size=1, max_size=4)
HIRED = st.sampled_from([10, 50, 90, 130])
CEILINGS = st.sampled_from([0, 1, 1.5, 3])
PARTS = st.sampled_from([(1,), (1, 1), (1, 2, 5)])
QUIET_CONTROL = st.sampled_from([0.0, CONTROL / 2, 1.0 * CONTROL])
FLOODING_CONTROL = st.sampled_from([0.0, 1.0 * CONTROL, 1.0 * CAPACITY])
OTHER = st.one_of(st.sampled_from([0.0, 1.0 * CAPACITY]), st.integers(0, CAPACITY).map(float))
Demands = dict[int, float]


@dataclass(frozen=True)
class Case:
    link: LinkPlan
    past: tuple[tuple[Demands, int], ...]
    demands: Demands

    def run(self, policy: Policy) -> Run:
        """Return a run that has gone through the past."""
        run = Run(self.link, policy)
        for demands, steps in self.past:
            run.steps(demands, steps)
        return run

    @property
    def kept(self) -> float:
        """The part of each hire that the link can keep."""
        hired = {is_control: self._hired(control=is_control) for is_control in (True, False)}
        return min(1.0, (self.link.capacity_bps - hired[True]) / hired[False])

    def _hired(self, *, control: bool) -> int:
        return sum(item.hired_bps for item in self.link.classes if item.control == control)


@functools.cache  # a strategy that is made anew for each example costs more than what it draws
def demands_of(is_control: tuple[tuple[int, bool], ...], floods: bool) -> st.SearchStrategy[Demands]:
    """Return demands of queues, by their ids."""
    control = FLOODING_CONTROL if floods else QUIET_CONTROL
    return st.fixed_dictionaries({queue: control if is_it else OTHER for queue, is_it in is_control})


@functools.cache
def pasts_of(is_control: tuple[tuple[int, bool], ...], floods: bool) -> st.SearchStrategy[list[tuple[Demands, int]]]:
    return st.lists(st.tuples(demands_of(is_control, floods), st.integers(1, 8)), max_size=3)


@st.composite
def cases(draw: st.DrawFn, *, floods: bool = False, sets: bool = True) -> Case:
    """Draw a link whose owners have a queue, a ceiling, or a set, and control each; `floods`: control may want all."""
    weights = draw(WEIGHTS)
    hired = draw(HIRED) * M
    classes: list[ClassPlan] = []
    for number, weight in enumerate(weights):
        own = hired * weight // sum(weights)
        ceiling = int(own * draw(CEILINGS))
        parts = draw(PARTS) if sets else (1,)
        for place, part in enumerate(parts):
            name = "" if place == len(parts) - 1 else f"c{place}"
            classes.append(ClassPlan(8 * number + place, f"r{number}", name, own * part // sum(parts), ceiling))
        classes.append(ClassPlan(8 * number + 7, f"r{number}", "control", CONTROL, 8 * CONTROL, control=True))
    queues = tuple((item.queue, item.control) for item in classes)
    past = draw(pasts_of(queues, floods))
    return Case(LinkPlan("trunk", CAPACITY, tuple(classes)), tuple(past), draw(demands_of(queues, floods)))


@settings(max_examples=EXAMPLES)
@given(case=cases(sets=False))
def test_any_mixture_is_shared_as_the_oracle_says(case: Case) -> None:
    """With ceilings by the equation; sets, which settle more slowly where hires are wide, are held in `test_sets`."""
    run = case.run(Policy())
    run.steps(case.demands, run.k_med + 2)
    for _ in range(3):
        rates = run.step(case.demands)
        assert worst_fitness(case.link, rates, case.demands) >= FIT
        assert use(case.link, rates, case.demands) >= FIT


@pytest.mark.parametrize("ceilings", list(Ceilings))
@settings(max_examples=EXAMPLES)
@given(case=cases(floods=True))
def test_promises_and_limits_of_any_mixture_are_kept_at_every_step(ceilings: Ceilings, case: Case) -> None:
    """Also when control is flooded, and right after a change of demands."""
    run = case.run(Policy(ceilings=ceilings))
    for _ in range(6):
        rates = run.step(case.demands)
        for item in case.link.classes:
            promised = item.hired_bps * (1 if item.control else case.kept)
            assert rates[item.queue] >= min(case.demands[item.queue], promised) - ROUNDING_BPS
            assert rates[item.queue] <= (item.ceiling_bps or CAPACITY) + ROUNDING_BPS
        for owner in groups(case.link):
            together = sum(rates[item.queue] for item in owner.classes)
            assert together <= owner.most_bps(CAPACITY) + ROUNDING_BPS
        assert sum(rates.values()) <= CAPACITY + ROUNDING_BPS

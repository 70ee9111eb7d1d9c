"""A router with a set of queues gets, in sum, what a router with one queue of the same hire gets (nested classes)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qos_controller.decision import Ceilings, Policy, PolicyKind, standard
from qos_controller.explain import explain
from qos_controller.ideal import fair_shares
from qos_controller.plan import LINK_MINOR, ClassPlan, LinkPlan
from qos_controller.policy import decide
from tests.unit.qos.fluid import M, Run, htb, use, worst_fitness

GREEDY = 100.0 * M
VOICE, BULK, REST, PEER, IDLE = range(5)
SET = (
    ClassPlan(VOICE, "r1", "voice", 4 * M),
    ClassPlan(BULK, "r1", "bulk", 6 * M),
    ClassPlan(REST, "r1", "", 10 * M),
)
OTHERS = (ClassPlan(PEER, "r2", hired_bps=20 * M), ClassPlan(IDLE, "r3", hired_bps=40 * M))
WITH_SET = LinkPlan("trunk", 100 * M, SET + OTHERS)
WITH_ONE = LinkPlan("trunk", 100 * M, (ClassPlan(VOICE, "r1", hired_bps=20 * M), *OTHERS))
FLAT = LinkPlan(
    "trunk", 100 * M, tuple(ClassPlan(item.queue, f"r1.{item.name}", hired_bps=item.hired_bps) for item in SET) + OTHERS
)
POLICIES = [Policy(), Policy(ceilings=Ceilings.LINK)]


def of_set(rates: dict[int, float]) -> float:
    return rates[VOICE] + rates[BULK] + rates[REST]


def as_one(demands: dict[int, float]) -> dict[int, float]:
    return {VOICE: min(of_set(demands), GREEDY), PEER: demands[PEER], IDLE: demands[IDLE]}


def demands_of(voice: float, bulk: float, rest: float, peer: float, idle: float) -> dict[int, float]:
    return dict(enumerate((voice, bulk, rest, peer, idle)))


DEMANDS = st.tuples(*[st.sampled_from([0.0, GREEDY]) | st.integers(0, 60 * M).map(float)] * 5).map(
    lambda rates: demands_of(*rates)
)


@settings(max_examples=200)
@given(
    past=st.lists(st.tuples(DEMANDS, st.integers(1, 6)), max_size=3),
    demands=DEMANDS,
    policy=st.sampled_from(POLICIES),
    k_med=st.sampled_from([1, 3, 5]),
)
def test_a_set_gets_in_sum_what_one_queue_gets(
    past: list[tuple[dict[int, float], int]], demands: dict[int, float], policy: Policy, k_med: int
) -> None:
    several, one = Run(WITH_SET, policy, k_med), Run(WITH_ONE, policy, k_med)
    for earlier, steps in past:
        several.steps(earlier, steps)
        one.steps(as_one(earlier), steps)
    several.steps(demands, k_med + 2)
    one.steps(as_one(demands), k_med + 2)
    for _ in range(5):
        rates, alone = several.step(demands), one.step(as_one(demands))
        assert of_set(rates) == pytest.approx(alone[VOICE], rel=0.03, abs=1000)
        for queue in (PEER, IDLE):
            assert rates[queue] == pytest.approx(alone[queue], rel=0.03, abs=1000)


@settings(max_examples=200)
@given(past=DEMANDS, demands=DEMANDS, policy=st.sampled_from(POLICIES))
def test_within_a_set_each_class_has_what_it_hired_and_the_rest_goes_by_hires(
    past: dict[int, float], demands: dict[int, float], policy: Policy
) -> None:
    run = Run(WITH_SET, policy)
    run.steps(past, 6)
    for _ in range(5):
        rates = run.step(demands)
        for item in SET:
            assert rates[item.queue] >= min(demands[item.queue], item.hired_bps) - 1
    assert worst_fitness(WITH_SET, run.steps(demands, 3), demands) >= 0.97


def test_what_a_set_is_guaranteed_is_there_at_once_for_whichever_class_is_busy() -> None:
    """HTB itself lends it, within the first interval and against a greedy peer."""
    run = Run(WITH_SET)
    busy = demands_of(0, 0, 0, GREEDY, GREEDY)
    run.steps(busy, 10)
    guarantee = run.decision.shares[0].guarantee_bps
    assert guarantee >= 20 * M
    assert of_set(run.step({**busy, VOICE: GREEDY})) == pytest.approx(guarantee, rel=0.01)


def test_flat_classes_would_give_a_set_less_when_only_one_class_is_busy() -> None:
    """Why classes are nested: the same hires beneath the link get by how much is hired for what is busy just now."""
    demands = demands_of(GREEDY, 0, 0, GREEDY, 0)
    assert fair_shares(WITH_SET, demands)[VOICE] == pytest.approx(50 * M)
    assert fair_shares(FLAT, demands)[VOICE] == pytest.approx(100 * M / 6)
    assert Run(FLAT).steps(demands, 8)[VOICE] == pytest.approx(100 * M / 6, rel=0.03)
    assert Run(WITH_SET).steps(demands, 8)[VOICE] == pytest.approx(50 * M, rel=0.03)


def test_quanta_that_do_not_move_would_divide_by_how_much_is_hired_for_what_is_busy() -> None:
    """Why quanta follow who borrows: HTB ignores the quantum of an inner class, its leaves' quanta count."""
    demands = demands_of(GREEDY, 0, 0, GREEDY, 0)
    run = Run(WITH_SET, Policy(ceilings=Ceilings.LINK))
    before = run.decision.settings
    run.steps(demands, 8)
    wanted = {queue + 1: rate for queue, rate in demands.items()}
    still = {
        minor: before[minor] if minor in range(1, 6) else setting for minor, setting in run.decision.settings.items()
    }
    assert htb(run.decision.settings, wanted)[VOICE + 1] == pytest.approx(50 * M, rel=0.01)
    assert htb(still, wanted)[VOICE + 1] < 45 * M
    quanta = [run.decision.settings[minor].quantum_bytes for minor in (VOICE + 1, PEER + 1)]
    assert quanta[0] == pytest.approx(quanta[1], rel=0.01)


def test_a_set_is_an_inner_class_with_its_queues_beneath() -> None:
    decision = Run(WITH_SET).decision
    inner = decision.shares[0].minor
    settings_ = decision.settings
    assert settings_[inner].parent == LINK_MINOR
    assert [settings_[queue + 1].parent for queue in range(5)] == [inner, inner, inner, LINK_MINOR, LINK_MINOR]
    leaves = [settings_[queue + 1] for queue in (VOICE, BULK, REST)]
    assert sum(leaf.rate_bps for leaf in leaves) <= settings_[inner].rate_bps
    assert all(leaf.ceil_bps <= settings_[inner].ceil_bps for leaf in leaves)
    assert "; its queues: 0 " in "\n".join(explain(decision))


LIMITED = (
    ClassPlan(VOICE, "r1", "voice", 4 * M, 50 * M),
    ClassPlan(BULK, "r1", "bulk", 6 * M, 50 * M),
    ClassPlan(REST, "r1", "", 10 * M, 50 * M),
)
WITH_LIMITED = LinkPlan("trunk", 100 * M, LIMITED + OTHERS)


@pytest.mark.parametrize("policy", [*POLICIES, *map(standard, (PolicyKind.PAPER, PolicyKind.STATIC))])
def test_the_ceiling_of_a_router_is_that_of_all_its_queues_together(policy: Policy) -> None:
    run = Run(WITH_LIMITED, policy)
    inner = run.decision.shares[0].minor
    for demands in (demands_of(GREEDY, GREEDY, GREEDY, 0, 0), demands_of(GREEDY, 0, GREEDY, 10.0 * M, 0)):
        for _ in range(8):
            assert of_set(run.step(demands)) <= 50 * M + 1
            assert run.decision.settings[inner].ceil_bps <= 50 * M
    assert sum(fair_shares(WITH_LIMITED, demands_of(GREEDY, GREEDY, GREEDY, 0, 0)).values()) == pytest.approx(50 * M)


@settings(max_examples=100)
@given(past=DEMANDS, demands=DEMANDS, policy=st.sampled_from(POLICIES))
def test_what_a_set_may_not_have_goes_to_the_others(
    past: dict[int, float], demands: dict[int, float], policy: Policy
) -> None:
    run = Run(WITH_LIMITED, policy)
    run.steps(past, 6)
    assert worst_fitness(WITH_LIMITED, run.steps(demands, 6), demands) >= 0.97
    assert use(WITH_LIMITED, run.rates[-1], demands) >= 0.97


def test_a_smaller_ceiling_of_a_set_is_written_however_little_it_moves() -> None:
    def limited(mbps: float) -> LinkPlan:
        return LinkPlan("trunk", 100 * M, (*SET[:2], ClassPlan(REST, "r1", "", 10 * M, int(mbps * M)), *OTHERS))

    before = decide(limited(50), {}, {})
    inner = before.shares[0].minor
    assert decide(limited(49.9), {}, before.settings).settings[inner].ceil_bps == int(49.9 * M)


@pytest.mark.parametrize("kind", [PolicyKind.PAPER, PolicyKind.EQUATION_1_ONLY, PolicyKind.STATIC])
def test_the_other_policies_take_sets_too(kind: PolicyKind) -> None:
    run = Run(WITH_SET, standard(kind))
    demands = demands_of(2.0 * M, GREEDY, 0, GREEDY, GREEDY)
    rates = run.steps(demands, 20)
    assert rates[VOICE] == 2 * M
    assert of_set(rates) >= 20 * M - 1

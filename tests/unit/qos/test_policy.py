"""Decisions one by one: level 1, bursts, quanta, promises that cannot be kept, control, what is written."""

from __future__ import annotations

import msgspec
import pytest

from qos_controller.decision import Ceilings, Policy, PolicyKind, Weights, standard
from qos_controller.explain import explain
from qos_controller.history import IDLE, Load
from qos_controller.plan import FRAME_BYTES, LINK_MINOR, ClassPlan, LinkPlan
from qos_controller.policy import CONTROL_PRIO, decide
from qos_controller.quanta import KERNEL_MAX, kernel_quantum
from tests.unit.qos.fluid import M, Run, worst_fitness

TWINS = LinkPlan("trunk", 100 * M, (ClassPlan(0, "a", hired_bps=20 * M), ClassPlan(1, "b", hired_bps=20 * M)))
LENDING_LINK = Policy(ceilings=Ceilings.LINK)


def link(*hired: float, capacity: float = 100) -> LinkPlan:
    classes = (ClassPlan(queue, f"n{queue}", hired_bps=int(rate * M)) for queue, rate in enumerate(hired))
    return LinkPlan("trunk", int(capacity * M), tuple(classes))


def guarantees(run: Run) -> list[float]:
    return [share.guarantee_bps / M for share in run.decision.shares]


def test_who_used_three_times_as_much_weighs_less_in_level_1() -> None:
    decision = decide(TWINS, {0: Load(60e6), 1: Load(20e6)}, {})
    a, b = decision.shares
    assert (a.weight, b.weight) == pytest.approx((1 / 4, 3 / 4))
    assert (a.guarantee_bps, b.guarantee_bps) == pytest.approx((35e6, 65e6))


@pytest.mark.parametrize("k_med", [1, 3, 5])
@pytest.mark.parametrize("later", [{0: 20 * M, 1: 20 * M}, {0: 100 * M, 1: 100 * M}], ids=["as hired", "greedy"])
def test_a_share_of_level_1_grows_back_within_k_med_steps(k_med: int, later: dict[int, float]) -> None:
    run = Run(TWINS, k_med=k_med)
    run.steps({0: 60 * M, 1: 20 * M}, 10)
    assert guarantees(run) == pytest.approx([35, 65])
    run.steps(later, k_med)
    assert guarantees(run) == pytest.approx([50, 50], rel=0.01)


@pytest.mark.parametrize("policy", [Policy(), standard(PolicyKind.EQUATION_1_ONLY)])
@pytest.mark.parametrize("at_rest", [0, 5, 19])
def test_a_burst_of_one_step_moves_ceilings_a_fifth_as_far_with_five_measurements(policy: Policy, at_rest: int) -> None:
    def moved(k_med: int) -> list[float]:
        run = Run(TWINS, policy, k_med)
        run.steps({0: at_rest * M, 1: 10 * M}, 10)
        before = [share.ceiling_bps for share in run.decision.shares]
        run.step({0: 100 * M, 1: 10 * M})
        return [abs(share.ceiling_bps - old) for share, old in zip(run.decision.shares, before, strict=True)]

    assert max(moved(1)) > M
    for with_one, with_five in zip(moved(1), moved(5), strict=True):
        assert with_five <= with_one / 5 + 1


def test_two_that_are_equally_over_their_hires_split_by_what_they_hired() -> None:
    loads = {0: Load(40e6), 1: Load(80e6)}
    for policy in (Policy(), Policy(weights=Weights.HIRED)):
        a, b = decide(link(20, 40), loads, {}, policy).shares
        assert (a.guarantee_bps, b.guarantee_bps) == pytest.approx((100e6 / 3, 200e6 / 3))


def test_idle_guaranteed_capacity_is_lent_to_whom_is_backlogged() -> None:
    decision = decide(link(20, 40), {0: Load(90e6, backlogged=True), 1: Load(10e6)}, {})
    a, b = decision.shares
    assert (a.guarantee_bps, b.guarantee_bps) == pytest.approx((24e6, 76e6))
    assert decision.idle_bps == pytest.approx(66e6)
    assert a.ceiling_bps == pytest.approx(90e6)
    assert b.ceiling_bps == pytest.approx(100e6)
    assert not b.backlogged
    told = "\n".join(explain(decision))
    assert "level 1: 40 Mbit/s beyond what was hired, by usage: n0 10.0%, n1 90.0%" in told
    assert "level 2: C = 66 Mbit/s of what is guaranteed is idle, lent to whom is backlogged: n0" in told
    assert "n0: hired 20 Mbit/s, uses 90 Mbit/s and wants more -> guarantee 24 Mbit/s, ceiling 90 Mbit/s" in told
    assert "to write: 1:fffe, 1:1, 1:2" in told


def test_who_wakes_up_has_its_guarantee_before_anything_is_measured() -> None:
    run = Run(link(20, 40))
    run.steps({0: 100 * M, 1: 0}, 60)
    assert run.step({0: 100 * M, 1: 100 * M})[1] >= 40 * M


@pytest.mark.parametrize("policy", [Policy(), LENDING_LINK])
def test_tiny_hires_get_a_frame_and_their_share(policy: Policy) -> None:
    plan = link(0.5, 0.5, 40)
    run = Run(plan, policy)
    quanta = [run.decision.settings[minor].quantum_bytes for minor in (1, 2, 3)]
    assert quanta == [2500, 2500, KERNEL_MAX]
    assert quanta[0] > FRAME_BYTES
    greedy = dict.fromkeys(range(3), 100.0 * M)
    assert worst_fitness(plan, run.steps(greedy, 5), greedy) > 0.98
    assert not run.decision.are_quanta_compressed


def test_the_least_quantum_is_a_few_frames_and_all_are_proportional() -> None:
    settings = decide(link(20, 40, 10), {}, {}).settings
    assert [settings[minor].quantum_bytes / FRAME_BYTES for minor in (1, 2, 3)] == [8, 16, 4]


def test_hires_too_far_apart_for_quanta_are_told_and_nobody_starves() -> None:
    plan = link(0.1, 90)
    run = Run(plan)
    small, large = (run.decision.settings[minor].quantum_bytes for minor in (1, 2))
    assert (small, large) == (FRAME_BYTES, KERNEL_MAX)
    assert run.decision.are_quanta_compressed
    assert "hires are too far apart" in "\n".join(explain(run.decision))
    greedy = {0: 100.0 * M, 1: 100.0 * M}
    assert worst_fitness(plan, run.steps(greedy, 6), greedy) > 0.95


def test_quanta_of_the_kernel_are_equal_from_16_mbit_on() -> None:
    assert kernel_quantum(16 * M) == kernel_quantum(900 * M) == 200_000
    assert (kernel_quantum(8 * M), kernel_quantum(8000)) == (100_000, 1000)


def test_more_hired_than_the_link_has_is_a_broken_promise_and_all_give_alike() -> None:
    decision = decide(link(20, 40, 90), {}, {})
    assert decision.is_broken
    assert decision.kept == pytest.approx(2 / 3)
    assert [share.guarantee_bps for share in decision.shares] == pytest.approx([40e6 / 3, 80e6 / 3, 60e6])
    assert sum(decision.settings[minor].rate_bps for minor in (1, 2, 3)) <= 100 * M
    assert "BROKEN PROMISE: more is hired than the link has; 66.7% of each guarantee is kept" in explain(decision)
    assert not decide(link(20, 40, 40), {}, {}).is_broken


@pytest.mark.parametrize("policy", [Policy(), LENDING_LINK])
@pytest.mark.parametrize("demand", [(100, 100, 100), (100, 0, 100), (0, 100, 10), (5, 5, 100)])
def test_a_link_that_lost_half_of_its_capacity_is_shared_by_hires_all_the_same(
    policy: Policy, demand: tuple[int, int, int]
) -> None:
    """The settings of before are in force when the plan changes, as after the failure of a trunk's member."""
    before = Run(link(20, 40, 30), policy)
    demands = {queue: float(rate * M) for queue, rate in enumerate(demand)}
    before.steps(demands, 5)
    after = Run(link(20, 40, 30, capacity=50), policy)
    after.decisions = [decide(after.link, {}, before.decision.settings, policy)]
    assert after.decision.is_broken
    assert after.decision.changed
    assert sum(after.decision.settings[minor].rate_bps for minor in (1, 2, 3)) <= 50 * M
    assert worst_fitness(after.link, after.steps(demands, 6), demands) >= 0.97


def test_control_is_guaranteed_first_served_first_and_in_no_sum() -> None:
    control = ClassPlan(9, "n0", "control", M, ceiling_bps=2 * M, control=True)
    plan = link(20, 40)
    plan = msgspec.structs.replace(plan, classes=(control, *plan.classes))
    run = Run(plan)
    greedy = dict.fromkeys((0, 1, 9), 100.0 * M)
    assert run.steps(greedy, 6)[9] >= M
    assert (run.decision.hired_bps, run.decision.reserved_bps) == (60 * M, M)
    assert sum(setting.rate_bps for minor, setting in run.decision.settings.items() if minor != LINK_MINOR) <= 100 * M
    setting = run.decision.settings[10]
    assert (setting.rate_bps, setting.ceil_bps, setting.prio) == (M, 2 * M, CONTROL_PRIO)
    a, b = run.decision.shares
    assert (a.ceiling_bps, b.ceiling_bps) == pytest.approx((33e6, 66e6))


def test_a_ceiling_of_its_own_is_kept_and_others_get_the_rest() -> None:
    classes = (
        ClassPlan(0, "a", hired_bps=20 * M, ceiling_bps=25 * M),
        ClassPlan(1, "b", hired_bps=20 * M, borrows=False),
        ClassPlan(2, "c", hired_bps=20 * M),
    )
    plan = LinkPlan("trunk", 100 * M, classes)
    greedy = dict.fromkeys(range(3), 100.0 * M)
    for policy in (Policy(), LENDING_LINK):
        got = Run(plan, policy).steps(greedy, 6)
        assert [got[queue] / M for queue in range(3)] == pytest.approx([25, 20, 55], rel=0.01)


def test_what_hardly_moves_is_not_written() -> None:
    plan = link(20, 40)
    first = decide(plan, {0: Load(90e6, backlogged=True), 1: Load(10e6)}, {})
    again = decide(plan, {0: Load(90e6, backlogged=True), 1: Load(10.3e6)}, first.settings)
    assert again.changed == again.removed == ()
    assert again.settings == first.settings
    assert "nothing to write: all is within 1 % of what is set" in explain(again)


def test_only_what_moves_is_written_unless_guarantees_then_exceed_the_link() -> None:
    before, after = {0: Load(90e6, True), 1: Load(10e6)}, {0: Load(88e6, True), 1: Load(12e6)}
    for weights, changed in ((Weights.HIRED, (1,)), (Weights.USAGE, (1, 2))):
        policy = Policy(weights=weights)
        first = decide(link(20, 40), before, {}, policy)
        then = decide(link(20, 40), after, first.settings, policy)
        assert then.changed == changed
        assert sum(then.settings[minor].rate_bps for minor in (1, 2)) <= 100 * M


def test_a_small_rise_of_a_hire_or_fall_of_a_ceiling_is_written_all_the_same() -> None:
    exact = standard(PolicyKind.STATIC)
    before = decide(link(20, 40), {}, {}, exact).settings
    assert decide(link(20.1, 40), {}, before, exact).changed == (1,)
    limited = LinkPlan("trunk", 100 * M, (ClassPlan(0, "n0", hired_bps=20 * M, ceiling_bps=int(99.5 * M)),))
    assert 1 in decide(limited, {}, before, exact).changed


def test_classes_that_are_no_more_are_removed_leaves_first() -> None:
    several = LinkPlan("p", 10 * M, (ClassPlan(0, "a", "x", M), ClassPlan(1, "a", "y", M), ClassPlan(2, "b", "", M)))
    before = decide(several, {}, {}).settings
    assert list(before) == [LINK_MINOR, 0x8001, 1, 2, 3]
    after = decide(msgspec.structs.replace(several, classes=several.classes[2:]), {}, before)
    assert after.removed == (1, 2, 0x8001)
    assert after.settings.keys() == {LINK_MINOR, 3}


def test_a_link_without_classes_has_its_own_class_alone() -> None:
    assert decide(LinkPlan("p", 10 * M), {}, {}).settings.keys() == {LINK_MINOR}


@pytest.mark.parametrize("kind", list(PolicyKind))
def test_every_policy_explains_itself(kind: PolicyKind) -> None:
    run = Run(link(20, 40), standard(kind))
    for demand in (5, 100):
        run.steps({0: demand * M, 1: demand * M}, 5)
        told = explain(run.decision)
        assert kind.value in told[0]
        assert sum(line.startswith(("level 1", "level 2", "n0", "n1")) for line in told) == 4


@pytest.mark.parametrize("kind", [PolicyKind.PAPER, PolicyKind.EQUATION_1_ONLY])
def test_ceilings_stay_at_the_link_as_long_as_nothing_is_measured(kind: PolicyKind) -> None:
    pair = link(20, 40)
    first = decide(pair, {}, {}, standard(kind))
    second = decide(pair, {0: IDLE, 1: IDLE}, first.settings, standard(kind))
    assert not second.changed
    assert second.settings[1].ceil_bps == second.settings[2].ceil_bps == 100 * M
    third = decide(pair, {0: Load(), 1: Load()}, second.settings, standard(kind))
    assert third.settings[1].ceil_bps < 100 * M, "measured, and idle"

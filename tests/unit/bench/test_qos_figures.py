"""What is computed of shares: quanta and their warnings, overload of links and the steps of a router that moves."""

from __future__ import annotations

import pytest

from bench import qos_history, qos_migrate, qos_shares
from xenflow_lab.shares import Counters


def test_a_link_on_which_nothing_is_dropped_is_not_overloaded() -> None:
    before = {"source": Counters(0, 0, 5, 9), "target": Counters(0, 0, 5, 9)}
    after = {"source": Counters(9, 9, 8, 0), "target": Counters(9, 9, 5, 9)}
    assert qos_migrate.not_overloaded(before, after) == ["target"]
    assert qos_migrate.not_overloaded(before, {"source": Counters(1, 1, 1, 0)}) == [], "a class that was made anew"


def test_each_window_has_the_steps_that_it_saw() -> None:
    second = 10**9
    reached = [(3 * second, "reserving"), (3 * second + second // 4, "moving"), (4 * second, "done")]
    assert qos_migrate.steps_within(reached, 2 * second + second // 2, 5) == [
        "before the moves",
        "reserving, moving",
        "moving",
        "done",
        "done",
    ]


def test_quanta_hold_a_frame_and_are_no_larger_than_htb_likes() -> None:
    text = "class htb 1:3 parent 1:fffe prio 1 quantum {} rate 1Mbit\nclass htb 1:4 prio 1 quantum {} rate 1Mbit\n"
    assert qos_shares.quanta_of(text.format(200000, 1522)) == [1522, 200000]
    assert qos_shares.are_within_bounds([1522, 200_000])
    assert not qos_shares.are_within_bounds([1000, 200_000])
    assert not qos_shares.are_within_bounds([1522, 200_001])
    assert not qos_shares.are_within_bounds([])


def test_what_the_kernel_says_of_quanta_is_found_in_its_log_since_the_start() -> None:
    earlier = "[   10.1] HTB: quantum of class 10003 is small. Consider r2q change.\n"
    other = "[   11.1] vif1.2: entered promiscuous mode\n"
    now = "[   12.1] HTB: quantum of class 10003 is small. Consider r2q change.\n"
    assert qos_shares.warnings_since(earlier, earlier + other) == []
    assert qos_shares.warnings_since(earlier, other + now) == [now.strip()]
    assert qos_shares.warnings_since(None, None) == []


def test_who_has_its_guarantee_in_a_burst_alone_has_not_woken() -> None:
    times_s = [0.02 * number for number in range(16)]
    burst = [0.0, 5.0, 80.0, 10.0, 10.0, 39.0, 40.0, 66.0, 66.0, 66.0, 66.0, 66.0, 66.0, 66.0, 66.0]
    assert qos_shares.woken(times_s, burst, 38.8) == (1, 5)
    assert qos_shares.woken(times_s, [0.0, 80.0, 80.0, 80.0, 80.0, 9.0] + [80.0, 9.0] * 4 + [9.0], 38.8) == (1, -1)


@pytest.mark.parametrize(("took_s", "holds"), [(0.5, True), (3.9, True), (4.15, True), (4.3, False), (4.9, False)])
def test_level_1_is_equal_again_after_k_med_intervals_and_no_more(took_s: float, holds: bool) -> None:
    assert (qos_history.part_of_k_med(took_s) <= 1) == holds

"""What is computed of shares: quanta and their warnings, overload of links and the steps of a router that moves."""

from __future__ import annotations

from bench import qos_migrate, qos_shares
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

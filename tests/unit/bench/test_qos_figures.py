"""What is computed of a router that moves under load: were links overloaded, what happened in each window."""

from __future__ import annotations

from bench import qos_migrate
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

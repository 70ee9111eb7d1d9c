"""Floods are counted in full and logged in few lines."""

from __future__ import annotations

import pytest

from xenflow.tally import MAX_KEPT, REPEAT_S, Tally


def test_the_log_names_each_place_once_a_minute_with_the_count_in_between(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally("ignored")
    for second in range(120):
        for _ in range(100):
            tally.add("a:vif1", "x", float(second))
        tally.add("a:vif2", "x", float(second))
    assert [record.getMessage() for record in caplog.records] == [
        "ignored at=a:vif1 why=x times=1",
        "ignored at=a:vif2 why=x times=1",
        f"ignored at=a:vif1 why=x times={int(REPEAT_S) * 100}",
        f"ignored at=a:vif2 why=x times={int(REPEAT_S)}",
    ]
    assert dict(tally.lines()) == {"a:vif1: x": 12000, "a:vif2: x": 120}


def test_what_is_remembered_is_bounded() -> None:
    tally = Tally("ignored")
    for number in range(3 * MAX_KEPT):
        tally.add(f"port {number}", "x", 0.0)
    assert len(list(tally.lines())) == MAX_KEPT + 1
    assert tally.total == 3 * MAX_KEPT

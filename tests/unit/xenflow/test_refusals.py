"""Refusals are counted always and logged seldom."""

from __future__ import annotations

import pytest

from xenflow.errors import Fault, RemoteProtocolError
from xenflow.refusals import REPEAT_S, Refusals


def garbage() -> RemoteProtocolError:
    return RemoteProtocolError("not a message", Fault.GARBAGE)


def test_a_peer_is_named_once_for_a_fault_and_counted_always(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals("ssl:[::1]:6654")
    for second in range(10):
        refusals.add("10.0.0.1", garbage(), float(second))
    assert refusals.counts == {Fault.GARBAGE: 10}
    assert [record.getMessage() for record in caplog.records] == [
        "refused at=ssl:[::1]:6654 peer=10.0.0.1 fault=garbage unlogged=0 why=not a message"
    ]


def test_another_peer_and_another_fault_have_lines_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals("here")
    refusals.add("a", garbage(), 0.0)
    refusals.add("b", garbage(), 0.0)
    refusals.add("a", RemoteProtocolError("silent", Fault.IDLE_TIMEOUT), 0.0)
    assert len(caplog.records) == 3


def test_later_the_count_in_between_is_said(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals("here")
    for _ in range(5):
        refusals.add("a", garbage(), 0.0)
    refusals.add("a", garbage(), REPEAT_S)
    assert "unlogged=4" in caplog.records[-1].getMessage()


def test_many_peers_at_once_do_not_flood_the_log_or_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals("here")
    for number in range(5000):
        refusals.add(f"peer {number}", garbage(), 0.0)
    assert refusals.counts[Fault.GARBAGE] == 5000
    assert len(caplog.records) <= 20
    assert len(refusals._silent) + len(refusals._logged) <= 2048

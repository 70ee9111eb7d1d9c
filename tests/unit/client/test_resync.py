"""Timelines of dumps."""

from __future__ import annotations

import itertools

from xenflow_client.resync import Resync
from xenflow_client.rtnetlink import Table


def run(resync: Resync, until: float, takes_s: float = 0.1, trusted: bool = True) -> list[tuple[float, Table]]:
    """Let each dump take `takes_s`; return which started when."""
    started = []
    now = 0.0
    while (now := max(now, resync.next_deadline())) <= until:
        if (start := resync.start(now)) is None:
            continue
        started.append((round(now, 2), start[0]))
        now += takes_s
        resync.end(trusted and resync.complete, now)
    return started


def test_everything_at_the_start_then_periodically() -> None:
    resync = Resync(interval_s=300)
    assert [table for _, table in run(resync, 10)] == list(Table)
    assert resync.ready
    again = run(resync, 350)
    assert [table for _, table in again] == list(Table)
    assert 300 <= again[0][0] < 301


def test_not_ready_before_everything_has_been_listed() -> None:
    resync = Resync()
    for _ in range(4):
        assert not resync.ready
        assert resync.start(0.0) is not None
        resync.end(True, 0.0)
    assert resync.start(0.0) is not None
    resync.end(False, 0.0)
    assert not resync.ready
    assert resync.start(0.0) is None
    assert resync.start(1.0) is not None
    resync.end(True, 1.0)
    assert resync.ready


def test_what_is_wanted_is_dumped_together_and_at_a_distance_that_grows_with_the_cost() -> None:
    resync = Resync(interval_s=1000)
    run(resync, 10, takes_s=0.0)
    resync.want([Table.ROUTES_IPV4], "", 20.0)
    resync.want([Table.NEIGHBORS], "", 20.0)
    assert resync.start(20.0) is None
    assert resync.start(20.1) == (Table.NEIGHBORS, 6)
    resync.end(True, 20.1)
    assert resync.start(20.1) == (Table.ROUTES_IPV4, 7)
    resync.end(True, 21.1)
    resync.want([Table.ROUTES_IPV4], "", 21.2)
    assert resync.next_deadline() == 24.1


def test_overrun_during_a_dump_lets_it_end_and_starts_again() -> None:
    resync = Resync(interval_s=1000)
    run(resync, 10)
    resync.want([Table.LINKS], "", 20.0)
    assert resync.start(21.0) is not None
    resync.overrun(21.0)
    assert resync.start(22.0) is None
    assert not resync.complete
    resync.end(resync.complete, 22.0)
    assert [table for _, table in run(resync, 30)] == list(Table)


def test_a_dump_that_cannot_be_trusted_is_repeated_less_and_less_often() -> None:
    resync = Resync(interval_s=1000)
    run(resync, 10)
    resync.want([Table.ROUTES_IPV6], "", 20.0)
    tries = [at for at, _ in run(resync, 400, trusted=False)]
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert 55 < pauses[-1] < 65


def test_a_dump_without_an_end_is_given_up() -> None:
    resync = Resync()
    assert resync.start(0.0) is not None
    resync.progress(10.0)
    assert not resync.silent(39.0)
    assert resync.next_deadline() == 40.0
    assert resync.silent(40.0)

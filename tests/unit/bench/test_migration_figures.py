"""What is computed of measured migrations."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench import interruption, interruption_vms, migration, moving
from bench.rtnetlink import prefixes
from xenflow.answers import MigrationStatus, Reached


def status(**after_s: float) -> MigrationStatus:
    reached = [Reached(state.replace("_", "-"), seconds) for state, seconds in after_s.items()]
    return MigrationStatus(1, "r1", "n1", "n2", True, "done", True, "", 100, "", 3.0, reached)


def report(p9999_ms: float, windows: tuple[int, ...] = (0,), extents: tuple[int, ...] = (0,)) -> dict[str, Any]:
    flows = [
        {"reorder_windows": count, "reorder_extent_max": extent} for count, extent in zip(windows, extents, strict=True)
    ]
    return {"gap_ns": {"p99.99": int(p9999_ms * 1e6)}, "flows": flows}


def test_steps_are_the_times_between_states() -> None:
    found = moving.steps(status(preparing=0, resuming=1.0, announcing=1.25, re_pointing=1.3, draining=1.35, done=2.4))
    assert (found.source, found.target) == ("n1", "n2")
    assert (found.sync_ms, found.repoint_ms) == (pytest.approx(250), pytest.approx(50))


def test_reordering_is_counted_for_each_migration_and_gaps_against_the_baseline() -> None:
    load = migration.Load("any", 64, 8_000)
    steps = [moving.Steps("n1", "n2", 0, 0)] * 4
    one = migration.Run(load, report(2.0), report(7.6), report(9.5, (2, 4), (3, 10)), steps)
    assert one.late_ms == pytest.approx(7.5)
    assert one.ports_ratio == pytest.approx(1.25)
    assert one.windows == 1
    assert one.reordered_ms == pytest.approx(10)  # ten packets of a flow that sends 1,000 a second


def test_many_destinations_are_the_routes_and_each_flow_goes_to_each() -> None:
    words = migration.MANY.words
    first, last = prefixes(migration.ROUTES, length=32)[0], prefixes(migration.ROUTES, length=32)[-1]
    assert (first, last) == ((bytes([20, 0, 0, 0]), 32), (bytes([20, 0, 3, 231]), 32))
    assert words[words.index("--to") + 1] == "20.0.0.0-20.0.3.231:5000"
    assert math.gcd(migration.MANY.flows, migration.MANY.destinations) == 1
    assert migration.MANY.halved().words[-4:] == ["--rate-pps", "5000.0", "--size", "64"]


def test_figures_leave_out_what_a_variant_does_not_have() -> None:
    rounds = [
        interruption.Round(interruption.NATIVE, "target", [6.0], 100, lost, 0, 1.1, 1.0, None, 1.4) for lost in (7, 9)
    ]
    found = interruption.figures(rounds)
    assert found[interruption.LOST] == [7, 9]
    assert interruption.SYNCED_S not in found
    assert found[interruption.HEARD_S] == [1.4, 1.4]


def test_a_machine_is_silent_from_the_last_answer_before_to_the_first_after() -> None:
    lines = [f"[{at:.6f}] 64 bytes from 10.0.1.1: icmp_seq=7 ttl=64 time=0.4 ms" for at in (100.0, 101.0, 109.5, 110.0)]
    answers = interruption_vms.answered("\n".join(["PING 10.0.1.1", *lines, "4 packets transmitted"]))
    move = interruption_vms.Move(2.0, 9.0, 0.5, 0.0)
    assert interruption_vms.with_silence(move, answers, 100.0).silent_s == pytest.approx(8.5)
    assert interruption_vms.with_silence(move, answers[:1], 100.0).silent_s == pytest.approx(7.0)

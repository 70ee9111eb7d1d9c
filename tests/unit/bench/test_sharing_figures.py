"""What is computed of measured shares."""

from __future__ import annotations

import pytest

from bench import histories, qos_switching, sharing
from bench.tenants import Series, topology
from qos_controller.ideal import fill
from xenflow_lab import checks, shares

TC = """class htb 1:3 parent 1:fffe leaf 9053: prio 7 rate 100Kbit ceil 100Mbit burst 3044b cburst 25000b\x20
 Sent 6060 bytes 101 pkt (dropped 7, overlimits 0 requeues 0)\x20
 backlog 1518b 1p requeues 0
 lended: 101 borrowed: 0 giants: 0
 tokens: 3730000 ctokens: 31175

class htb 1:fffe root rate 100Mbit ceil 100Mbit burst 25000b cburst 25000b\x20
 Sent 309683255 bytes 204761 pkt (dropped 0, overlimits 3612 requeues 0)\x20
 backlog 0b 0p requeues 0
"""


def test_classes_are_read_by_queue_id() -> None:
    assert shares.parse(TC) == {
        2: shares.Counters(6060, 101, 7, 1),
        0xFFFD: shares.Counters(309683255, 204761, 0, 0),
    }


def test_rates_are_those_of_the_intervals_between_readings() -> None:
    series = Series([10.0, 10.5, 11.5], {1: [0, 62_500, 187_500], 2: [0, 0, 125_000]})
    assert series.rates([1]) == [pytest.approx(1), pytest.approx(1)]
    assert series.rates([1, 2]) == [pytest.approx(1), pytest.approx(2)]
    assert series.mean([1]) == pytest.approx(1)


def test_fitness_is_that_of_the_window_after_the_hire() -> None:
    one = sharing.Round("paper", ([90.0] * 30 + [0.0] * 5 + [30.0] * 25, [0.0] * 35 + [66.0] * 25))
    assert one.means() == [30.0, 66.0]
    assert one.fitness() == [pytest.approx(0.9), pytest.approx(0.99)]
    assert one.use() == pytest.approx(0.96)


def test_demands_of_eight_stay_within_what_is_sent_and_windows_within_an_epoch() -> None:
    series = Series([0.25 * n for n in range(41)], {1: [31_250 * n for n in range(41)]})
    epoch = qos_switching.Epoch(2.0, 8.0, {1: 1.0})
    found = list(qos_switching._windows(series, {n: [1] for n in range(1, 9)}, epoch))
    assert len(found) == 5  # from 3 to 8 s
    assert found[0] == [pytest.approx(1)] * 8
    fitness, carried = qos_switching._judge([1.0] + [0.0] * 7, epoch.demands, 98.0)
    assert (fitness, carried) == ([pytest.approx(1)], pytest.approx(1))


def test_the_network_of_tenants_is_valid() -> None:
    assert checks.problems(topology((1, 2, 0), 10, {"t_med_s": 0.5}, [{"name": "voice", "rate": "100kbit"}])) == []


def test_the_table_that_is_expected_is_the_ideal() -> None:
    for row, demands in enumerate(histories.DEMANDS):
        ideal = fill(histories.LINK_MBPS, histories.HIRES, demands)
        assert histories.EXPECTED["work-conserving", histories.FRESH][row] == pytest.approx(tuple(ideal), abs=0.05)

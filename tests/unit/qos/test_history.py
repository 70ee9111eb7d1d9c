"""Counters become rates: means of the last k_med, standing backlogs, counters and clocks that run backwards."""

from __future__ import annotations

import pytest

from qos_controller.history import IDLE, History, Load, Sample

MB = 1_000_000
"""Bytes in a second that make 8 Mbit/s."""


def observed(*samples: Sample, k_med: int = 3) -> Load:
    history = History(k_med, 1.0)
    for sample in samples:
        history.observe({7: sample})
    return history.loads()[7]


def test_nothing_is_known_before_two_samples() -> None:
    assert History(3, 1.0).loads() == {}
    assert observed(Sample(1.0, 5 * MB, drops=4, backlog_bytes=9)) == IDLE


def test_the_load_is_the_mean_of_the_last_k_med_rates() -> None:
    counters = (0, 1, 3, 6, 10)  # 8, 16, 24, 32 Mbit/s
    samples = [Sample(float(i), MB * count) for i, count in enumerate(counters)]
    assert observed(*samples).rate_bps == pytest.approx(24e6)
    assert observed(*samples, k_med=1).rate_bps == pytest.approx(32e6)
    assert observed(*samples).last_bps == pytest.approx(32e6)
    assert observed(*samples[:2]).rate_bps == pytest.approx(8e6)


def test_a_rate_is_over_the_time_that_really_passed() -> None:
    assert observed(Sample(0.0, 0), Sample(2.5, MB)).rate_bps == pytest.approx(3.2e6)


@pytest.mark.parametrize(
    "odd",
    [
        Sample(2.0, 100),
        Sample(2.0, 9 * MB, packets=1),
        Sample(2.0, 9 * MB, packets=50, drops=0),
        Sample(1.0, 9 * MB, packets=50, drops=5),
        Sample(0.5, 9 * MB, packets=50, drops=5),
        Sample(999.0, 9 * MB, packets=50, drops=5),
    ],
    ids=["bytes back", "packets back", "drops back", "clock stands", "clock back", "clock leaps"],
)
def test_an_interval_that_does_not_tell_is_dropped_and_counting_goes_on_from_there(odd: Sample) -> None:
    first, second = Sample(0.0, 0, 10, 5), Sample(1.0, MB, 20, 5)
    assert observed(first, second, odd).rate_bps == pytest.approx(8e6)
    later = Sample(odd.time_s + 1, odd.bytes + 3 * MB, odd.packets, odd.drops)
    assert observed(first, second, odd, later).rate_bps == pytest.approx(16e6)


def busy(*pattern: int, k_med: int) -> bool:
    """Return whether a class is backlogged that dropped packets in the intervals with 1."""
    drops = 0
    samples = [Sample(0.0, 0)]
    for time, is_busy in enumerate(pattern, start=1):
        drops += is_busy
        samples.append(Sample(float(time), 0, 0, drops))
    return observed(*samples, k_med=k_med).backlogged


def test_a_backlog_stands_when_it_lasts() -> None:
    assert busy(1, k_med=1)
    assert not busy(0, 0, 1, k_med=2)
    assert not busy(0, 0, 1, k_med=3)
    assert busy(0, 1, 1, k_med=3)
    assert not busy(0, 0, 0, 0, 1, k_med=5)
    assert not busy(0, 0, 0, 1, 1, k_med=5)
    assert busy(0, 0, 1, 1, 1, k_med=5)


def test_the_end_of_a_backlog_shows_at_once() -> None:
    assert not busy(1, 1, 1, 1, 0, k_med=5)


def test_drops_standing_backlog_or_a_ceiling_reached_show_who_wants_more() -> None:
    def second(**counters: int) -> bool:
        return observed(Sample(0.0, 0), Sample(1.0, MB, **counters), k_med=1).backlogged

    assert not second()
    assert second(drops=1)
    assert second(ceiling_bps=8 * MB)
    assert not second(ceiling_bps=9 * MB)
    assert not second(backlog_bytes=1500)
    assert observed(Sample(0.0, 0, backlog_bytes=1), Sample(1.0, MB, backlog_bytes=1), k_med=1).backlogged


def test_a_class_that_is_gone_is_forgotten() -> None:
    history = History(3, 1.0)
    history.observe({1: Sample(0.0, 0), 2: Sample(0.0, 0)})
    history.observe({1: Sample(1.0, MB)})
    assert history.loads().keys() == {1}
    history.observe({1: Sample(2.0, MB), 2: Sample(2.0, 5 * MB)})
    assert history.loads()[2] == IDLE
    history.forget([1, 9])
    assert history.loads().keys() == {2}

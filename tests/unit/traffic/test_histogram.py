from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from xenflow_lab.traffic.histogram import Histogram


@given(st.lists(st.integers(0, 10**13), min_size=1), st.sampled_from([50.0, 99.0, 99.99]))
def test_a_percentile_is_at_most_one_percent_too_high(values: list[int], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]
    found = histogram.percentile(percent)
    assert found is not None
    assert exact <= found <= exact * 1.01
    assert histogram.maximum == max(values)


@given(st.lists(st.integers(0, 10**13)), st.lists(st.integers(0, 10**13), min_size=1))
def test_including_another_is_counting_its_values(mine: list[int], others: list[int]) -> None:
    whole, part, other = Histogram(), Histogram(), Histogram()
    for value in mine:
        whole.add(value)
        part.add(value)
    for value in others:
        whole.add(value)
        other.add(value)
    part.include(other)
    assert part.count == whole.count
    assert part.summary() == whole.summary()


def test_nothing_counted_has_no_percentiles() -> None:
    assert Histogram().summary() == {"p50": None, "p99": None, "p99.99": None, "max": None}


def test_a_negative_delay_counts_as_zero() -> None:
    histogram = Histogram()
    histogram.add(-5)
    assert histogram.percentile(50) == 0

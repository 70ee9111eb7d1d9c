"""Back-off over scripted randomness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow.backoff import Backoff
from xenflow.errors import ConfigError


def test_waits_double_up_to_the_maximum() -> None:
    backoff = Backoff(0.1, 0.5, uniform=lambda: 0.0)
    assert [round(backoff.next(), 3) for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert backoff.attempts == 5


def test_a_success_begins_anew() -> None:
    backoff = Backoff(0.1, 0.5, uniform=lambda: 0.0)
    for _ in range(4):
        backoff.next()
    backoff.reset()
    assert backoff.next() == pytest.approx(0.1)
    assert backoff.attempts == 1


@given(st.floats(0, 1), st.integers(1, 30))
def test_a_wait_is_never_above_the_maximum_nor_below_half_of_the_first(random: float, attempts: int) -> None:
    backoff = Backoff(0.1, 0.5, uniform=lambda: random)
    waits = [backoff.next() for _ in range(attempts)]
    assert all(0.05 <= wait <= 0.5 for wait in waits)


@pytest.mark.parametrize(("initial_s", "maximum_s"), [(0, 1), (-1, 1), (2, 1)])
def test_waits_must_make_sense(initial_s: float, maximum_s: float) -> None:
    with pytest.raises(ConfigError):
        Backoff(initial_s, maximum_s)

"""A slow machine is given time, a fast one finds out soon."""

from __future__ import annotations

import pytest

from xenflow_client.patience import LEAST_S, MOST_S, Patience


def test_each_attempt_that_was_given_up_doubles_the_limit() -> None:
    patience = Patience()
    seen = []
    for _ in range(4):
        seen.append(patience.limit_s)
        patience.gave_up()
    assert seen == [LEAST_S, 2 * LEAST_S, MOST_S, MOST_S]


@pytest.mark.parametrize(("took_s", "limit_s"), [(0.01, LEAST_S), (0.9, 3.6), (3.0, MOST_S)])
def test_what_a_handshake_took_counts_for_the_first_attempt_at_the_next_server(took_s: float, limit_s: float) -> None:
    patience = Patience()
    patience.gave_up()
    patience.succeeded(took_s)
    patience.steady()
    assert patience.limit_s == pytest.approx(limit_s)


def test_a_connection_that_does_not_last_changes_nothing() -> None:
    patience = Patience()
    patience.gave_up()
    before = patience.limit_s
    patience.succeeded(0.01)
    assert patience.limit_s == before

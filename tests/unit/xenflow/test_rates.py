"""Token buckets over scripted time."""

from __future__ import annotations

from xenflow.rates import MAX_PEERS, PeerRates


def test_a_burst_and_then_a_rate() -> None:
    rates = PeerRates(rate_per_s=2, burst=3)
    assert [rates.take("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert [rates.take("a", 0.5) for _ in range(2)] == [True, False]
    assert [rates.take("a", 100.0) for _ in range(4)] == [True, True, True, False]


def test_peers_do_not_share() -> None:
    rates = PeerRates(rate_per_s=1, burst=1)
    assert rates.take("a", 0.0)
    assert rates.take("b", 0.0)
    assert not rates.take("a", 0.0)


def test_refusals_do_not_postpone_the_next_chance() -> None:
    rates = PeerRates(rate_per_s=1, burst=1)
    rates.take("a", 0.0)
    assert not any(rates.take("a", tenth / 10) for tenth in range(1, 10))
    assert rates.take("a", 1.01)


def test_many_peers_are_not_many_buckets() -> None:
    rates = PeerRates(rate_per_s=1, burst=1)
    for number in range(5 * MAX_PEERS):
        assert rates.take(str(number), 0.0)
    assert len(rates._buckets) == MAX_PEERS

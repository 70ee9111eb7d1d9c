"""Timelines of the upkeep of neighbors."""

from __future__ import annotations

from xenflow.model import Hop
from xenflow_client.neighbors import Request, Upkeep
from xenflow_client.seen import NUD_FAILED, NUD_PERMANENT, NUD_PROBE, NUD_REACHABLE, NUD_STALE, NeighborSeen

MAC = bytes.fromhex("020000000001")
GATEWAY = b"\x0a\0\0\2"
RESOLVE = Request(3, GATEWAY, resolve=True)
PROBE = Request(3, GATEWAY, resolve=False)


class Middle:
    """A source of chance that always takes the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def upkeep(refresh_s: float = 20.0, rate_hz: float = 200.0) -> Upkeep:
    result = Upkeep(refresh_s, rate_hz=rate_hz, random=Middle())
    result.link(3, True)
    return result


def seen(state: int, address: bytes = GATEWAY, kept: bool = False, gone: bool = False) -> NeighborSeen:
    return NeighborSeen(3, address, b"" if state == NUD_FAILED else MAC, state, kept, gone)


def asked_until(keep: Upkeep, end: float) -> list[tuple[float, Request]]:
    """Go through time, deadline by deadline, and return what was asked when."""
    asked = []
    while (deadline := keep.next_deadline()) is not None and deadline <= end:
        asked += [(round(deadline, 3), request) for request in keep.due(deadline)]
    keep.now = end
    return asked


def test_nothing_to_do() -> None:
    keep = upkeep()
    keep.neighbor(seen(NUD_REACHABLE))
    keep.neighbor(seen(NUD_PERMANENT, b"\x0a\0\0\3"))
    keep.neighbor(seen(NUD_STALE, b"\x0a\0\0\4", kept=True))
    assert keep.next_deadline() is None


def test_stale_is_verified_and_again_as_long_as_it_stays_so() -> None:
    keep = upkeep()
    keep.neighbor(seen(NUD_STALE))
    keep.neighbor(seen(NUD_STALE))
    assert asked_until(keep, 40) == [(15.0, PROBE), (35.0, PROBE)]


def test_no_longer_stale_is_left_alone() -> None:
    keep = upkeep()
    keep.neighbor(seen(NUD_STALE))
    keep.neighbor(seen(NUD_PROBE))
    assert asked_until(keep, 100) == []
    keep.neighbor(seen(NUD_STALE))
    keep.neighbor(seen(NUD_STALE, gone=True))
    assert asked_until(keep, 200) == []


def test_all_of_many_are_verified_within_a_minute_at_a_bounded_rate() -> None:
    keep = upkeep(rate_hz=100.0)
    addresses = [bytes([10, 0, number >> 8, number & 255]) for number in range(1000)]
    for address in addresses:
        keep.neighbor(seen(NUD_STALE, address))
    asked = asked_until(keep, 34.9)
    assert sorted(request.address for _, request in asked) == addresses
    for start, _ in asked:
        assert sum(1 for at, _ in asked if start <= at < start + 1) <= 100 + 64


def test_gateway_is_asked_for_with_growing_pauses() -> None:
    keep = upkeep()
    keep.use(Hop(3, GATEWAY))
    assert asked_until(keep, 20) == [(0.0, RESOLVE), (1.0, RESOLVE), (3.0, RESOLVE), (7.0, RESOLVE), (15.0, RESOLVE)]
    assert len(asked_until(keep, 1000)) in range(16, 20)


def test_known_gateway_is_not_asked_for() -> None:
    keep = upkeep()
    keep.neighbor(seen(NUD_REACHABLE))
    keep.use(Hop(3, GATEWAY))
    assert keep.next_deadline() is None


def test_gateway_that_failed_is_asked_for_at_once_then_slower() -> None:
    keep = upkeep()
    keep.use(Hop(3, GATEWAY))
    asked_until(keep, 100)
    keep.neighbor(seen(NUD_REACHABLE))
    assert asked_until(keep, 200) == []
    keep.neighbor(seen(NUD_FAILED))
    keep.neighbor(seen(NUD_FAILED))
    assert asked_until(keep, 204) == [(200.0, RESOLVE), (201.0, RESOLVE), (203.0, RESOLVE)]


def test_what_the_kernel_has_given_up_is_asked_for_a_few_times_more() -> None:
    keep = upkeep()
    keep.neighbor(seen(NUD_REACHABLE))
    keep.neighbor(seen(NUD_FAILED))
    assert asked_until(keep, 2) == [(1.0, RESOLVE)]
    keep.neighbor(seen(NUD_FAILED))
    assert asked_until(keep, 1000) == [(3.0, RESOLVE), (7.0, RESOLVE), (15.0, RESOLVE)]
    keep.neighbor(seen(NUD_FAILED))
    assert keep.next_deadline() is None


def test_what_was_stale_and_failed_to_answer_is_asked_for_again() -> None:
    keep = upkeep()
    keep.neighbor(seen(NUD_STALE))
    assert asked_until(keep, 15) == [(15.0, PROBE)]
    keep.neighbor(seen(NUD_PROBE))
    keep.now = 18
    keep.neighbor(seen(NUD_FAILED))
    assert asked_until(keep, 19) == [(19.0, RESOLVE)]
    keep.neighbor(seen(NUD_REACHABLE))
    assert keep.next_deadline() is None


def test_what_somebody_removes_or_nobody_knew_is_not_asked_for() -> None:
    keep = upkeep()
    keep.neighbor(seen(NUD_FAILED))
    keep.neighbor(seen(NUD_REACHABLE))
    keep.neighbor(seen(NUD_FAILED))
    keep.neighbor(seen(NUD_FAILED, gone=True))
    assert keep.next_deadline() is None


def test_what_somebody_else_keeps_is_left_to_them_when_the_kernel_gives_it_up() -> None:
    keep = upkeep()
    keep.neighbor(seen(NUD_REACHABLE, kept=True))
    keep.neighbor(seen(NUD_FAILED, kept=True))
    assert keep.next_deadline() is None


def test_a_neighbor_that_was_given_up_and_becomes_a_gateway_is_asked_for_as_one() -> None:
    keep = upkeep()
    keep.neighbor(seen(NUD_REACHABLE))
    keep.neighbor(seen(NUD_FAILED))
    keep.use(Hop(3, GATEWAY))
    assert asked_until(keep, 20) == [(0.0, RESOLVE), (1.0, RESOLVE), (3.0, RESOLVE), (7.0, RESOLVE), (15.0, RESOLVE)]


def test_gateway_out_of_use_is_forgotten() -> None:
    keep = upkeep()
    keep.use(Hop(3, GATEWAY))
    keep.use(Hop(3, GATEWAY, 2))
    keep.disuse(Hop(3, GATEWAY, 2))
    assert asked_until(keep, 0.5) == [(0.0, RESOLVE)]
    keep.disuse(Hop(3, GATEWAY))
    assert asked_until(keep, 100) == []


def test_gateway_behind_a_link_that_is_down_waits_for_it() -> None:
    keep = upkeep()
    keep.link(3, False)
    keep.use(Hop(3, GATEWAY))
    assert asked_until(keep, 100) == []
    keep.link(3, True)
    assert asked_until(keep, 100.5) == [(100.0, RESOLVE)]


def test_stale_gateway_is_verified_and_not_forgotten_when_its_use_ends() -> None:
    keep = upkeep()
    keep.neighbor(seen(NUD_STALE))
    keep.use(Hop(3, GATEWAY))
    keep.disuse(Hop(3, GATEWAY))
    assert asked_until(keep, 16) == [(15.0, PROBE)]


def test_a_printing_client_asks_for_nothing() -> None:
    keep = Upkeep(refresh_s=0, resolve=False)
    keep.link(3, True)
    keep.neighbor(seen(NUD_STALE))
    keep.use(Hop(3, GATEWAY))
    keep.neighbor(seen(NUD_FAILED))
    keep.neighbor(seen(NUD_REACHABLE, b"\x0a\0\0\3"))
    keep.neighbor(seen(NUD_FAILED, b"\x0a\0\0\3"))
    assert keep.next_deadline() is None

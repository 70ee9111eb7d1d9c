"""Capped routes against a model that sorts the full table, and against the rule that they exist for."""

from __future__ import annotations

import random
import time
from collections.abc import Collection

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from xenflow.capped import CappedRoutes, Move
from xenflow.model import Prefix, pack_prefix


def prefix(bits: int, length: int, v6: bool) -> Prefix:
    """Return a prefix near the root of its family, so that covering prefixes are common."""
    width = 16 if v6 else 4
    address = (bits & ((1 << length) - 1)) << (width * 8 - length) if length else 0
    return address.to_bytes(width, "big") + bytes([length])


PREFIXES = st.builds(prefix, st.integers(0, 63), st.integers(0, 6), st.booleans())


def covers(shorter: Prefix, longer: Prefix) -> bool:
    """Return whether `shorter` strictly covers `longer`."""
    if len(shorter) != len(longer) or shorter[-1] >= longer[-1]:
        return False
    shift = (len(shorter) - 1) * 8 - shorter[-1]
    return int.from_bytes(shorter[:-1], "big") >> shift == int.from_bytes(longer[:-1], "big") >> shift


def kept(table: dict[Prefix, int], cap: int) -> dict[Prefix, int]:
    """Return what is visible, by sorting all of it: length, family, address, highest first."""
    order = sorted(table, key=lambda p: (p[-1], len(p), p), reverse=True)
    return {p: table[p] for p in (order[:cap] if cap else order)}


class Capped(RuleBasedStateMachine):
    """`shown` is what somebody has who only applies the moves."""

    @initialize(cap=st.integers(0, 5))
    def begin(self, cap: int) -> None:
        self.routes: CappedRoutes[int] = CappedRoutes(cap)
        self.table: dict[Prefix, int] = {}
        self.shown: dict[Prefix, int] = {}
        self.cap = cap

    @rule(key=PREFIXES, value=st.integers(0, 2))
    def put(self, key: Prefix, value: int) -> None:
        self.table[key] = value
        new = {key} if key not in self.shown else set[Prefix]()  # until its turn comes, its packets go where they went
        self.apply(self.routes.put(key, value), self.cap, new)

    @rule(key=PREFIXES)
    def drop(self, key: Prefix) -> None:
        self.table.pop(key, None)
        self.apply(self.routes.drop(key), self.cap)

    @rule(cap=st.integers(0, 5))
    def set_cap(self, cap: int) -> None:
        before = self.visible_limit()
        self.cap = cap
        self.apply(self.routes.set_cap(cap), max(before, self.visible_limit()))

    def visible_limit(self) -> int:
        return self.cap or len(self.table)

    def apply(self, moves: list[Move], limit: int, new: Collection[Prefix] = ()) -> None:
        for move in moves:
            if move.shown:
                assert self.shown.get(move.prefix) != self.table[move.prefix]
                self.shown[move.prefix] = self.table[move.prefix]
            else:
                del self.shown[move.prefix]
            assert not limit or len(self.shown) <= limit
            assert not self.astray(new)

    def astray(self, new: Collection[Prefix] = ()) -> list[Prefix]:
        hidden = [key for key in self.table if key not in self.shown and key not in new]
        return [key for key in hidden if any(covers(visible, key) for visible in self.shown)]

    @invariant()
    def nothing_hidden_is_forwarded_by_a_shorter_prefix(self) -> None:
        assert not self.astray()

    @invariant()
    def it_is_what_sorting_gives(self) -> None:
        assert self.shown == kept(self.table, self.cap) == dict(self.routes.visible_routes())
        assert (self.routes.visible, self.routes.shed) == (len(self.shown), len(self.table) - len(self.shown))
        assert len(self.routes) == len(self.table)
        for key in self.table:
            assert self.routes.is_visible(key) == (key in self.shown)


TestCapped = Capped.TestCase
TestCapped.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_the_longest_stay() -> None:
    routes: CappedRoutes[str] = CappedRoutes(2)
    p8, p16, p24 = map(pack_prefix, ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"))
    assert routes.put(p8, "a") == [Move(p8, True)]
    assert routes.put(p16, "b") == [Move(p16, True)]
    assert routes.put(p24, "c") == [Move(p8, False), Move(p24, True)]
    assert routes.put(p8, "d") == []
    assert routes.put(p24, "e") == [Move(p24, True)]
    assert routes.put(p24, "e") == []
    assert routes.drop(p24) == [Move(p24, False), Move(p8, True)]
    assert routes[p8] == "d"
    assert routes.shed == 0


def test_room_is_given_longest_first_and_taken_shortest_first() -> None:
    routes: CappedRoutes[int] = CappedRoutes(1)
    prefixes = [pack_prefix(f"10.0.0.0/{length}") for length in (8, 16, 24, 32)]
    for p in prefixes:
        routes.put(p, 0)
    p8, p16, p24, _ = prefixes
    assert routes.set_cap(0) == [Move(p24, True), Move(p16, True), Move(p8, True)]
    assert routes.set_cap(2) == [Move(p8, False), Move(p16, False)]


@given(st.lists(PREFIXES, max_size=40), st.integers(1, 10))
def test_the_order_of_arrival_does_not_matter(keys: list[Prefix], cap: int) -> None:
    one: CappedRoutes[int] = CappedRoutes(cap)
    other: CappedRoutes[int] = CappedRoutes(cap)
    for key in keys:
        one.put(key, 0)
    for key in reversed(keys):
        other.put(key, 0)
    assert dict(one.visible_routes()) == dict(other.visible_routes())


def test_flapping_at_the_cap_does_not_cost_the_table() -> None:
    routes: CappedRoutes[int] = CappedRoutes(50_000)
    keys = [(i << 8).to_bytes(4, "big") + b"\x18" for i in range(50_001)]
    random.Random(1).shuffle(keys)
    for key in keys:
        routes.put(key, 0)
    begin = time.perf_counter()
    for key in keys[:2000]:
        routes.drop(key)
        routes.put(key, 1)
    per_change_s = (time.perf_counter() - begin) / 4000
    assert per_change_s < 0.0005  # sorting the table takes 20 ms and more
    assert len(routes._worst_visible or ()) + len(routes._best_hidden) < 3 * len(keys)


def test_a_route_that_was_visible_once_is_not_taken_for_its_earlier_self() -> None:
    routes: CappedRoutes[int] = CappedRoutes(3)
    p8, p12, p16, p24, p32 = (pack_prefix(f"10.0.0.0/{length}") for length in (8, 12, 16, 24, 32))
    for p in (p8, p16, p24, p32):
        routes.put(p, 0)
    routes.drop(p16)
    routes.drop(p8)
    routes.put(p12, 0)
    assert routes.put(p8, 0) == []
    assert not routes.is_visible(p8)
    assert set(dict(routes.visible_routes())) == {p12, p24, p32}

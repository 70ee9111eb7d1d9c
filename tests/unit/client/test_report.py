"""What is reported under a cap."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from xenflow.model import Link, Route, RouteKind, ShedRoutes
from xenflow.replica import Outbox
from xenflow_client.report import Report, lower_cap

PREFIXES = st.builds(
    lambda value, length: (value >> (32 - length) << (32 - length)).to_bytes(4, "big") + bytes([length]),
    st.integers(0, 2**32 - 1),
    st.integers(1, 32),
)
CHANGES = st.lists(st.tuples(st.sampled_from(["put", "drop", "cap"]), PREFIXES, st.integers(0, 6)), max_size=60)


@given(CHANGES)
def test_the_longest_prefixes_are_reported_and_the_rest_counted(changes: list[tuple[str, bytes, int]]) -> None:
    report = Report(Outbox("r1"))
    all_routes: dict[bytes, Route] = {}
    cap = 0
    for what, prefix, number in changes:
        if what == "put":
            all_routes[prefix] = Route(prefix, RouteKind(number % 3 + 1))
            report.put(all_routes[prefix])
        elif what == "drop":
            all_routes.pop(prefix, None)
            report.drop(Route.KIND, prefix)
        else:
            cap = number
            report.set_cap(cap)
        reported = dict(report.outbox.facts.of(Route.KIND))
        kept = min(cap, len(all_routes)) if cap else len(all_routes)
        assert len(reported) == kept
        assert all(all_routes[prefix] == route for prefix, route in reported.items())
        hidden = all_routes.keys() - reported.keys()
        assert report.shed == len(hidden)
        if hidden and reported:
            assert max(prefix[-1] for prefix in hidden) <= min(prefix[-1] for prefix in reported)
        shed = report.outbox.facts.of(ShedRoutes.KIND).get(b"")
        assert shed == (ShedRoutes(len(hidden)) if hidden else None)


def test_other_facts_do_not_count() -> None:
    report = Report(Outbox("r1"))
    report.set_cap(1)
    report.put(Link(2, "eth0", bytes(6), 1500, True))
    report.put(Link(3, "eth1", bytes(6), 1500, True))
    report.drop(Link.KIND, Link(2, "", b"", 0, False).key)
    assert list(report.outbox.facts.of(Link.KIND)) == [b"\0\0\0\3"]


def test_without_a_cap_nothing_is_kept_twice() -> None:
    report = Report(Outbox("r1"))
    prefixes = [bytes([10, number, 0, 0, 16]) for number in range(100)]
    random.Random(1).shuffle(prefixes)
    for prefix in prefixes:
        report.put(Route(prefix, RouteKind.BLACKHOLE))
    report.set_cap(10)
    assert report.shed == 90
    report.set_cap(0)
    assert report.shed == 0
    assert len(report.outbox.facts) == 100


def test_the_lower_cap_counts_and_zero_is_none() -> None:
    assert [lower_cap(*pair) for pair in ((0, 0), (5, 0), (0, 7), (5, 7), (7, 5))] == [0, 5, 7, 5, 5]

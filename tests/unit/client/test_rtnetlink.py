"""Bytes in, values out: what is understood, what is left out, and that no bytes do harm."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import netlinkbytes as nl
from tests.fakes.kernel import FakeLink, FakeRoute
from xenflow.model import Fact, Hop, RouteKind, pack_prefix
from xenflow.shape import malformed
from xenflow_client import rtnetlink, rtroute
from xenflow_client.neighbors import Upkeep
from xenflow_client.observer import Observer
from xenflow_client.resync import Resync
from xenflow_client.rtnetlink import MalformedError, Table
from xenflow_client.seen import AddressSeen, DumpEnd, LinkSeen, NeighborSeen, NexthopsChanged, RouteSeen, Seen

PREFIX = pack_prefix("10.9.0.0/16")
MAC = bytes.fromhex("020000000001")


def decoded(data: bytes) -> list[Seen | None]:
    routes = rtroute.RouteDecoder()
    result: list[Seen | None] = []
    for kind, flags, seq, start, end in rtnetlink.messages(data):
        if kind in (rtnetlink.RTM_NEWROUTE, rtnetlink.RTM_DELROUTE):
            result.append(routes.decode(data, kind, flags, start, end))
        else:
            result.append(rtnetlink.decode(data, kind, flags, seq, start, end))
    return result


def raw_route(
    *, family: int = 2, length: int = 16, table: int = 254, kind: int = 1, flags: int = 0, attributes: bytes = b""
) -> bytes:
    body = struct.pack("=BBBBBBBBI", family, length, 0, 0, table, 3, 0, kind, flags)
    return nl.message(nl.RTM_NEWROUTE, 0, body + nl.attribute(1, PREFIX[:-1]) + attributes)


DEVICE = nl.attribute(4, nl.word(10))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        decoded(data)


@given(
    st.sampled_from([2, 3, 16, 17, 20, 21, 24, 25, 28, 29, 105]),
    st.sampled_from([0, 2, 7, 10]),
    st.binary(max_size=120),
)
def test_any_body(kind: int, family: int, body: bytes) -> None:
    with contextlib.suppress(MalformedError):
        decoded(nl.message(kind, 0, bytes([family]) + body))


@given(st.binary(max_size=60), st.integers(0, 40))
def test_any_attributes_of_a_route(noise: bytes, kind: int) -> None:
    with contextlib.suppress(MalformedError):
        decoded(raw_route(attributes=DEVICE + nl.attribute(kind, noise)))


class Strict:
    """A sink that takes only what a server takes."""

    def put(self, fact: Fact) -> None:
        assert malformed(fact) == ""

    def drop(self, kind: int, key: bytes) -> None: ...


@given(
    st.lists(
        st.tuples(
            st.sampled_from([16, 17, 20, 21, 24, 25, 28, 29]),
            st.sampled_from([0, 2, 10]),
            st.binary(min_size=7, max_size=11),
            st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 5, 6, 8, 9, 15, 18]), st.binary(max_size=17)), max_size=5),
        ),
        max_size=8,
    )
)
def test_nothing_is_reported_that_a_server_would_refuse(
    bodies: list[tuple[int, int, bytes, list[tuple[int, bytes]]]],
) -> None:
    observer = Observer(Strict(), Upkeep(), Resync())
    for kind, family, head, found in bodies:
        size = {16: 16, 17: 16, 20: 8, 21: 8}.get(kind, 12)
        body = (bytes([family]) + head).ljust(size, b"\0")[:size]
        observer.receive(nl.message(kind, 0, body + b"".join(nl.attribute(*one) for one in found)), 0.0)
        observer.settle(0.0)


def test_several_messages_in_one_datagram() -> None:
    link = FakeLink(3, "eth0", MAC, up=True)
    data = nl.link(link) + nl.address(3, PREFIX) + nl.neighbor(3, b"\x0a\0\0\2", MAC, 4) + nl.done(7)
    assert decoded(data) == [
        LinkSeen(3, "eth0", MAC, 1500, link.flags),
        AddressSeen(3, PREFIX),
        NeighborSeen(3, b"\x0a\0\0\2", MAC, 4),
        DumpEnd(7),
    ]


def test_message_of_a_bridge_about_its_port_is_not_about_the_link() -> None:
    body = struct.pack("=BxHiII", 7, 1, 3, 0, 0)
    assert decoded(nl.message(nl.RTM_DELLINK, 0, body)) == [None]


@pytest.mark.parametrize(("flags", "usable"), [(0x08, False), (0x40, False), (0x48, False), (0x44, True), (0x80, True)])
def test_address_that_is_refused_or_not_proven_unique_yet_is_not_usable(flags: int, usable: bool) -> None:
    """0x08 refused, 0x40 tentative, 0x04 optimistic (used meanwhile), 0x80 permanent."""
    body = struct.pack("=BBBBi", 10, 64, flags, 0, 3) + nl.attribute(1, bytes(15) + b"\x02")
    assert decoded(nl.message(nl.RTM_NEWADDR, 0, body)) == [AddressSeen(3, bytes(15) + b"\x02\x40", usable=usable)]


@pytest.mark.parametrize("address", [b"\xe0\0\0\x05", b"\xff\x02" + bytes(14)])
def test_multicast_neighbors_are_none(address: bytes) -> None:
    assert decoded(nl.neighbor(3, address, MAC, 0x40)) == [None]


def test_broadcast_neighbor_is_none() -> None:
    assert decoded(nl.neighbor(3, b"\x0a\0\0\xff", b"\xff" * 6, 0x40)) == [None]


def test_bridge_and_proxy_entries_are_no_neighbors() -> None:
    for family, flags in ((7, 0), (2, 0x08)):
        body = struct.pack("=BxxxiHBB", family, 3, 2, flags, 0) + nl.attribute(1, bytes(4))
        assert decoded(nl.message(nl.RTM_NEWNEIGH, 0, body)) == [None]


@pytest.mark.parametrize(("flags", "more"), [(0x10, 0), (0, 1)])
def test_neighbor_that_somebody_keeps(flags: int, more: int) -> None:
    body = struct.pack("=BxxxiHBB", 2, 3, 4, flags, 0) + nl.attribute(1, b"\x0a\0\0\2") + nl.attribute(2, MAC)
    body += nl.attribute(15, nl.word(more))
    assert decoded(nl.message(nl.RTM_NEWNEIGH, 0, body)) == [NeighborSeen(3, b"\x0a\0\0\2", MAC, 4, kept=True)]


def test_removed_nexthop_object() -> None:
    assert decoded(nl.message(105, 0, bytes(8))) == [NexthopsChanged()]


@pytest.mark.parametrize("length", [33, 255])
def test_prefix_length_beyond_the_address_is_ignored(length: int) -> None:
    assert decoded(raw_route(length=length, attributes=DEVICE)) == [None]


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 5, 10, 11, 200])
def test_types_that_are_no_routes_for_the_switch(kind: int) -> None:
    assert decoded(raw_route(kind=kind, attributes=DEVICE)) == [None]


def test_cloned_routes_and_other_tables_are_ignored() -> None:
    assert decoded(raw_route(flags=0x200, attributes=DEVICE)) == [None]
    assert decoded(raw_route(table=255, attributes=DEVICE)) == [None]
    assert decoded(raw_route(table=252, attributes=nl.attribute(15, nl.word(1000)) + DEVICE)) == [None]
    assert decoded(raw_route(family=28, attributes=DEVICE)) == [None]


def test_nexthop_object_that_does_not_show_its_gateway_is_slow() -> None:
    (seen,) = decoded(raw_route(attributes=nl.attribute(30, nl.word(7))))
    assert isinstance(seen, RouteSeen)
    assert (seen.candidate.kind, seen.candidate.hops) == (RouteKind.SLOW, ())


@pytest.mark.parametrize("more", [nl.attribute(21, b"\1\0"), nl.attribute(19, bytes(4))])
def test_encapsulated_next_hop_among_others_is_slow(more: bytes) -> None:
    plain, special = struct.pack("=HBBi", 8, 0, 0, 10), struct.pack("=HBBi", 8 + len(more), 0, 0, 11) + more
    (seen,) = decoded(raw_route(attributes=nl.attribute(9, plain + special)))
    assert isinstance(seen, RouteSeen)
    assert seen.candidate.kind is RouteKind.SLOW


@pytest.mark.parametrize("length", [0, 7, 200])
def test_next_hop_of_impossible_length(length: int) -> None:
    with pytest.raises(MalformedError):
        decoded(raw_route(attributes=nl.attribute(9, struct.pack("=HBBi", length, 0, 0, 10))))


def test_routes_that_differ_in_the_prefix_share_everything_else() -> None:
    routes = rtroute.RouteDecoder()
    hops = (nl.RawHop(3, b"\x0a\0\0\2", 4), nl.RawHop(2, b"\x0a\0\1\2", 1))
    seen = []
    for text in ("10.1.0.0/16", "10.2.0.0/24"):
        data = nl.route(FakeRoute(pack_prefix(text), 20, 0, 1, hops), 0)
        ((kind, flags, _, start, end),) = rtnetlink.messages(data)
        seen.append(routes.decode(data, kind, flags, start, end))
    first, second = seen
    assert first is not None
    assert second is not None
    assert (first.prefix, second.prefix) == (pack_prefix("10.1.0.0/16"), pack_prefix("10.2.0.0/24"))
    assert first.candidate is second.candidate
    assert first.candidate.hops == (Hop(2, b"\x0a\0\1\2", 1), Hop(3, b"\x0a\0\0\2", 4))
    assert first.candidate.order == (0, 20)


def test_many_different_routes_are_not_remembered_forever() -> None:
    routes = rtroute.RouteDecoder()
    for metric in range(10_000):
        data = nl.route(FakeRoute(PREFIX, metric + 1, 0, 6, ()), 0)
        ((kind, flags, _, start, end),) = rtnetlink.messages(data)
        seen = routes.decode(data, kind, flags, start, end)
        assert seen is not None
        assert seen.candidate.order == (0, metric + 1)
    assert routes.remembered <= 4096


def test_more_next_hops_than_a_server_takes_are_slow() -> None:
    hops = b"".join(struct.pack("=HBBi", 8, 0, 0, link) for link in range(1, 302))
    (seen,) = decoded(raw_route(attributes=nl.attribute(9, hops)))
    assert isinstance(seen, RouteSeen)
    assert seen.candidate.kind is RouteKind.SLOW


@pytest.mark.parametrize("mac", [b"", b"\x0a\0\0\1", bytes(20)])
def test_link_that_is_no_ethernet(mac: bytes) -> None:
    (seen,) = decoded(nl.link(FakeLink(3, "tun\x07", mac)))
    assert isinstance(seen, LinkSeen)
    assert seen.internal
    assert (seen.name, seen.ethernet) == ("tun?", bytes(6))


@pytest.mark.parametrize("table", list(Table))
def test_dump_requests_ask_for_a_dump(table: Table) -> None:
    kind, seq, body = nl.parse_request(rtnetlink.dump_request(table, 9))
    assert seq == 9
    assert kind in (18, 22, 30, 26)
    assert len(body) >= 8
    _, _, flags, _, _ = struct.unpack_from("=IHHII", rtnetlink.dump_request(table, 9))
    assert flags == 0x301


def test_neighbor_requests() -> None:
    probe = nl.parse_neighbor_request(nl.parse_request(rtnetlink.probe_request(3, b"\x0a\0\0\2", 1))[2])
    resolve = nl.parse_neighbor_request(nl.parse_request(rtnetlink.resolve_request(3, bytes(16), 1))[2])
    assert probe == (3, b"\x0a\0\0\2", 0x10, 0)
    assert resolve == (3, bytes(16), 0, 1)

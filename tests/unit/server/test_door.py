"""The table of docs/server.md, row by row: what a router may say."""

import pytest

from xenflow.model import (
    Address,
    Alarm,
    Bridge,
    Fact,
    Handed,
    Hop,
    Link,
    Neighbor,
    Network,
    NodeLimits,
    Route,
    RouteKind,
    ShedRoutes,
    pack_prefix,
)
from xenflow.resources import Granted, Resources
from xenflow.wire import Update
from xenflow_server.door import Bounds, Door

MAC = b"\x02\0\0\0\0\1"
HOPS = (Hop(2, bytes([10, 0, 0, 1])),)
HOPS6 = (Hop(2, bytes.fromhex("fe800000000000000000000000000001")),)
V6 = bytes.fromhex("20010db8000000000000000000000001")
MAPPED = bytes(10) + b"\xff\xff\x0a\0\0\1"


def unicast(prefix: str | bytes, hops: tuple[Hop, ...] = HOPS) -> Route:
    return Route(pack_prefix(prefix) if isinstance(prefix, str) else prefix, RouteKind.UNICAST, hops)


GOOD: list[Fact] = [
    unicast("0.0.0.0/0"),
    unicast("::/0", HOPS6),
    unicast("10.0.0.0/8"),
    unicast("10.0.0.1/32"),
    unicast("169.254.0.0/16"),
    unicast("2001:db8::/32", HOPS6),
    unicast("fd00::/8", HOPS6),
    unicast("10.1.0.0/16", HOPS6),  # RFC 8950: IPv4 over an IPv6 next hop
    unicast("10.2.0.0/16", (Hop(2),)),  # connected
    unicast("10.3.0.0/16", (Hop(2, bytes([10, 0, 0, 1])), Hop(3, bytes([10, 0, 1, 1]), 5))),
    Route(pack_prefix("10.9.0.0/16"), RouteKind.BLACKHOLE),
    Route(pack_prefix("10.8.0.0/16"), RouteKind.SLOW),
    Link(2, "eth0", MAC, 1500, True),
    Link(3, "eth1", MAC, 68, False),
    Link(4, "eth2", MAC, 65535, False),
    Address(2, bytes([10, 0, 0, 1, 24])),
    Address(2, HOPS6[0].gateway + b"\x40"),
    Neighbor(2, bytes([10, 0, 0, 2]), MAC),
    Neighbor(2, V6, MAC),
    ShedRoutes(0),
    ShedRoutes(5),
]

BAD: list[tuple[Fact, str]] = [
    (unicast(bytes([10, 0, 0, 1, 24])), "host bits set"),
    (unicast(bytes([10, 0, 0, 0, 33])), "prefix length out of range"),
    (unicast(V6[:8] + bytes(8) + b"\x81", HOPS6), "prefix length out of range"),
    (unicast(b"\x0a\0\0"), "5 or 17 bytes"),
    (unicast("224.0.0.0/4"), "multicast or reserved"),
    (unicast("239.1.0.0/16"), "multicast or reserved"),
    (unicast("240.0.0.0/4"), "multicast or reserved"),
    (unicast("255.255.255.255/32"), "multicast or reserved"),
    (unicast("ff00::/8", HOPS6), "multicast or reserved"),
    (unicast("127.0.0.0/8"), "loopback"),
    (unicast("::1/128", HOPS6), "loopback"),
    (unicast("fe80::/64", HOPS6), "link-local destination"),
    (unicast("::ffff:10.0.0.0/104", HOPS6), "IPv4-mapped"),
    (unicast("10.0.0.0/8", ()), "a unicast route has next hops"),
    (Route(pack_prefix("10.0.0.0/8"), RouteKind.BLACKHOLE, HOPS), "a unicast route has next hops"),
    (unicast("10.0.0.0/8", (Hop(0, HOPS[0].gateway),)), "link index out of range"),
    (unicast("10.0.0.0/8", (Hop(-1, HOPS[0].gateway),)), "link index out of range"),
    (unicast("10.0.0.0/8", (Hop(1 << 31, HOPS[0].gateway),)), "link index out of range"),
    (unicast("10.0.0.0/8", (Hop(2, b"\x0a\0"),)), "gateway of another family"),
    (unicast("2001:db8::/32", HOPS), "gateway of another family"),
    (unicast("10.0.0.0/8", (Hop(2, bytes(4)),)), "no unicast address"),
    (unicast("10.0.0.0/8", (Hop(2, bytes([224, 0, 0, 5])),)), "no unicast address"),
    (unicast("10.0.0.0/8", (Hop(2, bytes([240, 0, 0, 1])),)), "no unicast address"),
    (unicast("10.0.0.0/8", (Hop(2, bytes([127, 0, 0, 1])),)), "no unicast address"),
    (unicast("2001:db8::/32", (Hop(2, MAPPED),)), "no unicast address"),
    (unicast("10.0.0.0/8", (Hop(2, HOPS[0].gateway, 0),)), "weight out of range"),
    (unicast("10.0.0.0/8", (Hop(2, HOPS[0].gateway, 65537),)), "weight out of range"),
    (unicast("10.0.0.0/8", tuple(Hop(n, HOPS[0].gateway) for n in range(1, 66))), "more than 64 next hops"),
    (Link(2, "", MAC, 1500, True), "printable characters"),
    (Link(2, "a" * 16, MAC, 1500, True), "1 to 15 bytes"),
    (Link(2, "e\nth", MAC, 1500, True), "printable characters"),
    (Link(2, "eth0", MAC, 67, True), "MTU is 68 to 65535"),
    (Link(2, "eth0", MAC, 65536, True), "MTU is 68 to 65535"),
    (Link(0, "eth0", MAC, 1500, True), "link index out of range"),
    (Link(1 << 40, "eth0", MAC, 1500, True), "out of range"),
    (Link(2, "eth0", b"\x02", 1500, True), "6 bytes"),
    (Link(2, "eth0", bytes(6), 1500, True), "no unicast address"),
    (Link(2, "eth0", b"\x01\0\x5e\0\0\1", 1500, True), "no unicast address"),
    (Link(2, "eth0", b"\xaa" * 6, 1500, True), "announcement"),
    (Address(2, bytes([10, 0, 0, 1, 33])), "out of range"),
    (Address(2, bytes([0, 0, 0, 0, 8])), "unspecified"),
    (Address(2, bytes([127, 0, 0, 1, 8])), "loopback"),
    (Address(2, bytes([224, 0, 0, 1, 32])), "multicast"),
    (Address(2, MAPPED + b"\x80"), "loopback"),
    (Neighbor(2, bytes(4), MAC), "unspecified"),
    (Address(0, bytes([10, 0, 0, 1, 24])), "link index out of range"),
    (Neighbor(2, b"\x0a\0\0", MAC), "out of range"),
    (Neighbor(2, bytes([255, 255, 255, 255]), MAC), "multicast"),
    (Neighbor(2, MAPPED, MAC), "loopback"),
    (Neighbor(2, bytes([10, 0, 0, 2]), b"\xff" * 6), "no unicast address"),
    (Neighbor(2, bytes([10, 0, 0, 2]), b"\xaa" * 6), "announcement"),
    (ShedRoutes(-1), "negative"),
    (Network("n", 5), "not for a router to say"),
    (Bridge("b", 1), "not for a router to say"),
    (Handed("r2", 1), "not for a router to say"),
    (NodeLimits(1), "not for a router to say"),
    (Granted("r2", Resources()), "not for a router to say"),
    (Alarm("help"), "not for a router to say"),
]


def update(*facts: Fact) -> Update:
    return Update("r1", 1, list(facts))


def test_good_facts_pass_untouched() -> None:
    everything = update(*GOOD)
    assert Door().admit(everything) == (everything, [])
    door = Door()
    for _ in range(2):  # the second time from memory
        assert door.admit(everything) == (everything, [])


@pytest.mark.parametrize(("fact", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_fact_is_refused_and_the_others_go_on(fact: Fact, reason: str) -> None:
    door = Door()
    door.admit(update(unicast("10.0.0.0/8")))  # known next hops make no difference
    admitted, reasons = door.admit(update(GOOD[2], fact, GOOD[-1]))
    assert [reason in said for said in reasons] == [True]
    assert sum(door.refused.values()) == 1
    assert fact not in admitted.upserts
    assert GOOD[-1] in admitted.upserts


def test_what_a_bad_fact_would_replace_is_forgotten() -> None:
    neighbor = Neighbor(2, bytes([10, 0, 0, 2]), b"\xff" * 6)
    admitted, _ = Door().admit(update(neighbor))
    assert admitted.withdrawals == [(Neighbor.KIND, neighbor.key)]


def test_a_prefix_whose_next_hops_are_refused_is_left_to_the_vm() -> None:
    """Without it, its packets would follow a shorter prefix."""
    many = unicast("10.1.0.0/16", tuple(Hop(n, HOPS[0].gateway) for n in range(1, 66)))
    bits = unicast(bytes([10, 0, 0, 1, 24]))
    admitted, reasons = Door().admit(update(many, bits))
    assert admitted.upserts == [Route(many.prefix, RouteKind.SLOW)]
    assert admitted.withdrawals == [(Route.KIND, bits.prefix)]
    assert len(reasons) == 2


def test_small_kinds_are_bounded_and_room_comes_back() -> None:
    door = Door(Bounds(neighbors=2))
    facts = [Neighbor(2, bytes([10, 0, 0, n]), MAC) for n in (1, 2, 3)]
    admitted, reasons = door.admit(update(*facts))
    assert (admitted.upserts, reasons) == (facts[:2], ["more than 2 facts of kind Neighbor"])
    assert door.admit(update(facts[0]))[1] == []
    door.forget([(Neighbor.KIND, facts[0].key)])
    assert door.admit(update(facts[2])) == (update(facts[2]), [])


def test_a_flood_of_refusals_is_one_reason() -> None:
    door = Door()
    _, reasons = door.admit(update(*(unicast(bytes([10, 0, n, 1, 24])) for n in range(100))))
    assert reasons == ["host bits set in a prefix"]
    assert door.refused == {"host bits set in a prefix": 100}

"""A trace tells what the flows do with a packet, and why: over nodes and routers, to its end."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from tests.unit.app.network import World, mac
from tests.unit.app.test_queries import ask, packed, refusal, route, small
from xenflow.answers import Outcome, Trace
from xenflow.model import Hop, Neighbor, RouteKind, ShedRoutes, link_local_of, mac_text


def trace(world: World, sender: str, to: str, **arguments: str) -> Trace:
    return ask(world, "trace", Trace, **{"from": sender, "to": to, **arguments})


def only(answer: Trace) -> Outcome:
    (outcome,) = answer.outcomes
    return outcome


def far() -> World:
    """As `small`, with a lan2 behind r2, and h3 in it on node a; routes both ways, IPv4 and IPv6."""
    world = World("ab", (("a", 11, "b", 12),))
    for name, vid in (("lan", 10), ("core", 20), ("lan2", 30)):
        world.network(name, vid)
    r1 = world.router("a", "r1", {"lan": "10.0.1.1/24", "core": "10.0.9.1/24"}, 101)
    r2 = world.router("b", "r2", {"core": "10.0.9.2/24", "lan2": "10.0.2.1/24"}, 201)
    for outbox, link, other, number in ((r1, 2, "10.0.9.2", 201), (r2, 1, "10.0.9.1", 102)):
        outbox.put(Neighbor(link, packed(other), mac(number)))
    r1.put(Neighbor(1, packed("10.0.1.10"), mac(1)))
    r2.put(Neighbor(2, packed("10.0.2.10"), mac(3)))
    r1.put(Neighbor(2, packed("fe80::2"), mac(201)))
    r1.put(route("10.0.1.0/24", Hop(1)))
    r1.put(route("10.0.2.0/24", Hop(2, packed("10.0.9.2"))))
    r1.put(route("2001:db8:2::/48", Hop(2, packed("fe80::2"))))
    r2.put(route("10.0.1.0/24", Hop(1, packed("10.0.9.1"))))
    r2.put(route("10.0.2.0/24", Hop(2)))
    r2.put(route("2001:db8:2::/64", Hop(2)))
    world.host("a", "h1", "lan", packed("10.0.1.10"), 1)
    world.host("a", "h3", "lan2", packed("10.0.2.10"), 3)
    world.host("b", "h6", "lan", packed("2001:db8:1::10"), 6)
    world.start()
    return world


def test_over_two_routers_on_two_nodes_to_a_host() -> None:
    answer = trace(far(), "h1", "10.0.2.10")
    assert answer.forwarded
    assert [visit.node for visit in answer.visits] == ["a", "b", "a"]
    assert [visit.parent for visit in answer.visits] == [-1, 0, 1]
    outcome = only(answer)
    assert (outcome.kind, outcome.where, outcome.words) == ("delivered", "a:h3", "delivered to h3 on lan2")
    assert answer.notes == ["the sender's router in lan is r1"]
    words = [step.words for visit in answer.visits for step in visit.steps]
    assert "r1: 10.0.2.0/24: via 10.0.9.2 on eth2 (core); RIB: 10.0.2.0/24" in words
    assert "r2: 10.0.2.0/24: directly connected to eth2 (lan2); RIB: 10.0.2.0/24" in words
    assert "TTL 62" in answer.visits[-1].packet
    assert all(step.flow for visit in answer.visits for step in visit.steps)


def test_within_a_network_over_the_trunk() -> None:
    world = small()
    outcome = only(trace(world, "h1", "10.0.1.11"))
    assert (outcome.kind, outcome.where) == ("delivered", "b:h2")


def test_arp_reaches_everybody_else_in_the_network() -> None:
    answer = trace(small(), "h1", "10.0.1.11", proto="arp")
    assert {(item.kind, item.where) for item in answer.outcomes} == {
        ("copied", "a:r1-1"), ("copied", "b:h2"), ("left", "b:x30"),
    }  # fmt: skip
    assert answer.forwarded


@pytest.mark.parametrize(
    ("to", "arguments", "why"),
    [
        ("10.0.2.10", {"size": "1501"}, "1501 bytes are more than the MTU"),
        ("10.0.2.10", {"proto": "igmp"}, "protocol 2 concerns"),
        ("10.0.9.7", {}, "does not know the MAC address of 10.0.9.7"),
        ("10.4.0.1", {}, "none that a switch can follow"),
        ("10.5.0.1", {}, "in none of the networks"),
        ("10.6.0.1", {}, "does not know the MAC address of 10.0.9.66"),
    ],
)
def test_slow_path_and_why(to: str, arguments: dict[str, str], why: str) -> None:
    world = far()
    r1 = world.servers["a"].routers["r1"]
    r1.put(route("10.0.9.0/24", Hop(2)))
    r1.put(route("10.4.0.0/16", kind=RouteKind.SLOW))
    r1.put(route("10.5.0.0/16", Hop(0, packed("10.99.0.1"))))
    r1.put(route("10.6.0.0/16", Hop(2, packed("10.0.9.66"))))
    world.settle()
    outcome = only(trace(world, "h1", to, **arguments))
    assert (outcome.kind, outcome.where) == ("slow", "a:r1-1")
    assert why in outcome.words


def test_what_a_router_refuses_it_says_itself() -> None:
    world = far()
    for to, ttl, why in (("10.0.2.10", "1", "its TTL is 1"), ("10.0.3.10", "64", "no route to 10.0.3.10")):
        answer = trace(world, "h1", to, ttl=ttl)
        assert not answer.forwarded
        assert only(answer).kind == "answered"
        assert why in only(answer).words
    world.servers["a"].routers["r1"].put(ShedRoutes(7))
    world.settle()
    outcome = only(trace(world, "h1", "10.0.3.10"))
    assert outcome.kind == "slow"
    assert "keep 7 routes back" in outcome.words


def test_to_the_router_itself() -> None:
    outcome = only(trace(far(), "h1", "10.0.1.1"))
    assert (outcome.kind, outcome.words) == ("delivered", "delivered to r1 itself: 10.0.1.1 is r1 itself")
    outcome = only(trace(far(), "h1", "10.0.9.1"))
    assert outcome.kind == "delivered"


def test_a_shed_route_goes_the_slow_way() -> None:
    world = small(max_flows=2)
    outcome = only(trace(world, "h1", "10.77.0.1"))
    assert outcome.kind == "slow"
    assert "0.0.0.0/0 has no flow: max_flows = 2" in outcome.words


@pytest.mark.parametrize(("source", "kind"), [("of its MAC", "delivered"), ("fe80::99", "dropped")])
def test_a_host_may_use_the_link_local_address_of_its_mac_and_no_other(source: str, kind: str) -> None:
    world = small()
    of = {who: str(IPv6Address(link_local_of(machine_mac(world, who)))) for who in ("h1", "r1")}
    outcome = only(trace(world, "h1", of["r1"], src=of["h1"] if source == "of its MAC" else source, via="r1"))
    assert outcome.kind == kind, outcome.words


def machine_mac(world: World, name: str) -> bytes:
    machine = next(found for node in world.controller.nodes.values() if (found := node.machine(name)))
    return machine.interfaces[0].mac


@pytest.mark.parametrize(
    ("sender", "to", "arguments", "why"),
    [
        ("h1", "10.0.2.10", {"src": "10.0.1.99"}, "10.0.1.99 is not an address of h1"),
        ("h1", "10.0.2.10", {"src_mac": "02:00:00:00:00:99"}, "not the MAC address of h1"),
        ("h1", "10.0.2.10", {"vid": "20"}, "frames with a tag of their own"),
        ("h1", "10.0.1.11", {"proto": "arp", "src": "10.0.1.1"}, "it claims 10.0.1.1"),
        ("h1", "10.0.1.77", {"dst_mac": "aa:aa:aa:aa:aa:aa"}, "announcement"),
        ("h1", "10.0.1.50", {}, "not sent: 10.0.1.50 belongs to lan itself"),
        ("h1", "2001:db8::1", {}, "not sent: h1 has no IPv6 address"),
        ("r2", "10.0.1.1", {}, "not sent: r2 itself has no route"),
        ("a:t11", "10.0.1.10", {"vid": "99", "src": "10.0.1.4", "dst_mac": mac_text(mac(1))}, "of VLAN 99"),
        ("b:x30", "10.0.1.10", {"vid": "8", "src": "10.0.1.4", "dst_mac": mac_text(mac(1))}, "of VLAN 8"),
        ("b:x30", "10.0.1.10", {"src": "10.0.1.4", "src_mac": mac_text(mac(1))}, "has a vif"),
        ("h1", "10.3.0.1", {}, "blackhole"),
        ("h1", "10.0.1.10", {}, "go back to where it came from"),
    ],
)
def test_dropped_and_why(sender: str, to: str, arguments: dict[str, str], why: str) -> None:
    world = small()
    world.servers["a"].routers["r1"].put(route("10.3.0.0/16", kind=RouteKind.BLACKHOLE))
    world.settle()
    answer = trace(world, sender, to, **arguments)
    outcome = only(answer)
    assert not answer.forwarded
    assert outcome.kind == "dropped"
    assert why in outcome.words


def test_from_a_router_and_from_outside() -> None:
    world = far()
    outcome = only(trace(world, "r1", "10.0.2.10"))
    assert (outcome.kind, outcome.where) == ("delivered", "a:h3")
    world = small()
    answer = trace(world, "b:x30", "10.77.0.1", src="10.0.1.200", vid="0")
    assert any("02:00:00:00:00:fe" in note for note in answer.notes)
    assert only(answer).where == "b:r2-1"
    assert only(answer).kind == "answered"
    outcome = only(trace(world, "a:t11", "10.0.1.10", src="10.0.1.11", vid="10"))
    assert (outcome.kind, outcome.where) == ("delivered", "a:h1")
    assert only(trace(world, "a:h1", "10.0.1.11")).where == "b:h2"


def test_a_router_s_multicast_reaches_the_others_of_its_network() -> None:
    answer = trace(far(), "r2", "224.0.0.5", proto="ospf", ttl="1")
    assert [(item.kind, item.where) for item in answer.outcomes] == [("copied", "a:r1-2")]
    assert answer.forwarded
    assert "01:00:5e:00:00:05" in answer.packet


def test_ipv6_from_a_router() -> None:
    outcome = only(trace(far(), "b:h6", "2001:db8:2::9"))
    assert outcome.kind == "slow"
    assert "r2 does not know the MAC address of 2001:db8:2::9" in outcome.words


def test_equal_cost_routes_are_all_followed() -> None:
    world = far()
    r1 = world.servers["a"].routers["r1"]
    r1.put(route("10.0.2.0/24", Hop(1, packed("10.0.1.99"), 1), Hop(2, packed("10.0.9.2"), 3)))
    world.settle()
    answer = trace(world, "h1", "10.0.2.10")
    found = {(item.kind, item.where, item.condition) for item in answer.outcomes}
    assert found == {
        ("slow", "a:r1-1", "4 of 16 hash buckets on a"),
        ("delivered", "a:h3", "12 of 16 hash buckets on a"),
    }
    assert answer.forwarded


def test_a_trunk_that_is_down_and_one_without_another_end() -> None:
    world = small()
    world.controller.nodes["a"].port_up[11] = False
    outcome = only(trace(world, "h1", "10.0.1.11"))
    assert (outcome.kind, outcome.words) == ("dropped", "trunk t11 is down")
    world.controller.nodes["a"].port_up[11] = True
    world.controller.fabric.set_graph(())
    outcome = only(trace(world, "h1", "10.0.1.11"))
    assert (outcome.kind, outcome.words) == ("unknown", "its other end is not known")


def test_reactive_first_packet() -> None:
    world = small(reactive=True)
    assert only(trace(world, "h1", "10.77.0.1")).kind == "controller"


def test_questions_that_make_no_sense() -> None:
    world = small()
    for arguments, why in (
        ({"from": "h9", "to": "10.0.1.1"}, "known: h1, h2, r1, r2"),
        ({"from": "h1", "to": "10.0.1"}, "10.0.1"),
        ({"from": "h1", "to": "10.0.1.1", "proto": "x25"}, "proto"),
        ({"from": "h1", "to": "10.0.1.1", "ttl": "300"}, "ttl"),
        ({"from": "h1", "to": "10.0.1.1", "src": "::1"}, "families"),
        ({"from": "c:x", "to": "10.0.1.1"}, "known: a, b"),
        ({"from": "a:x", "to": "10.0.1.1"}, "there: h1, r1-1, r1-2, t11"),
        ({"from": "a:t11", "to": "10.0.1.1"}, "--vid"),
        ({"from": "b:x30", "to": "10.0.1.1"}, "--src"),
        ({"from": "h1", "to": "::1", "proto": "arp", "src": "::2"}, "ARP is for IPv4"),
        ({"from": "h1", "to": "10.0.1.1", "dst_mac": "x"}, "MAC"),
    ):
        assert why in refusal(world, "trace", **arguments), arguments

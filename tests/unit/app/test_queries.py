"""What operators are told: everything has a name, every flow a purpose, many rows come in pages."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TypeVar

import msgspec
import pytest

from tests.unit.app.network import World, mac
from xenflow.answers import FlowStatus, Lookup, Page, ResourcesStatus, RouterStatus, RouteStatus, Status, Verified
from xenflow.identity import Identity
from xenflow.model import Alarm, Hop, Machine, Neighbor, Route, RouteKind, ShedRoutes, pack_prefix
from xenflow.resources import Granted, Resources
from xenflow.wire import MAX_FRAME_BYTES, VERSION, Answer, Hello, Query, Role
from xenflow_app.effects import ToPeer
from xenflow_app.openflow import actions, nxm
from xenflow_app.queries import answer, paging

T = TypeVar("T")


def packed(text: str) -> bytes:
    return ip_address(text).packed


def route(prefix: str, *hops: Hop, kind: RouteKind = RouteKind.UNICAST) -> Route:
    return Route(pack_prefix(prefix), kind, hops)


def small(*, reactive: bool = False, max_flows: int = 0) -> World:
    """Two nodes and a trunk; r1 between lan (with a host on each node, and an access port) and core, where r2 is."""
    world = World("ab", (("a", 11, "b", 12),), reactive=reactive)
    world.network("lan", 10)
    world.network("core", 20)
    r1 = world.router("a", "r1", {"lan": "10.0.1.1/24", "core": "10.0.9.1/24"}, 101, max_flows)
    r2 = world.router("b", "r2", {"core": "10.0.9.2/24"}, 201)
    r1.put(Neighbor(1, packed("10.0.1.10"), mac(1)))
    r1.put(Neighbor(2, packed("10.0.9.2"), mac(201)))
    r2.put(Neighbor(1, packed("10.0.9.1"), mac(102)))
    r1.put(route("10.0.1.0/24", Hop(1)))
    r1.put(route("10.0.9.0/24", Hop(2)))
    r1.put(route("0.0.0.0/0", Hop(2, packed("10.0.9.2"))))
    world.host("a", "h1", "lan", packed("10.0.1.10"), 1)
    world.host("b", "h2", "lan", packed("10.0.1.11"), 2)
    world.access("b", 30, {0: "lan", 7: "core"})
    world.start()
    return world


def ask(world: World, what: str, kind: type[T], **arguments: str) -> T:
    body, error = answer(world.controller, what, arguments)
    assert not error, error
    assert len(body) < MAX_FRAME_BYTES
    return msgspec.json.decode(body, type=kind)


def refusal(world: World, what: str, **arguments: str) -> str:
    body, error = answer(world.controller, what, arguments)
    assert not body
    return error


def test_status_names_everything() -> None:
    status = ask(small(), "status", Status)
    assert (status.mode, status.settled, status.awaited, status.refused) == ("proactive", True, [], [])
    assert [(node.name, node.routers, node.hosts) for node in status.nodes] == [
        ("a", ["r1"], ["h1"]),
        ("b", ["r2"], ["h2"]),
    ]
    assert all(node.flows_actual == node.flows_desired and not node.flows_pending for node in status.nodes)
    assert [(link.ends, link.up) for link in status.links] == [(["a:t11", "b:t12"], True)]
    assert [(network.name, network.vid, network.members) for network in status.networks] == [
        ("lan", 10, ["a:h1", "a:r1-1", "b:h2", "b:x30"]),
        ("core", 20, ["a:r1-2", "b:r2-1", "b:x30"]),
    ]
    assert all(network.tree == [["a:t11", "b:t12"]] for network in status.networks)
    assert [(router.name, router.node, router.routes, router.shed) for router in status.routers] == [
        ("r1", "a", 3, 0),
        ("r2", "b", 0, 0),
    ]


def test_status_says_what_is_awaited_and_why_a_link_is_down() -> None:
    world = small()
    world.disconnect("b")
    world.disconnect_switch("b")
    status = ask(world, "status", Status)
    assert any("node b: its server" in text for text in status.awaited)
    assert any("node b: its switch" in text for text in status.awaited)
    world = World("ab", (("a", 11, "b", 12),))
    world.connect("a")
    status = ask(world, "status", Status)
    assert not status.settled
    assert any(text.startswith("node b: neither") for text in status.awaited)
    assert [(link.ends, link.up, link.why) for link in status.links] == [
        (["a:t11"], False, "nothing is heard from the other end")
    ]


def test_routers_show_interfaces_and_what_is_shed() -> None:
    world = small(max_flows=2)
    world.servers["a"].routers["r1"].put(ShedRoutes(5))
    world.settle()
    r1, _ = ask(world, "routers", list[RouterStatus])
    assert [(item.name, item.network, item.vid, item.port, item.addresses) for item in r1.interfaces] == [
        ("eth1", "lan", 10, "r1-1", ["10.0.1.1/24"]),
        ("eth2", "core", 20, "r1-2", ["10.0.9.1/24"]),
    ]
    assert (r1.shed_reported, r1.shed_here, r1.max_flows) == (5, 1, 2)
    shed = ask(world, "routes", Page[RouteStatus], router="r1").rows[0]
    assert (shed.prefix, shed.state) == ("0.0.0.0/0", "shed")
    assert "max_flows = 2" in shed.forwarding


def test_processor_and_memory_are_shown_and_change_no_flow() -> None:
    world = small()
    r1, _ = ask(world, "routers", list[RouterStatus])
    assert (r1.defined, r1.has, r1.resource_problems) == (ResourcesStatus(), None, [])
    node, before = world.servers["a"].node, ask(world, "status", Status).nodes
    machine = node.facts.of(Machine.KIND)[b"r1"]
    assert isinstance(machine, Machine)
    planned = world.controller.nodes["a"].routers["r1"]
    node.put(msgspec.structs.replace(machine, resources=Resources(512, 2, 512, 150)))
    node.put(Granted("r1", Resources(256, 2, 512), ("memory_mib = 512: the guest has not followed (yet)",)))
    node.put(Alarm("MAC address 02:00:00:00:00:01 belongs to machine r1: refused to thief"))
    world.settle()
    r1, _ = ask(world, "routers", list[RouterStatus])
    assert r1.defined == ResourcesStatus(512, 2, 512, 150)
    assert r1.has == ResourcesStatus(256, 2, 512, None)
    assert r1.resource_problems == ["memory_mib = 512: the guest has not followed (yet)"]
    status = ask(world, "status", Status)
    assert status.alarms == ["node a: MAC address 02:00:00:00:00:01 belongs to machine r1: refused to thief"]
    assert status.nodes == before, "nothing is sent to the switches"
    assert world.controller.nodes["a"].routers["r1"] is planned
    node.drop(Alarm.KIND, Alarm(status.alarms[0].removeprefix("node a: ")).key)
    world.settle()
    assert ask(world, "status", Status).alarms == []


def test_routes_say_where_packets_go() -> None:
    world = small()
    outbox = world.servers["a"].routers["r1"]
    outbox.put(route("10.1.0.0/16", Hop(1, packed("10.0.1.10"), 1), Hop(2, packed("10.0.9.2"), 3)))
    outbox.put(route("10.2.0.0/16", Hop(2, packed("10.0.9.77"))))
    outbox.put(route("10.3.0.0/16", kind=RouteKind.BLACKHOLE))
    outbox.put(route("10.4.0.0/16", kind=RouteKind.SLOW))
    outbox.put(route("10.5.0.0/16", Hop(0, packed("10.99.0.1"))))
    world.settle()
    page = ask(world, "routes", Page[RouteStatus], router="r1")
    rows = {row.prefix: row for row in page.rows}
    assert list(rows) == sorted(rows, key=lambda text: pack_prefix(text))
    assert page.total == len(rows) == 8
    assert {row.state for row in page.rows} == {"installed"}
    default = rows["0.0.0.0/0"].hops[0]
    assert (default.interface, default.network, default.gateway, default.vid, default.out) == (
        "eth2", "core", "10.0.9.2", 20, "t11",
    )  # fmt: skip
    assert rows["10.0.1.0/24"].forwarding == "switch"
    assert [(hop.gateway, hop.buckets) for hop in rows["10.1.0.0/16"].hops] == [("10.0.1.10", 4), ("10.0.9.2", 12)]
    assert "MAC address of 10.0.9.77 is not known" in rows["10.2.0.0/16"].forwarding
    assert "blackhole" in rows["10.3.0.0/16"].forwarding
    assert rows["10.4.0.0/16"].forwarding.startswith("slow path")
    assert "none of the networks" in rows["10.5.0.0/16"].forwarding
    within = ask(world, "routes", Page[RouteStatus], router="r1", prefix="10.0.0.0/14")
    assert [row.prefix for row in within.rows] == [
        "10.0.1.0/24", "10.0.9.0/24", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16",
    ]  # fmt: skip


def test_lookup() -> None:
    world = small()
    found = ask(world, "lookup", Lookup, router="r1", address="10.0.1.10")
    assert found.route is not None
    assert (found.route.prefix, found.route.hops[0].mac) == ("10.0.1.0/24", "02:00:00:00:00:01")
    assert "10.0.1.1/24" in ask(world, "lookup", Lookup, router="r1", address="10.0.1.1").words
    nothing = ask(world, "lookup", Lookup, router="r2", address="2001:db8::1")
    assert nothing.route is None
    assert "no route" in nothing.words


@pytest.mark.parametrize("reactive", [False, True])
def test_every_flow_has_a_purpose_and_is_installed(reactive: bool) -> None:
    world = small(reactive=reactive)
    outbox = world.servers["a"].routers["r1"]
    outbox.put(route("10.1.0.0/16", Hop(1, packed("10.0.1.10")), Hop(2, packed("10.0.9.2"))))
    world.settle()
    for node in "ab":
        page = ask(world, "flows", Page[FlowStatus], node=node)
        assert page.total == len(page.rows) == len(world.servers[node].switch.flows)
        for flow in page.rows:
            assert flow.words
            assert "not a flow" not in flow.words, flow.text
            assert "0x" not in flow.words.replace("group 0x", ""), flow
            assert flow.state == "installed"
        places = [(flow.table, -flow.priority) for flow in page.rows]
        assert places == sorted(places)
    words = [flow.words for flow in ask(world, "flows", Page[FlowStatus], node="a", router="r1").rows]
    if not reactive:
        assert "r1: 0.0.0.0/0: via 10.0.9.2 on eth2 (core)" in words
    assert "r1: 10.0.1.10 on eth1 (lan): TTL - 1, to 02:00:00:00:00:01 (h1) in lan" in words
    fib = ask(world, "flows", Page[FlowStatus], node="a", table="fib").rows
    assert {flow.table for flow in fib} == {30}
    assert fib == ask(world, "flows", Page[FlowStatus], node="a", table="30").rows


def test_many_routes_and_flows_come_in_pages_that_fit_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    world = small()
    outbox = world.servers["a"].routers["r1"]
    hops = tuple(Hop(2, packed(f"10.0.9.{number}")) for number in range(2, 8))
    for number in range(3000):
        outbox.put(Route(b"\x14" + number.to_bytes(3, "big") + b"\x20", RouteKind.UNICAST, hops))
    world.settle()
    for what, kind in (("routes", Page[RouteStatus]), ("flows", Page[FlowStatus])):
        seen: list[str] = []
        after, pages = "", 0
        while after or not pages:
            page = ask(world, what, kind, router="r1", node="a", after=after)
            seen += [getattr(row, "prefix", None) or row.text for row in page.rows]
            after, pages = page.next, pages + 1
        assert len(seen) == len(set(seen)) == page.total > 3000
        assert pages > 1
    monkeypatch.setattr(paging, "PAGE_ROWS", 2)
    page = ask(world, "routes", Page[RouteStatus], router="r1", limit="100")
    assert len(page.rows) == 2
    assert page.next


def test_what_cannot_be_answered_says_what_could_be() -> None:
    world = small()
    assert "known: r1, r2" in refusal(world, "routes", router="r3")
    assert "known: a, b" in refusal(world, "flows", node="c")
    assert "there: r2" in refusal(world, "flows", node="b", router="r1")
    assert "admission" in refusal(world, "flows", node="a", table="first")
    assert "status" in refusal(world, "state")
    assert refusal(world, "lookup", router="r1", address="10.0.0.256")
    assert refusal(world, "routes", router="r1", prefix="10.0.0.0/40")
    assert refusal(world, "routes", router="r1", limit="many")
    assert refusal(world, "routes", router="r1", after="x")


OPERATOR = 9999


def query(world: World, what: str, kind: type[T], **arguments: str) -> T:
    """Ask as an operator does, over a session."""
    answers = query_raw(world, what, **arguments)
    assert len(answers) == 1
    assert not answers[0].error
    return msgspec.json.decode(answers[0].body, type=kind)


def query_raw(world: World, what: str, **arguments: str) -> list[Answer]:
    controller, found = world.controller, []
    hello = Hello(VERSION, Role.OPERATOR, "me")
    controller.peer_opened(OPERATOR, Identity(Role.OPERATOR, "me"), hello, world.now)
    take = world._to_peer

    def to_peer(peer: int, message: Answer) -> None:
        found.append(message) if peer == OPERATOR else take(peer, message)

    world._to_peer = to_peer  # type: ignore[method-assign, assignment]
    controller.peer_message(OPERATOR, Query(7, what, arguments), world.now)
    world.settle()
    controller.peer_closed(OPERATOR, world.now)
    world._to_peer = take  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("reactive", [False, True])
def test_counters_of_the_slow_path_are_read_from_the_switches(reactive: bool) -> None:
    world = small(reactive=reactive)
    r1 = world.controller.nodes["a"].routers["r1"].number
    switch = world.servers["a"].switch
    switch.counters = {
        nxm.flow_key(25, 100, reg1=1, reg2=r1): 3,
        nxm.flow_key(25, 100, reg1=2, reg2=r1): 4,
        nxm.flow_key(30, 1, reg2=r1): 2,
    }
    routers = {router.name: router for router in query(world, "routers", list[RouterStatus])}
    assert [item.slow_packets for item in routers["r1"].interfaces] == [3, 4]
    assert routers["r1"].wildcard_packets == (None if reactive else 2)
    assert [item.slow_packets for item in routers["r2"].interfaces] == [0]
    assert [item.name for item in query(world, "routers", list[RouterStatus], router="r2")] == ["r2"]
    world.disconnect_switch("a")
    routers = {router.name: router for router in query(world, "routers", list[RouterStatus])}
    assert [item.slow_packets for item in routers["r1"].interfaces] == [None, None]
    assert "known: r1, r2" in query_raw(world, "routers", router="r3")[0].error


def test_an_answer_that_waits_for_a_switch_survives_its_loss_and_that_of_the_operator() -> None:
    world = small()
    identity, hello = Identity(Role.OPERATOR, "me"), Hello(VERSION, Role.OPERATOR, "me")
    for leaves in (False, True):
        world.controller.peer_opened(OPERATOR + leaves, identity, hello, world.now)
        world.controller.peer_message(OPERATOR + leaves, Query(1, "routers"), world.now)
        if leaves:
            world.controller.peer_closed(OPERATOR + leaves, world.now)
        for name in "ab":
            connection = world.servers[name].connection
            assert connection is not None
            world.controller.switch_closed(connection, world.now)
        sent = [item.peer for item in world.controller.effects() if isinstance(item, ToPeer)]
        assert sent.count(OPERATOR + leaves) == (not leaves)
        for name in "ab":
            world.connect_switch(name)


def test_verify_reads_the_switches_anew() -> None:
    world = small()
    assert [(item.node, item.differences, item.why) for item in query(world, "verify", list[Verified])] == [
        ("a", [], ""),
        ("b", [], ""),
    ]
    flows = world.servers["a"].switch.flows
    routes = [key for key in flows if key[0] == 30 and key[1:3] > b"\0\x64"]
    del flows[routes[0]]
    flows[routes[1]] = flows[routes[1]][:12] + actions.output(7)
    flows[nxm.flow_key(50, 99, reg0=77)] = actions.value(0x5846 << 48, actions.output(9))
    found = query(world, "verify", list[Verified], node="a")[0]
    assert sorted(item.problem for item in found.differences) == ["differs", "extra", "missing"]
    assert all(item.wanted for item in found.differences if item.problem != "extra")
    world.disconnect_switch("b")
    assert query(world, "verify", list[Verified], node="b")[0].why
    assert "known: a, b" in query_raw(world, "verify", node="c")[0].error

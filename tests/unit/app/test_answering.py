"""Who is answered for: one claim an address, in any order of facts, on the nodes that know the network."""

from __future__ import annotations

import itertools
from ipaddress import IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.app.network import World, mac
from xenflow.model import Address, Bridge, Interface, Link, Machine, MachineKind, Port, PortKind, link_local_of
from xenflow_app.answering import Answering, Claim, answer, answers_of
from xenflow_app.flowtable import FlowTable, owner_of
from xenflow_app.openflow import actions, fields, nxm
from xenflow_app.openflow.nxm import ETH_IPV6, ICMP6
from xenflow_app.openflow.values import PacketIn
from xenflow_app.packets import advertisement
from xenflow_app.pipeline import Table
from xenflow_app.queries.status import status
from xenflow_app.rules import Rule, SetMac
from xenflow_lab.traffic import frames

NODES = ("a", "b")
VIDS = (10, 20)


def packed(address: str) -> bytes:
    return ip_address(address).packed


ADDRESSES = (packed("10.0.0.1"), packed("10.0.0.2"), packed("fe80::1"))
claims = st.builds(
    Claim, st.sampled_from(VIDS), st.sampled_from(ADDRESSES), st.sampled_from((mac(1), mac(2))), st.just(0)
)
"""Whose they are is said when they are told."""
tellings = st.tuples(st.just("claim"), st.integers(1, 3), st.frozensets(claims, max_size=4))
datapaths = st.sampled_from(("netdev", "system", ""))
knowings = st.tuples(
    st.just("know"), st.sampled_from(NODES), st.tuples(st.frozensets(st.sampled_from(VIDS)), datapaths)
)


@given(st.lists(tellings | knowings, max_size=20))
def test_whatever_comes_when_an_address_is_answered_for_where_one_router_has_it(events: list[tuple]) -> None:  # type: ignore[type-arg]
    tables = {name: FlowTable() for name in NODES}
    answering = Answering(tables)
    said: dict[int, frozenset[Claim]] = {}
    known: dict[str, tuple[frozenset[int], str]] = {}
    for kind, who, what in events:
        if kind == "claim":
            said[who] = frozenset(Claim(item.vid, item.address, item.mac, who) for item in what)
            answering.claim(who, said[who])
        else:
            known[who] = what
            answering.know(who, *what)
    everything = [claim for claimed in said.values() for claim in claimed]
    for name, table in tables.items():
        wanted = {}
        for claim in everything:
            same = [item for item in everything if (item.vid, item.address) == (claim.vid, claim.address)]
            vids, datapath = known.get(name, (frozenset(), ""))
            if len(same) == 1 and claim.vid in vids:
                wanted |= answer(claim, rewrites=datapath == "netdev")
        assert table.desired == wanted
    assert {claim for several in answering.contested for claim in several} == {
        claim
        for claim, other in itertools.permutations(everything, 2)
        if (claim.vid, claim.address) == (other.vid, other.address)
    }


def test_a_change_costs_what_it_changes() -> None:
    table = FlowTable()
    table.resync({}, lambda _owner: True)
    answering = Answering({"a": table})
    answering.know("a", VIDS)
    many = {Claim(10, number.to_bytes(4, "big"), mac(1), 7) for number in range(1000)}
    answering.claim(7, many)
    assert len(table.take(10_000)) == 2000
    answering.claim(7, many)
    assert not table.due
    answering.claim(7, many | {Claim(20, ADDRESSES[2], mac(1), 7)})
    assert len(table.take(10_000)) == 1
    answering.know("a", (20,))
    assert len(table.take(10_000)) == 2000


# -- in the network ---------------------------------------------------------------------------------------------------


def told(world: World, node: str) -> dict[tuple[int, bytes], bytes]:
    """Return who is answered for by the node's switch: VLAN id and address -> MAC."""
    found = {}
    for key, value in world.servers[node].switch.flows.items():
        rule = Rule(key, value)
        if rule.table == Table.ANSWER and rule.priority == 100:
            address = rule.packed(fields.ARP_TPA) or rule.packed(fields.ND_TARGET)
            (source,) = [item.mac for item in rule.actions if isinstance(item, SetMac)]
            found[rule.number(fields.REG0) or 0, address] = source
    return found


def network() -> World:
    world = World("abc", (("a", 11, "b", 11), ("b", 12, "c", 12)))
    world.network("lan", 10)
    world.network("core", 20)
    world.router("a", "r1", {"lan": "10.0.1.1/24", "core": "10.0.9.1/24"}, 101)
    return world


R1 = {(10, packed("10.0.1.1")): mac(101), (20, packed("10.0.9.1")): mac(102)}


def test_all_nodes_answer_for_a_router_while_it_routes() -> None:
    world = network()
    world.start()
    assert told(world, "a") == told(world, "b") == told(world, "c") == R1
    world.servers["a"].routers["r1"].put(Address(1, packed("2001:db8::1") + b"\x40"))
    world.settle()
    assert told(world, "c") == {**R1, (10, packed("2001:db8::1")): mac(101)}
    world.servers["a"].routers["r1"].put(Link(2, "eth2", mac(102), 1500, False))
    world.servers["a"].routers["r1"].drop(Address.KIND, Address(1, packed("2001:db8::1") + b"\x40").key)
    world.settle()
    assert told(world, "c") == {(10, packed("10.0.1.1")): mac(101)}
    world.unplug("a", "r1", moved=False)
    assert told(world, "a") == told(world, "b") == told(world, "c") == {}


def test_what_a_router_may_not_claim_is_not_answered() -> None:
    world = network()
    server = world.servers["a"]
    interface = Interface(1, "lan", mac(111), (packed("10.0.1.7"),))
    server.node.put(Machine("r2", MachineKind.ROUTER, (interface,)))
    server.node.put(Port("r2-1", 111, PortKind.VIF, "r2", 1))
    outbox = server.router("r2")
    outbox.put(Link(1, "eth1", mac(111), 1500, True))
    local = link_local_of(mac(111))
    for address in (packed("10.0.1.7"), packed("10.0.1.8"), local):
        outbox.put(Address(1, address + b"\x18"))
    world.start()
    assert told(world, "b") == {**R1, (10, packed("10.0.1.7")): mac(111), (10, local): mac(111)}


def test_what_two_routers_have_they_settle_themselves() -> None:
    world = network()
    world.router("c", "r2", {"lan": "10.0.1.1/24"}, 111)
    world.start()
    both = {(20, packed("10.0.9.1")): mac(102)}
    assert told(world, "a") == told(world, "b") == told(world, "c") == both
    ((first, second),) = world.controller.answering.contested
    assert {first.mac, second.mac} == {mac(101), mac(111)}
    assert status(world.controller).contested == ["10.0.1.1 in lan: r1 and r2 have it"]
    world.unplug("c", "r2", moved=False)
    assert told(world, "b") == R1
    assert not world.controller.answering.contested


def test_nodes_and_networks_that_come_later_answer_too() -> None:
    world = network()
    world.start()
    world.disconnect_switch("b")
    world.servers["a"].routers["r1"].put(Address(1, packed("10.0.1.2") + b"\x18"))
    world.settle()
    assert (10, packed("10.0.1.2")) in told(world, "c")
    assert told(world, "b") == R1
    world.connect_switch("b")
    world.run(1)
    assert told(world, "b") == told(world, "c")


def test_a_controller_that_starts_takes_over_what_answers() -> None:
    world = network()
    world.start()
    before = {name: server.switch.flow_mods for name, server in world.servers.items()}
    for order in ("abc", "cba"):
        world.controller = type(world.controller)(world.settings)
        for name in order:
            world.connect_switch(name)
            world.connect(name)
        world.run(3)
        assert {name: server.switch.flow_mods for name, server in world.servers.items()} == before


def test_a_router_that_is_not_there_after_a_start_is_answered_for_no_more() -> None:
    world = network()
    world.start()
    for key in (b"r1-1", b"r1-2"):
        world.servers["a"].node.drop(Port.KIND, key)
    world.servers["a"].node.drop(Machine.KIND, b"r1")
    world.servers["a"].routers.clear()
    world.start()
    world.run(12)
    assert told(world, "a") == told(world, "b") == told(world, "c") == {}


def test_the_controller_answers_solicitations_where_the_kernel_forwards() -> None:
    """Its datapath cannot; the VM is asked as well, so that somebody answers while no controller does."""
    world = network()
    world.servers["b"].node.put(Bridge("br", world.servers["b"].dpid, "system"))
    world.start()
    target = IPv6Address(link_local_of(mac(101)))
    world.servers["a"].routers["r1"].put(Address(1, target.packed + b"\x40"))
    world.settle()
    answers = nxm.flow_key(
        Table.ANSWER,
        100,
        reg0=10,
        dl_type=ETH_IPV6,
        nw_proto=ICMP6,
        icmp6_type=135,
        nd_target=target.packed,
        nw_ttl=255,
    )
    assert actions.controller() in world.servers["b"].switch.flows[answers]
    assert actions.controller() not in world.servers["a"].switch.flows[answers]
    asker = IPv6Address("fe80::7")
    asked = frames.neighbor_solicitation(asker, target, target, mac(7), b"")
    frame = mac(101) + mac(7) + b"\x86\xdd" + asked
    for vid, answered in ((10, True), (20, False)):
        world.say("b", PacketIn(Table.ANSWER, 0, 0, 5, (vid, 0, 0, 0, 0, 0, 0, 1), frame, len(frame)))
        told = [(port, sent) for port, _, sent in world.servers["b"].switch.packets]
        world.servers["b"].switch.packets.clear()
        assert told == [(5, advertisement(frame, mac(101)))] * answered
    world.servers["b"].node.put(Bridge("br", world.servers["b"].dpid, "netdev"))
    world.settle()
    assert world.servers["b"].switch.flows[answers] == world.servers["a"].switch.flows[answers]


def test_answers_stay_while_the_router_moves_and_while_it_is_nowhere() -> None:
    world = network()
    world.start()
    machine = world.servers["a"].node.facts.of(Machine.KIND)[b"r1"]
    assert isinstance(machine, Machine)
    seen = []
    kept = world.unplug("a", "r1", moved=True)
    world.run(30)
    seen.append([told(world, name) for name in "abc"])
    world.plug("b", machine, 201)
    seen.append([told(world, name) for name in "abc"])
    world.report("b", kept)
    seen.append([told(world, name) for name in "abc"])
    world.run(15)
    seen.append([told(world, name) for name in "abc"])
    assert seen == [[R1] * 3] * 4
    owners = {owner_of(value) for key, value in world.servers["c"].switch.flows.items() if key[0] == Table.ANSWER}
    number = world.controller.nodes["b"].routers["r1"].number
    assert owners == {0, answers_of(number)}

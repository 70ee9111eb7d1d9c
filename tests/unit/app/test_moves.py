"""Migrations on a network in memory: where the flows are at each step, and that every way out leaves one node clean."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.app.network import World, mac
from xenflow.announcement import Announcement, build
from xenflow.identity import Identity
from xenflow.model import Hop, Machine, MachineKind, Neighbor, Port, PortKind, Route, RouteKind, pack_prefix
from xenflow.replica import Outbox
from xenflow.wire import VERSION, Announce, Announced, Define, Hello, Message, Move, Progress, Query, Role, Undefine
from xenflow_app import disguise, edges, pipeline, routing
from xenflow_app.controller import Controller
from xenflow_app.migration import State
from xenflow_app.openflow import actions, nxm
from xenflow_app.openflow.values import PacketIn
from xenflow_app.pipeline import Table

RING = (("a", 1, "b", 1), ("b", 2, "c", 1), ("c", 2, "a", 2))
GATEWAY = bytes([10, 0, 0, 9])
FIRST = mac(101)


def world(*, reactive: bool = False) -> World:
    """r1 on node a, in two networks, with a neighbor on node c; the target is b."""
    world = World("abc", RING, reactive)
    world.network("core", 30)
    world.network("edge", 40)
    router = world.router("a", "r1", {"core": "10.0.0.1/24", "edge": "10.0.1.1/24"}, 101)
    router.put(Route(pack_prefix("10.9.0.0/16"), RouteKind.UNICAST, (Hop(1, GATEWAY),)))
    router.put(Neighbor(1, GATEWAY, mac(200)))
    world.host("c", "h1", "core", GATEWAY, 200)
    world.start()
    return world


def told(world: World, node: str, kind: type[Message]) -> list[Message]:
    return [message for message in world.servers[node].told if type(message) is kind]


def answer(world: World, node: str, number: int, error: str = "") -> None:
    peer = world.servers[node].peer
    assert peer is not None
    world.controller.peer_message(peer, Progress(number, True, error), world.now)
    world.settle()


def number_of(world: World) -> int:
    for node in "ab":
        router = world.controller.nodes[node].routers.get("r1")
        if router is not None:
            return router.number
    raise AssertionError("no r1")


def of_router(world: World, node: str, number: int) -> dict[bytes, bytes]:
    flows = world.servers[node].switch.flows
    return {key: value for key, value in flows.items() if int.from_bytes(value[4:8], "big") == number}


def entrance(vid: int, address: bytes) -> bytes:
    return nxm.flow_key(Table.LINK, 100, reg0=vid, dl_dst=address)


def disguises(router: int) -> pipeline.Flows:
    """Both interfaces of the router, on a node that routes for it while it moves."""
    return disguise.disguise(30, FIRST, router) | disguise.disguise(40, mac(102), router)


def way(world: World, node: str) -> bytes:
    return world.servers[node].switch.flows[nxm.flow_key(Table.EGRESS, 100, reg0=30, dl_dst=FIRST)][12:]


def begin(world: World) -> int:
    assert world.controller.moves.start("r1", "b") == ""
    world.controller.tick(world.now)
    world.settle()
    (define,) = told(world, "b", Define)
    assert isinstance(define, Define)
    return define.number


def machine(world: World) -> Machine:
    found = (
        world.servers["a"].node.facts.of(Machine.KIND).get(b"r1")
        or world.servers["b"].node.facts.of(Machine.KIND)[b"r1"]
    )
    assert isinstance(found, Machine)
    return found


def carry(world: World) -> Outbox:
    """The VM goes from a to b; its client has not reported yet."""
    definition = machine(world)
    outbox = world.unplug("a", "r1", moved=True)
    world.plug("b", definition, 301)
    return outbox


def announce(world: World, key: bytes | None = None, *, epoch: int = 0) -> None:
    asked = told(world, "b", Announce)[-1]
    assert isinstance(asked, Announce)
    for number, address in ((301, mac(101)), (302, mac(102))):
        frame = build(Announcement(address, bytes([10, 0, number % 2, 1]), epoch or asked.epoch), key or asked.key)
        world.say("b", PacketIn(Table.ADMISSION, 0, 1, number, (0,) * 8, frame, len(frame)))


def finish(world: World) -> None:
    world.run(2.0)


def state(world: World) -> str:
    moves = world.controller.moves
    return moves.under_way["r1"].state if "r1" in moves.under_way else moves.ended[-1].state


def test_a_planned_move_goes_step_by_step_and_leaves_nothing_behind() -> None:
    net = world()
    number = number_of(net)
    before = of_router(net, "a", number)
    order = begin(net)
    assert state(net) == State.PREPARING
    answer(net, "b", order)
    assert state(net) == State.MOVING
    assert told(net, "a", Move) == [Move(order, "r1", "b")]
    prepared = of_router(net, "b", number)
    routes = {key for key in before if key[0] in (Table.FIB, Table.NEIGHBOR, Table.REWRITE, Table.ONLINK)}
    assert routes <= prepared.keys()
    assert entrance(30, FIRST) not in prepared
    assert of_router(net, "a", number) == before | disguises(number)
    assert disguises(number).keys() <= prepared.keys()
    outbox = carry(net)
    assert state(net) == State.RESUMING
    assert entrance(30, FIRST) in of_router(net, "a", number)
    assert entrance(30, FIRST) in of_router(net, "b", number)
    assert way(net, "c") == actions.output(2)
    net.report("b", outbox)
    assert state(net) == State.ANNOUNCING
    assert way(net, "c") == actions.output(2)
    announce(net)
    assert told(net, "b", Announced)
    assert way(net, "c") == actions.output(1)
    finish(net)
    assert state(net) == State.DONE
    assert of_router(net, "a", number) == {}
    assert told(net, "a", Undefine)
    after = of_router(net, "b", number)
    assert after.keys() & routes == routes
    assert not after.keys() & disguises(number).keys()
    for server in net.servers.values():
        assert server.switch.flows == net.controller.nodes[server.name].flows.desired
    sent = [server.switch.flow_mods for server in net.servers.values()]
    net.start()
    assert [server.switch.flow_mods for server in net.servers.values()] == sent


def test_what_only_the_vm_can_answer_follows_it_by_layer_2() -> None:
    net = world()
    number = number_of(net)
    answer(net, "b", begin(net))
    carry(net)
    local = nxm.flow_key(Table.MACHINE, 100, reg1=1, reg2=number)
    hidden = actions.set_dl_src(disguise.alias(number))
    assert net.servers["a"].switch.flows[local][12:] == hidden + actions.output(1)
    assert net.servers["b"].switch.flows[local][12:] == actions.strip_vlan() + actions.output(301)


def test_a_route_that_changes_during_the_move_changes_on_the_target_too() -> None:
    net = world()
    number = number_of(net)
    answer(net, "b", begin(net))
    router = net.servers["a"].routers["r1"]
    router.put(Route(pack_prefix("10.8.0.0/16"), RouteKind.UNICAST, (Hop(1, GATEWAY),)))
    router.drop(Route.KIND, pack_prefix("10.9.0.0/16"))
    net.settle()
    for node in "ab":
        assert routing.route_key(number, pack_prefix("10.8.0.0/16")) in of_router(net, node, number)
        assert routing.route_key(number, pack_prefix("10.9.0.0/16")) not in of_router(net, node, number)


def test_what_the_client_knows_no_more_after_the_move_goes() -> None:
    net = world()
    number = number_of(net)
    answer(net, "b", begin(net))
    outbox = carry(net)
    outbox.drop(Route.KIND, pack_prefix("10.9.0.0/16"))
    net.report("b", outbox)
    assert routing.route_key(number, pack_prefix("10.9.0.0/16")) not in of_router(net, "b", number)


@pytest.mark.parametrize("when", ["preparing", "moving"])
@pytest.mark.parametrize("how", ["abort", "failure"])
def test_before_the_vm_arrives_everything_leads_back(when: str, how: str) -> None:
    net = world()
    number = number_of(net)
    before = {name: dict(server.switch.flows) for name, server in net.servers.items()}
    order = begin(net)
    if when == "moving":
        answer(net, "b", order)
    if how == "abort":
        assert net.controller.moves.abort("r1") == ""
        net.controller.tick(net.now)
        net.settle()
        if when == "moving":
            answer(net, "a", order, "cancelled")
    else:
        answer(net, "b" if when == "preparing" else "a", order, "out of memory")
    assert state(net) == State.FAILED
    assert {name: dict(server.switch.flows) for name, server in net.servers.items()} == before
    assert told(net, "b", Undefine)
    assert of_router(net, "b", number) == {}
    # and a retry succeeds
    net.servers["b"].told.clear()
    answer(net, "b", begin(net))
    net.report("b", carry(net))
    announce(net)
    finish(net)
    assert state(net) == State.DONE


def test_packets_turn_without_waiting_for_broadcasts() -> None:
    net = world()
    net.run(2.0)
    answer(net, "b", begin(net))
    net.servers["a"].confirms = False
    outbox = carry(net)
    tree = net.controller.fabric.trees.tree(30)
    assert net.controller.fabric.awaiting == {"a"}, "the network's tree leaves the source: not confirmed by it"
    net.report("b", outbox)
    announce(net)
    assert state(net) == State.DRAINING
    assert way(net, "c") == actions.output(1)
    assert net.controller.fabric.trees.tree(30) == tree
    net.servers["a"].confirms = True
    net.run(6.0)
    assert state(net) == State.DONE
    assert net.controller.fabric.trees.tree(30) != tree


def test_what_a_router_sends_is_disguised_until_broadcasts_go_the_new_way() -> None:
    net = world()
    net.run(2.0)
    answer(net, "b", begin(net))
    net.servers["a"].confirms = False
    net.report("b", carry(net))
    announce(net)
    net.run(1.5)
    assert state(net) == State.DRAINING
    assert disguises(number_of(net)).items() <= net.servers["b"].switch.flows.items()
    net.run(6.0)
    assert state(net) == State.DONE
    assert not disguises(number_of(net)).keys() & net.servers["b"].switch.flows.keys()


def test_a_vm_that_returns_before_the_others_have_turned_is_taken_back() -> None:
    net = world()
    number = number_of(net)
    before = {name: dict(server.switch.flows) for name, server in net.servers.items()}
    answer(net, "b", begin(net))
    definition = machine(net)
    outbox = carry(net)
    net.unplug_silently("b", "r1")
    net.plug("a", definition, 101)
    net.report("a", outbox)
    finish(net)
    assert state(net) == State.FAILED
    assert of_router(net, "b", number) == {}
    assert {name: dict(server.switch.flows) for name, server in net.servers.items()} == before


def test_a_move_by_hand_ends_in_the_same_state() -> None:
    net = world()
    number = number_of(net)
    outbox = carry(net)
    assert state(net) == State.RESUMING
    assert of_router(net, "a", number)
    net.report("b", outbox)
    announce(net)
    finish(net)
    assert state(net) == State.DONE
    assert of_router(net, "a", number) == {}
    for server in net.servers.values():
        assert server.switch.flows == net.controller.nodes[server.name].flows.desired


def test_a_source_that_notices_late_that_the_vm_is_gone_does_not_have_it_back() -> None:
    """A busy host may take many seconds until it has taken down what was left of the VM there."""
    net = world()
    number = number_of(net)
    net.plug("b", machine(net), 301)
    net.report("b", net.servers["a"].routers["r1"])
    announce(net)
    finish(net)
    net.network("late", 50)  # everything is planned anew, with what is known of machines
    net.settle()
    assert (state(net), net.controller.moves.under_way) == (State.DONE, {})
    assert way(net, "c") == actions.output(1)
    net.unplug("a", "r1", moved=True)
    assert of_router(net, "a", number) == {}
    assert (len(net.controller.moves.ended), net.controller.moves.under_way) == (1, {})


def late(net: World) -> Outbox:
    """r1 has moved from a to b, which a has not noticed; return its client."""
    net.plug("b", machine(net), 301)
    client = net.report("b", net.servers["a"].routers["r1"])
    announce(net)
    finish(net)
    assert state(net) == State.DONE
    return client


def announce_at(net: World, node: str, first_port: int) -> None:
    """The client announces itself there, as it was asked last."""
    asked = told(net, node, Announce)[-1]
    assert isinstance(asked, Announce)
    for number in (1, 2):
        frame = build(Announcement(mac(100 + number), bytes([10, 0, number - 1, 1]), asked.epoch), asked.key)
        net.say(node, PacketIn(Table.ADMISSION, 0, 1, first_port + number - 1, (0,) * 8, frame, len(frame)))


def test_a_vm_that_goes_back_before_the_source_has_noticed_its_leave_is_found_there() -> None:
    net = world()
    number, client = number_of(net), late(net)
    net.unplug("b", "r1", moved=True)
    assert not net.controller.moves.under_way
    assert entrance(30, FIRST) in of_router(net, "b", number)
    net.report("a", client)
    assert net.controller.moves.under_way["r1"].target == "a"
    announce_at(net, "a", 101)
    net.run(3)
    assert (state(net), net.controller.moves.ended[-1].target) == (State.DONE, "a")
    assert (of_router(net, "b", number), way(net, "b")) == ({}, actions.output(1))
    for server in net.servers.values():
        assert server.switch.flows == net.controller.nodes[server.name].flows.desired


def test_a_vm_that_goes_on_before_the_source_has_noticed_its_leave_is_followed() -> None:
    net = world()
    number, client, definition = number_of(net), late(net), machine(net)
    net.unplug("b", "r1", moved=True)
    net.plug("c", definition, 401)
    net.report("c", client)
    announce_at(net, "c", 401)
    net.run(3)
    net.unplug_silently("a", "r1")
    assert [(one.source, one.target) for one in net.controller.moves.ended] == [("a", "b"), ("b", "c")]
    assert not net.controller.moves.under_way
    assert (of_router(net, "a", number), of_router(net, "b", number)) == ({}, {})


@pytest.mark.parametrize("noticed", [False, True])
def test_a_vm_that_goes_back_while_the_source_is_drained_is_found_there(noticed: bool) -> None:
    net = world()
    number, definition = number_of(net), machine(net)
    if noticed:
        client = carry(net)
    else:
        net.plug("b", definition, 301)
        client = net.servers["a"].routers["r1"]
    client = net.report("b", client)
    announce(net)
    assert state(net) in (State.REPOINTING, State.DRAINING)
    net.unplug("b", "r1", moved=True)
    if noticed:
        net.plug("a", definition, 101)
    net.run(1.5)
    assert net.controller.moves.under_way["r1"].target == "a"
    net.report("a", client)
    announce_at(net, "a", 101)
    net.run(3)
    assert (state(net), net.controller.moves.ended[-1].target) == (State.DONE, "a")
    assert of_router(net, "b", number) == {}


def test_a_node_gets_the_addresses_only_when_its_packets_follow_the_routers_flows() -> None:
    """Until then the VM, which may still stand still, would get what its node can route a moment later."""
    net = world()
    number = number_of(net)
    before = way(net, "b")
    net.servers["b"].confirms = False
    outbox = carry(net)
    assert entrance(30, FIRST) in of_router(net, "b", number)
    assert way(net, "b") == before == actions.output(1)
    net.run(3.5)
    assert way(net, "b") == actions.strip_vlan() + actions.output(301)
    assert way(net, "c") == actions.output(2)
    net.servers["b"].confirms = True
    net.report("b", outbox)
    announce(net)
    net.run(6)
    assert (state(net), way(net, "c")) == (State.DONE, actions.output(1))


@pytest.mark.parametrize("hold_s", [60.0, 10.0])
def test_a_move_by_hand_that_arrives_nowhere_is_held_and_then_removed(hold_s: float) -> None:
    net = world()
    net.settings = msgspec.structs.replace(net.settings, hold_s=hold_s)
    net.start()
    number = number_of(net)
    net.unplug("a", "r1", moved=True)
    assert entrance(30, FIRST) in of_router(net, "a", number)
    net.run(hold_s - 5)
    assert entrance(30, FIRST) in of_router(net, "a", number)
    net.run(7)
    assert of_router(net, "a", number) == {}


def test_a_vm_that_is_destroyed_is_removed_at_once() -> None:
    net = world()
    number = number_of(net)
    answer(net, "b", begin(net))
    net.unplug("a", "r1", moved=False)
    assert of_router(net, "a", number) == {}
    assert of_router(net, "b", number) == {}
    assert state(net) == State.FAILED
    assert told(net, "b", Undefine)  # else its definition takes the place of another router there


def test_a_vm_that_is_lost_on_an_ordered_way_is_held_and_then_removed() -> None:
    net = world()
    number = number_of(net)
    order = begin(net)
    answer(net, "b", order)
    net.unplug("a", "r1", moved=True)
    answer(net, "a", order, error="the hypervisor has lost it")
    assert state(net) == State.FAILED
    assert "on no node now" in net.controller.moves.start("r1", "c")
    net.run(30)
    assert entrance(30, FIRST) in of_router(net, "a", number)
    net.run(35)
    assert of_router(net, "a", number) == {}
    assert of_router(net, "b", number) == {}


def test_a_vm_that_goes_on_to_a_third_node_while_the_others_turn_is_left_by_the_source_when_they_have() -> None:
    net = world()
    number = number_of(net)
    answer(net, "b", begin(net))
    net.report("b", carry(net))
    net.servers["c"].confirms = False
    announce(net)
    assert state(net) == State.REPOINTING
    definition = machine(net)
    net.unplug("b", "r1", moved=True)
    net.plug("c", definition, 401)
    assert state(net) == State.REPOINTING
    assert entrance(30, FIRST) in of_router(net, "a", number)
    net.servers["c"].confirms = True
    net.run(10)
    assert [(one.source, one.target) for one in net.controller.moves.ended] == [("a", "b")]
    assert net.controller.moves.under_way["r1"].target == "c"


def test_the_switch_lets_announcements_in_at_a_port_that_comes_late() -> None:
    net = world()
    answer(net, "b", begin(net))
    net.report("b", carry(net))
    assert state(net) == State.ANNOUNCING
    server = net.servers["b"]
    for number in (1, 2):
        server.node.put(Port(f"r1-{number}", 500 + number, PortKind.VIF, "r1", number))
    net.settle()
    net.run(2)
    for number, address in ((1, FIRST), (2, mac(102))):
        wanted = edges.admit_announcement(500 + number, address, number_of(net))
        assert wanted.keys() <= server.switch.flows.keys()


def test_announcements_are_let_in_before_the_client_is_asked_for_them() -> None:
    """Else the switch, which may have much to do, drops the first ones, and each costs a longer pause."""
    net = world()
    answer(net, "b", begin(net))
    net.servers["b"].confirms = False
    outbox = carry(net)
    wanted = [edges.admit_announcement(300 + n, mac(100 + n), number_of(net)).keys() for n in (1, 2)]
    assert not any(keys & net.servers["b"].switch.flows.keys() for keys in wanted)
    net.report("b", outbox)
    assert all(keys <= net.servers["b"].switch.flows.keys() for keys in wanted)
    assert (state(net), told(net, "b", Announce)) == (State.RESUMING, [])
    net.run(4)
    assert told(net, "b", Announce)
    net.servers["b"].confirms = True
    announce(net)
    net.run(6)
    assert state(net) == State.DONE
    assert not any(keys & net.servers["b"].switch.flows.keys() for keys in wanted)


def test_forged_announcements_are_ignored_and_counted() -> None:
    net = world()
    answer(net, "b", begin(net))
    net.report("b", carry(net))
    asked = told(net, "b", Announce)[-1]
    assert isinstance(asked, Announce)
    announce(net, key=b"another key of 32 bytes .........")
    announce(net, epoch=asked.epoch - 1)
    assert state(net) == State.ANNOUNCING
    assert net.controller.ignored.total == 4
    announce(net)
    finish(net)
    assert state(net) == State.DONE


def test_a_client_that_never_announces_does_not_stop_the_move() -> None:
    net = world()
    answer(net, "b", begin(net))
    net.report("b", carry(net))
    net.run(12)
    assert state(net) == State.DONE


def test_a_move_is_refused_with_the_reason() -> None:
    net = world()
    moves = net.controller.moves
    assert "no router 'nobody'" in moves.start("nobody", "b")
    assert "'z' is not known" in moves.start("r1", "z")
    assert "on node a already" in moves.start("r1", "a")
    net.disconnect("b")
    assert "its server is away" in moves.start("r1", "b")
    net.connect("b")
    net.disconnect("a")
    assert "node a, which has the VM, is not in sync: its server is away" in moves.start("r1", "b")
    net.connect("a")
    begin(net)
    assert "already" in moves.start("r1", "c")
    assert "on its way" in moves.start("r1", "a")
    assert "not on its way" in moves.abort("r2")


def test_no_move_begins_before_it_is_known_what_links_there_are() -> None:
    net = world()
    net.controller = Controller(net.settings)
    for node in "ab":  # and c may be there, too
        net.connect(node)
        net.connect_switch(node)
    net.run(3)
    assert "the links are not known yet" in net.controller.moves.start("r1", "b")
    net.run(10)
    assert net.controller.moves.start("r1", "b") == ""


def test_a_controller_that_was_away_during_the_move_catches_up() -> None:
    net = world()
    number = number_of(net)
    definition = machine(net)
    a, b = net.servers["a"], net.servers["b"]
    outbox = a.routers.pop("r1")
    for port in [fact for fact in a.node.facts.of(Port.KIND).values() if isinstance(fact, Port)]:
        if port.kind is PortKind.VIF:
            a.node.drop(Port.KIND, port.key)
    a.node.drop(Machine.KIND, b"r1")
    for interface in definition.interfaces:
        b.node.put(Port(f"r1-{interface.number}", 300 + interface.number, PortKind.VIF, "r1", interface.number))
    b.node.put(definition)
    b.routers["r1"] = outbox
    assert definition.kind is MachineKind.ROUTER
    net.start()
    announce(net)
    finish(net)
    assert of_router(net, "a", number) == {}
    assert entrance(30, FIRST) in of_router(net, "b", number)
    assert way(net, "c") == actions.output(1)


@pytest.mark.parametrize("first", ["abc", "bac"])
def test_a_vm_whose_leave_is_noticed_late_while_a_controller_starts_is_found_once_the_links_are_known(
    first: str,
) -> None:
    net = world()
    answer(net, "b", begin(net))
    net.controller = Controller(net.settings)
    definition = machine(net)
    for name in first:
        net.servers[name].told.clear()
        net.connect(name)
        if name == "b":
            net.plug("b", definition, 301)
            net.report("b", net.servers["a"].routers["r1"])
    net.unplug("a", "r1", moved=True)
    assert not net.controller.moves.under_way
    for name in net.servers:
        net.connect_switch(name)
    net.run(1.5)
    announce(net)
    net.run(3)
    assert state(net) == State.DONE
    for server in net.servers.values():
        assert server.switch.flows == net.controller.nodes[server.name].flows.desired


def test_the_times_of_steps_count_from_the_order() -> None:
    net = world()
    operator = Identity(Role.OPERATOR, "root")
    net.controller.peer_opened(900, operator, Hello(VERSION, Role.OPERATOR, "root"), net.now)
    net.now += 0.4  # nothing happens meanwhile
    net.controller.peer_message(900, Query(1, "migrate", {"router": "r1", "to": "b"}), net.now)
    move = net.controller.moves.under_way["r1"]
    assert (move.started, move.reached) == (net.now, [(State.PREPARING, 0.0)])


def test_why_a_move_has_turned_back_is_told_and_nothing_of_one_that_arrived_all_the_same() -> None:
    net = world()
    moves = net.controller.moves
    begin(net)
    net.run(11)
    assert (state(net), moves.ended[-1].error) == (State.FAILED, "preparing has taken longer than 10 s")
    for arrives in (False, True):
        assert moves.start("r1", "b") == ""
        net.run(0.1)
        order = moves.under_way["r1"].number
        answer(net, "b", order)
        assert (state(net), moves.abort("r1"), state(net)) == (State.MOVING, "", State.CANCELLING)
        assert moves.under_way["r1"].error == "taken back"
        if not arrives:
            answer(net, "a", order, "the hypervisor's command failed: ended by SIGTERM")
            assert (state(net), moves.ended[-1].error) == (State.FAILED, "taken back")
    net.report("b", carry(net))
    announce(net)
    finish(net)
    assert (state(net), moves.ended[-1].error) == (State.DONE, "")


def test_a_hypervisor_that_says_that_it_gets_on_may_take_hours() -> None:
    net = world()
    order = begin(net)
    answer(net, "b", order)
    peer = net.servers["a"].peer
    assert peer is not None
    for _ in range(12):  # a busy VM: the percentage stays where it is
        net.now += 850
        net.controller.peer_message(peer, Progress(order, False, "", 40), net.now)
        net.run(0.1)
        assert state(net) == State.MOVING
    net.now += 850
    net.run(0.1)
    assert state(net) == State.MOVING
    net.now += 50
    net.run(0.1)
    why = "the hypervisor has not said for 900 s that the VM gets on"
    assert (state(net), net.controller.moves.under_way["r1"].error) == (State.CANCELLING, why)

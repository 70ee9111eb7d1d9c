"""Migrations on a network in memory: where the flows are at each step, and that every way out leaves one node clean."""

from __future__ import annotations

import pytest

from tests.unit.app.moving import (
    FIRST,
    GATEWAY,
    announce,
    answer,
    begin,
    carry,
    disguises,
    entrance,
    finish,
    machine,
    number_of,
    of_router,
    state,
    told,
    way,
    world,
)
from tests.unit.app.network import mac
from xenflow.identity import Identity
from xenflow.model import Hop, Port, PortKind, Route, RouteKind, pack_prefix
from xenflow.wire import VERSION, Announce, Announced, Hello, Move, Progress, Query, Role, Undefine
from xenflow_app import disguise, edges, routing
from xenflow_app.controller import Controller
from xenflow_app.migration import State
from xenflow_app.openflow import actions, nxm
from xenflow_app.pipeline import Table


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

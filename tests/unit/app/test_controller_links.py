"""The controller as a whole, where links are many: trees and ways in a ring, whatever fails or starts anew."""

from __future__ import annotations

from tests.unit.app.network import mac
from tests.unit.app.worlds import flows, ring, trees
from xenflow.model import Port, PortKind
from xenflow_app import switching
from xenflow_app.controller import Controller
from xenflow_app.openflow import actions, nxm
from xenflow_app.openflow.values import PortReason, PortStatus, SwitchPort
from xenflow_app.pipeline import Table


def test_a_ring_has_a_tree_and_known_addresses_take_the_shortest_way() -> None:
    world = ring()
    assert len(world.controller.fabric.graph.edges) == 3
    assert len(trees(world, 30)) == 4
    key = nxm.flow_key(Table.EGRESS, 100, reg0=30, dl_dst=mac(200))
    assert world.servers["a"].switch.flows[key][12:] == actions.output(2)
    assert world.servers["b"].switch.flows[key][12:] == actions.output(2)
    assert world.servers["c"].switch.flows[key][12:] == actions.strip_vlan() + actions.output(200)


def test_a_trunk_that_loses_carrier_is_routed_around_and_comes_back() -> None:
    world = ring()
    before = flows(world)
    end = sorted(trees(world, 30))[0]
    far = world.cables[end]
    for node, port in (end, far):
        world.say(node, PortStatus(PortReason.MODIFY, SwitchPort(port, f"t{port}", mac(port), False)))
    world.run(1.0)
    after = trees(world, 30)
    assert len(after) == 4
    assert not {end, far} & after
    for node, port in (end, far):
        world.say(node, PortStatus(PortReason.MODIFY, SwitchPort(port, f"t{port}", mac(port), True)))
    world.run(3.0)
    assert flows(world) == before


def test_a_trunk_whose_far_end_is_silent_is_left() -> None:
    world = ring()
    world.servers["a"].node.put(Port("t1", 1, PortKind.TRUNK, alive=False))
    world.settle()
    world.run(1.0)
    assert not {("a", 1), ("b", 1)} & trees(world, 30)
    assert len(trees(world, 30)) == 4


def test_a_tree_is_removed_everywhere_before_it_is_added_anywhere() -> None:
    world = ring()
    for server in world.servers.values():
        server.confirms = False
    end = sorted(trees(world, 30))[0]
    far = world.cables[end]
    before = trees(world, 30)
    for node, port in (end, far):
        world.say(node, PortStatus(PortReason.MODIFY, SwitchPort(port, f"t{port}", mac(port), False)))
    assert trees(world, 30) == before - {end, far}
    world.run(3.5)
    assert len(trees(world, 30)) == 4


def test_a_restarted_controller_hears_the_links_of_a_switch_that_connects_late() -> None:
    world = ring()
    before = flows(world)
    sent = {name: server.switch.flow_mods for name, server in world.servers.items()}
    world.controller = Controller(world.settings)
    for name in world.servers:
        world.connect(name)
    world.run(4.0)
    cables, world.cables = world.cables, {}
    for name in world.servers:
        world.connect_switch(name)
    world.run(0.2)
    world.cables = cables
    world.run(3.0)
    assert flows(world) == before
    assert {name: server.switch.flow_mods for name, server in world.servers.items()} == sent


def test_a_restarted_controller_removes_an_old_tree_everywhere_before_it_adds_a_new_one() -> None:
    """A trunk of the tree that is silent now may still carry frames: it must be shut before another one is opened."""
    world = ring()
    before = trees(world, 30)
    end = sorted(before)[0]
    far = world.cables[end]
    del world.cables[end], world.cables[far]
    for server in world.servers.values():
        server.confirms = False
    world.start()
    opened = {
        (name, port)
        for name, server in world.servers.items()
        for port in (1, 2)
        if switching.gate_key(30, port) in server.switch.flows
    }
    assert opened == before - {end, far}
    world.run(5.0)
    assert len(trees(world, 30)) == 4


def test_a_controller_restart_keeps_a_tree_that_is_not_the_first_choice() -> None:
    world = ring()
    world.servers["b"].node.put(Port("t1", 1, PortKind.TRUNK, alive=False))
    world.settle()
    world.run(1.0)
    before = flows(world)
    world.start()
    assert flows(world) == before


def test_a_node_without_control_connection_changes_nothing_for_the_others() -> None:
    world = ring()
    before = flows(world)
    world.disconnect_switch("b")
    world.disconnect("b")
    world.run(30.0)
    assert flows(world) == before


def test_ways_to_a_node_come_back_when_it_has_machines_again() -> None:
    world = ring()
    key = nxm.flow_key(Table.EGRESS, 100, reg0=30, dl_dst=mac(200))
    server = world.servers["c"]
    machine, port = server.node.facts.of(11)[b"h1"], server.node.facts.of(12)[b"h1"]
    server.node.drop(12, b"h1")
    server.node.drop(11, b"h1")
    world.settle()
    world.run(1.0)
    assert key not in world.servers["a"].switch.flows
    server.node.put(machine)
    server.node.put(port)
    world.settle()
    assert world.servers["a"].switch.flows[key][12:] == actions.output(2)

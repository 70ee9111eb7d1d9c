"""VMs that move, go on, are lost or destroyed without an order of ours, or while no controller looks."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.app.moving import (
    FIRST,
    announce,
    answer,
    begin,
    carry,
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
from xenflow.model import Machine, MachineKind, Port, PortKind
from xenflow.wire import Undefine
from xenflow_app.migration import State
from xenflow_app.openflow import actions


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

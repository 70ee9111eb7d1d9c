"""A source that notices late that the VM is gone, and a VM that goes back or on before it has."""

from __future__ import annotations

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
    way,
    world,
)
from tests.unit.app.network import World
from xenflow.replica import Outbox
from xenflow_app.controller import Controller
from xenflow_app.migration import State
from xenflow_app.openflow import actions


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


def test_a_vm_that_goes_back_before_the_source_has_noticed_its_leave_is_found_there() -> None:
    net = world()
    number, client = number_of(net), late(net)
    net.unplug("b", "r1", moved=True)
    assert not net.controller.moves.under_way
    assert entrance(30, FIRST) in of_router(net, "b", number)
    net.report("a", client)
    assert net.controller.moves.under_way["r1"].target == "a"
    announce(net, node="a", first_port=101)
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
    announce(net, node="c", first_port=401)
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
    announce(net, node="a", first_port=101)
    net.run(3)
    assert (state(net), net.controller.moves.ended[-1].target) == (State.DONE, "a")
    assert of_router(net, "b", number) == {}


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

"""Neighbors that a router's kernel gives up while the router moves stay in the switches until the move has ended.

The VM's new node is cut off for a while: its kernel's questions to stale neighbors are not answered, and as soon as the
node is in reach again its client withdraws them; but the node that still forwards has reached them all the time.
"""

from __future__ import annotations

import pytest

from tests.unit.app.moving import (
    GATEWAY,
    announce,
    answer,
    begin,
    carry,
    finish,
    number_of,
    of_router,
    state,
    world,
)
from tests.unit.app.network import World, mac
from xenflow.model import Neighbor, neighbor_key
from xenflow.replica import Outbox
from xenflow_app.migration import State
from xenflow_app.pipeline import Table

GIVEN_UP = neighbor_key(1, GATEWAY)
FOUND = Neighbor(1, GATEWAY, mac(200))


def reaches(net: World, node: str) -> bool:
    """Tell whether the node's switch sends to the neighbor by itself."""
    tables = {key[0] for key in of_router(net, node, number_of(net))}
    found = tables & {Table.ONLINK, Table.NEIGHBOR, Table.REWRITE}
    assert len(found) in (0, 3)
    return bool(found)


def moved() -> tuple[World, Outbox]:
    """The VM is on b, its client has reported; it has not announced itself yet."""
    net = world()
    answer(net, "b", begin(net))
    outbox = net.report("b", carry(net))
    assert state(net) == State.ANNOUNCING
    return net, outbox


def give_up(net: World, outbox: Outbox) -> None:
    outbox.drop(Neighbor.KIND, GIVEN_UP)
    net.settle()


def test_a_target_that_comes_back_with_its_neighbors_given_up_costs_the_source_none_of_them() -> None:
    net, outbox = moved()
    net.disconnect("b")
    net.disconnect_switch("b")
    give_up(net, outbox)
    net.connect_switch("b")
    net.connect("b")
    assert (reaches(net, "a"), reaches(net, "b")) == (True, True)
    announce(net)
    while state(net) != State.DONE:
        assert (reaches(net, "a"), reaches(net, "b")) == (True, True)
        net.run(0.1)
    assert (reaches(net, "a"), reaches(net, "b")) == (False, False)
    outbox.put(FOUND)  # the packets ask for it
    net.settle()
    assert reaches(net, "b")


def test_a_neighbor_that_is_found_again_before_the_end_stays() -> None:
    net, outbox = moved()
    give_up(net, outbox)
    outbox.put(FOUND)
    announce(net)
    finish(net)
    assert (state(net), reaches(net, "b")) == (State.DONE, True)


def test_a_neighbor_that_has_another_address_now_is_sent_to_there() -> None:
    net, outbox = moved()
    give_up(net, outbox)
    before = of_router(net, "a", number_of(net))
    outbox.put(Neighbor(1, GATEWAY, mac(201)))
    net.settle()
    after = of_router(net, "a", number_of(net))
    assert {key[0] for key in before if before[key] != after[key]} == {Table.REWRITE}
    announce(net)
    finish(net)
    assert (state(net), reaches(net, "b")) == (State.DONE, True)


@pytest.mark.parametrize("finds", [False, True])
def test_a_vm_that_returns_takes_with_it_what_it_has_found(finds: bool) -> None:
    net, outbox = moved()
    give_up(net, outbox)
    (definition,) = (machine for machine in net.controller.nodes["b"].machines if machine.name == "r1")
    net.unplug_silently("b", "r1")
    net.plug("a", definition, 101)
    if finds:
        outbox.put(FOUND)
    net.report("a", outbox)
    finish(net)
    assert (state(net), reaches(net, "a")) == (State.FAILED, finds)


def test_before_the_vm_has_moved_what_it_gives_up_goes_at_once() -> None:
    net = world()
    answer(net, "b", begin(net))
    assert (state(net), reaches(net, "b")) == (State.MOVING, True)
    give_up(net, net.servers["a"].routers["r1"])
    assert (reaches(net, "a"), reaches(net, "b")) == (False, False)

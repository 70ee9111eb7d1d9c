"""What was handed over to nodes goes and comes with what is true, whatever orders and servers are lost."""

from __future__ import annotations

import pytest

from tests.unit.app.moving import RING, begin, carry, machine, number_of, of_router, state, told, way, world
from tests.unit.app.network import World
from xenflow.model import Handed, NodeLimits
from xenflow.wire import Define, Move, Progress, Undefine
from xenflow_app.migration import State


def hand_over(net: World, node: str, name: str = "r1", epoch: int = 5) -> None:
    """The node's server says that it has a definition from a controller."""
    net.servers[node].node.put(Handed(name, epoch))
    net.settle()


def reconnect(net: World, node: str) -> None:
    """The node's server is killed, and starts again."""
    net.disconnect(node)
    net.connect(node)


def undefined(net: World, node: str) -> list[str]:
    return [message.name for message in told(net, node, Undefine) if isinstance(message, Undefine)]


def answer(net: World, node: str, number: int, error: str = "") -> None:
    say(net, node, Progress(number, True, error))


def say(net: World, node: str, progress: Progress) -> None:
    peer = net.servers[node].peer
    assert peer is not None
    net.controller.peer_message(peer, progress, net.now)
    net.settle()


def test_what_an_earlier_controller_handed_over_is_forgotten() -> None:
    net = world()
    hand_over(net, "b")
    net.start()
    net.run(2)
    assert undefined(net, "b") == ["r1"]
    assert undefined(net, "a") == []
    net.run(5)
    assert undefined(net, "b") == ["r1"]  # what is refused is not asked for again
    reconnect(net, "b")
    net.run(2)
    assert undefined(net, "b") == ["r1", "r1"]


def test_a_server_that_was_away_when_a_move_ended_forgets_its_definition_later() -> None:
    net = world()
    answer(net, "b", begin(net))
    hand_over(net, "b")
    net.disconnect("b")
    net.run(1)
    assert net.controller.moves.abort("r1") == ""
    answer(net, "a", net.controller.moves.under_way["r1"].number, "cancelled")
    assert (state(net), undefined(net, "b")) == (State.FAILED, [])
    net.connect("b")
    net.run(2)
    assert undefined(net, "b") == ["r1"]


def test_definitions_stay_where_the_router_runs_or_may_come() -> None:
    net = world()
    hand_over(net, "a")
    hand_over(net, "b")
    begin(net)
    hand_over(net, "b", "r9")  # no such router runs anywhere: it may be off
    net.run(5)
    assert undefined(net, "a") == undefined(net, "b") == []


def test_a_node_that_starts_while_a_router_is_on_its_way_by_hand_gets_its_definition() -> None:
    net = world()
    net.disconnect("b")
    net.unplug("a", "r1", moved=True)
    assert told(net, "b", Define) == []
    net.connect("b")
    net.run(2)
    (define,) = told(net, "b", Define)
    assert isinstance(define, Define)
    assert define.machine.name == "r1"


def test_numbers_are_higher_than_what_servers_have_from_a_clock_that_ran_ahead() -> None:
    net = world()
    hand_over(net, "b", epoch=1 << 60)
    assert begin(net) > 1 << 60


@pytest.mark.parametrize("when", ["preparing", "moving"])
def test_an_order_is_repeated_to_a_server_that_starts_anew(when: str) -> None:
    net = world()
    order = begin(net)
    node, kind = "b", Define
    if when == "moving":
        answer(net, "b", order)
        node, kind = "a", Move  # type: ignore[assignment]
    reconnect(net, node)
    net.run(3)
    assert [message.number for message in told(net, node, kind)] == [order, order]  # type: ignore[attr-defined]
    assert state(net) == when


def test_percent_is_the_hypervisors() -> None:
    net = world()
    order = begin(net)
    say(net, "b", Progress(order, True, "", 100))
    (move,) = net.controller.moves.under_way.values()
    assert (move.state, move.percent) == (State.MOVING, 0)
    say(net, "a", Progress(order, False, "", 40))
    assert move.percent == 40


def test_a_move_is_not_ordered_again_when_the_vm_has_left() -> None:
    net = world()
    answer(net, "b", begin(net))
    net.unplug("a", "r1", moved=True)
    reconnect(net, "a")
    net.run(3)
    assert len(told(net, "a", Move)) == 1
    assert state(net) == State.MOVING


def test_a_vm_that_comes_to_a_third_node_is_followed_there() -> None:
    net = world()
    number = number_of(net)
    answer(net, "b", begin(net))
    definition = machine(net)
    net.unplug("a", "r1", moved=True)
    net.plug("c", definition, 501)
    (move,) = net.controller.moves.under_way.values()
    assert (move.source, move.target, move.planned) == ("a", "c", False)
    assert net.controller.moves.ended[-1].error == "the VM has come to node c"
    assert of_router(net, "b", number) == {}


def cut(net: World, node: str) -> None:
    """The trunks of a node carry nothing any more; its switch stays connected."""
    net.cables = {end: far for end, far in net.cables.items() if node not in (end[0], far[0])}
    net.run(15)


def mend(net: World) -> None:
    for a, port_a, b, port_b in RING:
        net.cables[a, port_a] = (b, port_b)
        net.cables[b, port_b] = (a, port_a)
    net.run(6)


def test_nodes_turn_to_a_target_that_was_cut_off_when_they_can_reach_it() -> None:
    """Until then they send to the source, which goes on."""
    net = world()
    number = number_of(net)
    answer(net, "b", begin(net))
    outbox = carry(net)
    before = way(net, "c")
    cut(net, "b")
    net.report("b", outbox)
    net.run(70)
    assert (state(net), way(net, "c")) == (State.REPOINTING, before)
    assert of_router(net, "a", number)
    mend(net)
    assert (state(net), way(net, "c") != before) == (State.DONE, True)
    assert of_router(net, "a", number) == {}


def test_no_node_turns_to_a_target_whose_switch_is_out_of_reach() -> None:
    net = world()
    answer(net, "b", begin(net))
    before = way(net, "c")
    net.disconnect_switch("b")
    outbox = carry(net)
    net.report("b", outbox)
    net.run(100)
    assert (state(net), way(net, "c")) == (State.RESUMING, before)
    net.connect_switch("b")
    net.run(20)
    assert (state(net), way(net, "c") != before) == (State.DONE, True)


def test_while_nodes_wait_they_go_by_the_links_that_work() -> None:
    net = world()
    answer(net, "b", begin(net))
    carry(net)
    direct = way(net, "c")
    for end in (("a", 2), ("c", 2)):
        net.cables.pop(end, None)
    net.run(15)
    assert state(net) == State.RESUMING
    assert way(net, "c") != direct  # to a by way of b


@pytest.mark.parametrize(("most", "others", "begins"), [(0, 5, True), (2, 1, True), (2, 2, False), (1, 1, False)])
def test_a_node_takes_no_more_routers_than_it_may(most: int, others: int, begins: bool) -> None:
    """As its server counts them: those that run there, and those that were handed over to come."""
    net = world()
    for number in range(others):
        hand_over(net, "b", f"r{number + 2}")
    if most:
        net.servers["b"].node.put(NodeLimits(most))
    net.settle()
    why = net.controller.moves.start("r1", "b")
    assert (why == "", bool(net.controller.moves.under_way)) == (begins, begins)
    assert begins or f"node b is full: {others} of {most} routers run there or are to come" in why
    net.settle()
    assert bool(told(net, "b", Define)) == begins


def test_who_is_on_the_way_has_its_place() -> None:
    """The server may not have been told of it yet."""
    net = world()
    net.router("a", "r2", {"core": "10.0.0.2/24"}, 111)
    net.servers["b"].node.put(NodeLimits(1))
    net.settle()
    moves = net.controller.moves
    assert moves.start("r1", "b") == ""
    assert "node b is full: 1 of 1 routers" in moves.start("r2", "b")
    assert moves.abort("r1") == ""
    net.run(1)
    assert moves.start("r2", "b") == ""

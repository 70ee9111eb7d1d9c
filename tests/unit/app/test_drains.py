"""Trunks are drained and used again: what is known arrives exactly once at each moment, whatever happens meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.app.draining import CHAIN, LADDER, PARALLEL, RING, VID, Cable, Drained
from xenflow.wire import Drain, Progress
from xenflow_app.drains import ORDER_S
from xenflow_app.queries.names import QueryError
from xenflow_app.queries.status import status

SHAPES = {"ring": ("abc", RING), "parallel": ("ab", PARALLEL), "ladder": ("abcd", LADDER)}


def ends(cable: Cable) -> set[tuple[str, int]]:
    return {(cable[0], cable[1]), (cable[2], cable[3])}


def name(cable: Cable, end: int = 0) -> str:
    return f"{cable[2 * end]}:t{cable[2 * end + 1]}"


def refusal(net: Drained, trunk: str, *, back: bool = False) -> str:
    with pytest.raises(QueryError) as caught:
        (net.undrain if back else net.drain)(trunk)
    return str(caught.value)


def wait(net: Drained, trunk: str, state: str) -> None:
    for _ in range(40):
        if net.status(trunk).state == state:
            return
        net.run(0.1)
    raise AssertionError(net.status(trunk))


def drain(net: Drained, trunk: str) -> None:
    net.drain(trunk)
    wait(net, trunk, "drained")


def undrain(net: Drained, trunk: str) -> None:
    net.undrain(trunk)
    wait(net, trunk, "in use")


@pytest.mark.parametrize(
    ("shape", "bridges"), [("ring", False), ("parallel", False), ("ladder", False), ("ring", True), ("parallel", True)]
)
@pytest.mark.parametrize("seed", range(3))
def test_each_trunk_in_turn_is_drained_and_used_again_and_nothing_is_lost(shape: str, seed: int, bridges: bool) -> None:
    names, cables = SHAPES[shape]
    net = Drained(names, cables, seed, bridges=bridges)
    before = net.used()
    net.watch()
    for cable in cables:
        for end in (0, 1):
            drain(net, name(cable, end))
            assert not net.used() & ends(cable)
            found = net.status(name(cable, 1 - end))
            assert (found.state, found.addresses, found.networks, found.ended) == ("drained", 0, 0, True)
            undrain(net, name(cable, 1 - end))
            assert net.used() == before
    net.stop_watching()


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from(sorted(SHAPES)), st.integers(0, 1000))
def test_any_history_of_orders_and_restarts_loses_and_doubles_nothing(
    data: st.DataObject, shape: str, seed: int
) -> None:
    names, cables = SHAPES[shape]
    net = Drained(names, cables, seed)
    net.watch()
    for _ in range(data.draw(st.integers(1, 8))):
        trunk = name(data.draw(st.sampled_from(cables)), data.draw(st.integers(0, 1)))
        what = data.draw(st.sampled_from(["drain", "undrain", "restart", "wait", "server away", "half-way"]))
        net.half_way = what == "half-way"
        try:
            if what in ("drain", "half-way"):
                net.drain(trunk)
            elif what == "undrain":
                net.undrain(trunk)
        except QueryError:
            pass
        if what in ("restart", "half-way"):
            net.restart()
        elif what == "wait":
            net.run(data.draw(st.floats(0.05, 3)))
        elif what == "server away":
            net.disconnect(trunk[0])
            net.run(0.1)
            net.connect(trunk[0])
    net.run(5)
    marked = {trunk for cable in cables for trunk in (name(cable), name(cable, 1)) if net.is_marked(trunk)}
    assert {trunk for trunk in marked if net.status(trunk).state != "drained"} == set()
    drained = {end for cable in cables for end in ends(cable) if {name(cable), name(cable, 1)} & marked}
    assert not net.used() & drained
    net.stop_watching()


@pytest.mark.parametrize("target", "bc")
def test_bridges_in_the_cables_are_taught_where_somebody_silent_is(target: str) -> None:
    """By broadcasts they have learned that b and c are beyond a; now only a speaks."""
    net = Drained("abc", RING, bridges=True)
    net.look()
    net.streams = {("a", target)}
    net.watch()
    for cable in RING:
        drain(net, name(cable))
        undrain(net, name(cable))
    net.stop_watching()


def test_the_way_there_is_shown_and_the_mark_is_at_the_end_that_was_named() -> None:
    net = Drained("abc", RING)
    net.servers["b"].confirms = False
    begun = net.drain("a:t1")
    assert begun.ends == ["a:t1", "b:t1"]
    assert (net.is_marked("a:t1"), net.is_marked("b:t1")) == (True, False)
    found = net.status("b:t1")
    assert (found.state, found.awaited, found.ended) == ("draining", "node b to confirm", False)
    links = {link.ends[0]: link for link in status(net.controller).links}
    assert (links["a:t1"].up, links["a:t1"].drain) == (True, "draining")
    net.run(10)  # steps go on after a while without a confirmation; to call it drained takes one
    assert net.status("a:t1").state == "draining"
    net.servers["b"].confirms = True
    net.disconnect("b")
    assert net.status("a:t1").awaited == "node b, out of reach"
    net.connect("b")
    wait(net, "a:t1", "drained")
    links = {link.ends[0]: link for link in status(net.controller).links}
    assert (links["a:t1"].up, links["a:t1"].drain, links["a:t1"].why) == (False, "drained", "drained, and works")
    assert links["a:t2"].drain == ""


def test_refusals_say_why() -> None:
    net = Drained("abc", RING)
    assert "no trunk: name one of its ends as NODE:PORT" in refusal(net, "a")
    assert "no node 'x' is known; known: a, b, c" in refusal(net, "x:t1")
    assert "node a has no port 't9'; its trunks: t1, t2" in refusal(net, "a:t9")
    assert "port h-a of node a is no trunk (vif)" in refusal(net, "a:h-a")
    assert "trunk a:t1 is not drained" in refusal(net, "a:t1", back=True)
    drain(net, "a:t1")
    assert "trunk b:t1 is drained already" in refusal(net, "b:t1")
    assert "no other way: without the trunk node a would be cut off" in refusal(net, "c:t2")
    net.disconnect("a")
    assert "the server of node a is away" in refusal(net, "a:t1", back=True)


@pytest.mark.parametrize(("trunk", "lonely"), [("a:t1", "node a"), ("b:t1", "node a"), ("c:t1", "node c")])
def test_a_chain_cannot_be_drained(trunk: str, lonely: str) -> None:
    net = Drained("abc", CHAIN)
    assert f"without the trunk {lonely} would be cut off" in refusal(net, trunk)
    assert not net.is_marked(trunk)


@pytest.mark.parametrize("what", ["switch", "server"])
def test_a_node_out_of_reach_cannot_turn(what: str) -> None:
    net = Drained("abc", RING)
    (net.disconnect if what == "server" else net.disconnect_switch)("c")
    assert f"node c is out of reach (its {what} is away)" in refusal(net, "a:t1")


def test_a_node_that_goes_away_before_it_has_turned_keeps_the_trunk_in_use_until_it_is_back() -> None:
    net = Drained("abc", RING)
    net.watch()
    net.servers["b"].confirms = False
    connection = net.servers["a"].connection
    net.servers["a"].connection = None  # what is sent to it is lost
    net.drain("a:t1")
    net.servers["a"].connection = connection
    net.disconnect_switch("a")
    net.servers["b"].confirms = True
    net.run(5)
    assert (net.status("a:t1").state, net.status("a:t1").awaited) == ("draining", "node a, out of reach")
    net.connect_switch("a")
    net.run(5)
    assert net.status("a:t1").state == "drained"
    assert not net.used() & ends(RING[0])
    net.stop_watching()


def test_it_stays_drained_when_controller_and_server_start_anew() -> None:
    net = Drained("abc", RING)
    drain(net, "a:t1")
    net.watch()
    used = net.used()
    net.restart()
    wait(net, "b:t1", "drained")
    net.disconnect("a")
    net.connect("a")
    net.run(1)
    assert (net.status("a:t1").state, net.used()) == ("drained", used)
    undrain(net, "b:t1")
    assert not net.is_marked("a:t1")
    net.stop_watching()


def test_a_cable_is_unplugged_and_plugged_in_again_while_drained() -> None:
    net = Drained("abc", RING)
    drain(net, "a:t1")
    net.watch()
    net.unplug_cable("a", 1)
    assert net.status("a:t1").state == "drained"
    assert {link.why for link in status(net.controller).links if link.drain} == {"down"}
    net.plug_cable("a", 1)
    net.run(2)
    assert net.status("b:t1").state == "drained"
    assert not net.used() & ends(RING[0])
    undrain(net, "a:t1")
    net.stop_watching()


def test_a_trunk_that_is_down_can_be_drained_so_that_it_is_not_used_when_it_is_back() -> None:
    net = Drained("abc", RING)
    net.unplug_cable("a", 1)
    drain(net, "a:t1")
    net.watch()
    net.plug_cable("a", 1)
    net.run(2)
    assert not net.used() & ends(RING[0])
    net.stop_watching()


def test_a_trunk_that_is_marked_at_both_ends_needs_one_order_to_be_used_again() -> None:
    net = Drained("abc", RING)
    net.watch()
    net.mark("a", "t1", drained=True)
    net.mark("b", "t1", drained=True)
    net.settle()
    wait(net, "a:t1", "drained")
    undrain(net, "a:t1")
    assert not net.is_marked("b:t1")
    net.stop_watching()


def test_a_drained_trunk_stays_drained_when_all_others_fail_and_that_is_said() -> None:
    net = Drained("abc", RING)
    drain(net, "a:t1")
    net.unplug_cable("a", 2)
    net.run(1)
    assert net.status("a:t1").state == "drained"
    assert not net.used() & ends(RING[0])
    found = status(net.controller)
    assert "trunk a:t1 - b:t1: to be undrained: node a cut off without it" in found.awaited
    assert "drained; node a cut off without it" in {link.why for link in found.links}
    undrain(net, "a:t1")
    assert net.used() & ends(RING[0])


def test_a_drain_that_is_taken_back_at_once() -> None:
    net = Drained("abc", RING)
    net.watch()
    net.servers["a"].marks = False
    assert net.drain("a:t1").state == "marking"
    assert "is being marked already" in refusal(net, "a:t1")
    assert "no other way" in refusal(net, "a:t2")
    net.servers["a"].marks = True
    undrain(net, "a:t1")
    assert not net.is_marked("a:t1")
    net.stop_watching()


def test_a_server_that_refuses_or_does_not_do_it() -> None:
    net = Drained("abc", RING)
    net.servers["a"].marks = False
    net.drain("a:t1")
    net.run(ORDER_S + 1)
    found = net.status("a:t1")
    assert (found.state, found.ended) == ("in use", True)
    assert "the server of node a has not done it" in found.error
    net.drain("a:t1")
    order = net.orders[-1]
    assert isinstance(order, Drain)
    assert net.servers["a"].peer is not None
    net.controller.peer_message(net.servers["a"].peer, Progress(order.number, True, "no such port"), net.now)
    assert (net.status("a:t1").state, net.status("a:t1").error) == ("in use", "no such port")
    net.servers["a"].marks = True
    drain(net, "a:t1")
    assert net.status("a:t1").error == ""


def test_the_tree_of_a_network_leaves_the_trunk_too() -> None:
    net = Drained("abc", RING)
    for cable in RING:
        drain(net, name(cable))
        tree = net.controller.fabric.trees.tree(VID)
        assert len(tree) == 2
        assert not {(end.node, end.port) for link in tree for end in (link.a, link.b)} & ends(cable)
        net.used()
        assert net.send("a", None) == {"b": 1, "c": 1}
        undrain(net, name(cable))

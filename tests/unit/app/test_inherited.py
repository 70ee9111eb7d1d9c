"""A controller that starts while a router's VM is on its way: packets go on as they did, until the target can route.

The histories are those of `test_moves_stateful`: after each change of any switch a packet from each node is followed.
"""

from __future__ import annotations

import pytest

from tests.unit.app.network import World
from tests.unit.app.test_moves_histories import told
from tests.unit.app.test_moves_stateful import ADDRESS, ENTRANCE, FIRST_PORT, VID, Moving
from xenflow.model import Handed, Machine, Port
from xenflow.wire import Define
from xenflow_app import switching
from xenflow_app.controller import Controller
from xenflow_app.inherited import UNEXPECTED_S
from xenflow_app.migration import State
from xenflow_app.openflow import actions
from xenflow_app.takeover import Routed
from xenflow_app.topology import Edge, End

TO_A = actions.output(2)
"""How c sends to node a; to b it is port 1."""


def ordered() -> Moving:
    """A move from a to b has been ordered: the target has the definition and the flows."""
    history = told()
    history.get_on(2)
    (define,) = [message for message in history.net.servers["b"].told if isinstance(message, Define)]
    history.net.servers["b"].node.put(Handed("r1", define.epoch))
    history.net.settle()
    assert history.net.controller.moves.under_way["r1"].state is State.MOVING
    return history


def killed(history: Moving) -> Moving:
    """The controller is away, and the VM leaves its node meanwhile."""
    history.net.controller = Controller(history.net.settings)
    for server in history.net.servers.values():
        server.peer = server.connection = None
    server = history.net.servers[history.where]
    for port in [fact for fact in server.node.facts.of(Port.KIND).values() if isinstance(fact, Port)]:
        if port.machine == "r1":
            server.node.drop(Port.KIND, port.key)
    server.node.drop(Machine.KIND, b"r1")
    server.routers.clear()
    history.reported = False
    return history


def appear(history: Moving, node: str) -> None:
    history.where = node
    history.net.plug(node, history.machine, FIRST_PORT[node])


def entered(net: World) -> set[str]:
    return {name for name, server in net.servers.items() if ENTRANCE in server.switch.flows}


def way(net: World) -> bytes | None:
    """Return how c sends to the router."""
    (key,) = switching.egress(VID, ADDRESS, b"")
    value = net.servers["c"].switch.flows.get(key)
    return None if value is None else value[12:]


def test_the_vm_is_at_the_target_but_its_client_has_not_reported_there() -> None:
    """It may stand still: nothing is sent to it."""
    history = killed(ordered())
    appear(history, "b")
    history.net.start()
    assert ("a" in entered(history.net), way(history.net)) == (True, TO_A)
    history.report()
    assert entered(history.net) == {"a", "b"}
    history.announce(1)
    history.wait(2)
    assert (entered(history.net), way(history.net)) == ({"b"}, actions.output(1))
    history.teardown()


@pytest.mark.parametrize("node", ["a", "b"])
def test_the_vm_is_nowhere_and_appears_after_a_while(node: str) -> None:
    history = killed(ordered())
    history.net.start()
    history.wait(history.net.settings.hold_s - 5)
    assert (entered(history.net), way(history.net)) == ({"a"}, TO_A)
    appear(history, node)
    assert way(history.net) == TO_A
    history.report()
    history.wait(15)
    assert entered(history.net) == {node}
    history.teardown()


@pytest.mark.parametrize("expected", [False, True])
def test_a_vm_that_appears_nowhere_is_given_up(expected: bool) -> None:
    history = killed(ordered() if expected else told())
    history.net.start()
    history.wait((history.net.settings.hold_s if expected else UNEXPECTED_S) - 5)
    assert (entered(history.net), way(history.net)) == ({"a"}, TO_A)
    history.net.watch = lambda: None  # from here on nobody has to be forwarded for
    history.wait(7)
    assert (entered(history.net), way(history.net)) == (set(), None)
    for server in history.net.servers.values():
        assert server.switch.flows == history.net.controller.nodes[server.name].flows.desired


def test_two_nodes_that_have_the_vm_are_told_apart_by_what_the_switches_do() -> None:
    """The source's server has not seen it go when the target's has seen it come; the target is looked at first."""
    history = told()
    history.carry(True)
    history.report()
    history.announce(1)
    history.wait(15)
    assert (entered(history.net), way(history.net)) == ({"b"}, actions.output(1))
    history.net.controller = Controller(history.net.settings)
    for server in history.net.servers.values():
        server.peer = server.connection = None
    history.net.plug("a", history.machine, FIRST_PORT["a"])
    history.net.start()
    assert ("b" in entered(history.net), way(history.net)) == (True, actions.output(1))
    history.net.unplug_silently("b", "r1")
    history.where, history.reported = "a", False
    history.net.servers["b"].routers.clear()
    history.report()
    history.teardown()


AB, BC, AC = (
    Edge(End("a", 1), End("b", 1)),
    Edge(End("b", 2), End("c", 1)),
    Edge(End("a", 2), End("c", 2)),
)


def test_ways_are_followed_to_the_first_node_that_routes() -> None:
    found = Routed(VID, ADDRESS, frozenset("ab"), {"c": AC, "a": AB})
    assert [found.end(node) for node in "abc"] == ["b", "b", "a"]
    assert Routed(VID, ADDRESS, frozenset("a"), {"b": BC, "c": BC}).end("b") is None
    assert Routed(VID, ADDRESS, frozenset("a"), {}).end("b") is None


def test_who_sends_by_a_link_that_has_failed_gets_another_way() -> None:
    found = Routed(VID, ADDRESS, frozenset("a"), {"c": AC, "b": AB})
    assert found.ways("a", [AB, BC, AC]) == {"c": AC, "b": AB}
    assert found.ways("a", [AB, BC]) == {"c": BC, "b": AB}

"""`xenflow verify`: the flows that the switches really have, compared with those that are wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from xenflow.answers import Difference, Verified
from xenflow_app.flowtable import FlowKey, FlowValue, kind_of
from xenflow_app.openflow import encode, text
from xenflow_app.openflow.values import Flow
from xenflow_app.pipeline import Kind
from xenflow_app.queries.counters import OURS, Round
from xenflow_app.queries.names import Names
from xenflow_app.queries.words import purpose
from xenflow_app.rules import Rule

if TYPE_CHECKING:
    from xenflow_app.controller import Controller
    from xenflow_app.node import Node

MOST_DIFFERENCES = 100
MOST_TRIES = 5
"""How often a switch is read again because flows were changed meanwhile."""


def verify(controller: Controller, nodes: list[Node], done: Callable[[list[Verified]], None]) -> None:
    """Read the flows of the nodes' switches, and give `done` how they differ from what is wanted."""
    found: dict[str, Verified] = {}
    turn = Round(lambda: done([found[name] for name in sorted(found)]))
    for node in nodes:
        if node.switch is None or not node.flows.ready:
            found[node.name] = Verified(node.name, 0, [], why="its switch is not connected")
        else:
            _Reading(controller, node, turn, found).start(1)
    turn.close()


class _Reading:
    """One node's switch, read until nothing changed while it was read."""

    def __init__(self, controller: Controller, node: Node, turn: Round, found: dict[str, Verified]) -> None:
        self._controller, self._node, self._turn, self._found = controller, node, turn, found

    def start(self, attempt: int) -> None:
        """Ask the switch."""
        datapath = self._node.datapath
        tell = partial(self._told, attempt, datapath.sent_flow_mods)
        datapath.ask(self._turn.expect(tell), encode.ALL_TABLES, OURS)

    def _told(self, attempt: int, sent: int, flows: list[Flow] | None) -> None:
        node = self._node
        if flows is None:
            self._found[node.name] = Verified(node.name, 0, [], why="its switch was lost while it was read")
            return
        if (node.datapath.sent_flow_mods != sent or node.flows.due) and attempt < MOST_TRIES:
            self.start(attempt + 1)
            return
        self._found[node.name] = compare(Names(self._controller, node), node, flows)


def compare(names: Names, node: Node, flows: list[Flow]) -> Verified:
    """Return how flows that were read differ from those that are wanted."""
    seen = {flow.key: flow.value for flow in flows if kind_of(flow.value) != Kind.LIMIT}
    desired = node.flows.desired
    wrong = [key for key, value in desired.items() if seen.get(key) != value]
    wrong += [key for key in seen if key not in desired]
    differences = [_difference(names, key, seen.get(key), desired.get(key)) for key in sorted(wrong)[:MOST_DIFFERENCES]]
    why = "changes are under way" if node.flows.due else ""
    return Verified(node.name, len(seen), differences, len(wrong) - len(differences), why)


def _difference(names: Names, key: FlowKey, seen: FlowValue | None, wanted: FlowValue | None) -> Difference:
    value = wanted if seen is None else seen
    assert value is not None  # a difference has at least one side
    words = purpose(names, Rule(key, value))
    if seen is None:
        refused = names.node.flows.refused.get(key)
        problem = "missing" if refused is None else f"missing (refused: {refused[1]})"
    else:
        problem = "extra" if wanted is None else "differs"
    return Difference(problem, text.flow(key, value), words, "" if wanted is None else text.flow(key, wanted))

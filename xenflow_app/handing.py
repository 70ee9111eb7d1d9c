"""Which nodes have a router's definition, so that its VM may come there, and which have it no more (sans-IO).

Place in the flow: moves, Handed facts -> *Define, Undefine* -> servers.

A server reports what was handed over to it as facts, so what a lost order or a restart has left is seen as long as it
is there: from time to time what is wanted is compared with what is, and the difference is ordered again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from xenflow.model import Handed, Machine, MachineKind
from xenflow.wire import Define, Message, Undefine
from xenflow_app.homes import Homes
from xenflow_app.node import Node

COMPARE_S = 1.0
"""How often what servers report is compared with what is wanted."""


class Handing:
    """See the module. `send` takes a node and a message for its server, and tells whether it can be sent."""

    def __init__(self, nodes: Mapping[str, Node], homes: Homes, send: Callable[[Node, Message], bool]) -> None:
        self._nodes = nodes
        self._homes = homes
        self._send = send
        self._last = time.time_ns() // 1_000_000
        self._asked: dict[tuple[str, str], tuple[int | None, int]] = {}
        self._compared = 0.0

    def number(self) -> int:
        """Return a number that no order has had, not even of an earlier controller; it is an epoch as well."""
        known = (epoch for node in self._nodes.values() for epoch in handed(node).values())
        self._last = max(self._last + 1, time.time_ns() // 1_000_000, max(known, default=0) + 1)
        return self._last

    def everywhere(self, machine: Machine, here: Node) -> None:
        """A router may come to any node but this one: all others know what it is."""
        number = self.number()
        for node in self._nodes.values():
            if node is not here:
                self._define(node, machine, number)

    def nowhere_else(self, name: str) -> None:
        """The router has come somewhere, or will not come: where it does not run it is forgotten."""
        number = self.number()
        for node in self._nodes.values():
            if node.machine(name) is None:
                self._send(node, Undefine(number, name, number))

    def tick(self, now: float, moving: Collection[str], expected: Mapping[str, Node]) -> None:
        """Compare now and then. Routers that are `moving` are left alone; `expected` may come to any node but one."""
        if now - self._compared < COMPARE_S:
            return
        self._compared = now
        for node in self._nodes.values():
            if node.peer is not None and node.inbox.in_sync:
                self._compare(node, moving, expected)

    def _compare(self, node: Node, moving: Collection[str], expected: Mapping[str, Node]) -> None:
        there = handed(node)
        for name, epoch in there.items():
            if name not in moving and self._runs_elsewhere(name, node) and self._is_new(node, name, epoch):
                number = self.number()
                self._send(node, Undefine(number, name, number))
        for name, here in expected.items():
            router = here.routers.get(name)
            if router is not None and node is not here and name not in there and self._is_new(node, name, -1):
                self._define(node, router.machine, self.number())

    def _runs_elsewhere(self, name: str, node: Node) -> bool:
        home = self._nodes.get(self._homes.home(name) or node.name)
        return home is not None and home is not node and home.machine(name) is not None and node.machine(name) is None

    def _is_new(self, node: Node, name: str, epoch: int) -> bool:
        """Tell whether this server has not been asked this on this connection; what it refuses is not repeated."""
        asked = (node.peer, epoch)
        if self._asked.get((node.name, name)) == asked:
            return False
        self._asked[node.name, name] = asked
        return True

    def _define(self, node: Node, machine: Machine, number: int) -> None:
        self._send(node, Define(number, machine, machine.max_routes, number))


def no_room(node: Node, name: str, coming: Collection[str]) -> str:
    """Return why the node takes no router `name` more, as its server would; empty if it does.

    `coming` are those on their way there, of which it may not have been told yet.
    """
    others = {item.name for item in node.machines if item.kind is MachineKind.ROUTER} | handed(node).keys()
    others = (others | set(coming)) - {name}
    if not node.max_routers or len(others) < node.max_routers:
        return ""
    counted = f"{len(others)} of {node.max_routers} routers run there or are to come"
    return f"node {node.name} is full: {counted} ([limits] max_routers)"


def handed(node: Node) -> dict[str, int]:
    """Return the epochs of the definitions that a node's server has been handed, by router."""
    facts = node.inbox.facts.of(Handed.KIND).values()
    return {fact.name: fact.epoch for fact in facts if isinstance(fact, Handed)}

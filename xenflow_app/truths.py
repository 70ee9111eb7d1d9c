"""What is true of a migration, and whether one may begin: read from nodes, homes and queues, and nothing is changed.

Place in the flow: Node, Homes, Queues -> *events* -> Moves, which puts them to the table (migration.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from xenflow.wire import Message
from xenflow_app.handing import no_room
from xenflow_app.homes import Homes
from xenflow_app.migration import Event, State
from xenflow_app.node import Node
from xenflow_app.queues import Queues

OVERDUE_S = {
    State.PREPARING: 10.0,
    State.INSTALLING: 30.0,
    State.MOVING: 900.0,
    State.CANCELLING: 30.0,
    State.RESUMING: 60.0,
    State.ANNOUNCING: 10.0,
}
"""How long a state may last; what then happens is in the table. MOVING counts from the last word of the hypervisor: a
big or busy machine takes hours."""
SHAPED_S = 3.0
"""How long the queues that it hired may take to be in place; then it goes on without."""
SHAPED = frozenset({Event.INSTALLED, Event.IN_SYNC})
"""What counts only when they are."""


@dataclass(slots=True)
class Migration:
    """One move.

    `heard_from` is when the hypervisor last told how far it is; `reached` holds (state, seconds since the start);
    `truths` what has come true by a call; `has_left` tells whether the source's server has noticed that the VM is gone;
    `order` is what was last asked of a server, at its connection `peer`.
    """

    number: int
    name: str
    source: str
    target: str
    planned: bool
    started: float
    epoch: int
    state: State = State.PREPARING
    since: float = 0.0
    percent: int = 0
    heard_from: float = 0.0
    error: str = ""
    key: bytes = field(default_factory=lambda: os.urandom(32))
    reached: list[tuple[State, float]] = field(default_factory=list)
    truths: set[Event] = field(default_factory=set)
    heard: set[bytes] = field(default_factory=set)
    asked: float = 0.0
    has_left: bool = False
    following: bool = False
    order: Message | None = None
    peer: int | None = None


class Truths:
    """See the module. Times are in seconds."""

    def __init__(self, nodes: Mapping[str, Node], homes: Homes, queues: Queues) -> None:
        self._nodes = nodes
        self._homes = homes
        self._queues = queues

    def why_not(self, name: str, target: str, under_way: Mapping[str, Migration]) -> str:
        """Return why a router cannot begin to move to a node, or nothing."""
        source = self._homes.home(name)
        node = self._nodes.get(target)
        if source is None:
            return f"no router {name!r} runs anywhere"
        if node is None or not node.known:
            return f"node {target!r} is not known; known are {', '.join(sorted(self._nodes))}"
        if name in under_way:
            moving = under_way[name]
            return f"router {name!r} is on its way from {moving.source} to {moving.target} already ({moving.state})"
        if target == source:
            return f"router {name!r} is on node {target} already"
        if not self._homes.settled:
            return "the links are not known yet: xenflow status says what is awaited"
        if self._nodes[source].machine(name) is None:
            return f"the VM of router {name!r} is on no node now: it has left {source}, and has not arrived anywhere"
        if what := _not_in_sync(node):
            return f"node {target} is not in sync: {what}"
        if self._nodes[source].peer is None:
            return f"node {source}, which has the VM, is not in sync: its server is away"
        router = self._nodes[source].routers[name]
        if not router.planned:
            return f"router {name!r} is not in sync: its client has not reported yet"
        missing = {item.network for item in router.machine.interfaces} - node.networks.keys()
        if missing:
            return f"node {target} has no network {', '.join(sorted(missing))}"
        if reason := no_room(node, name, [item.name for item in under_way.values() if item.target == target]):
            return reason
        if reason := self._queues.why_not(name, target):
            return f"router {name!r} cannot keep on node {target} what it hired: {reason}"
        return ""

    def of(self, move: Migration, now: float) -> list[Event]:
        """Return what is true of a migration now."""
        source, target = self._nodes[move.source], self._nodes[move.target]
        events = [event for event in sorted(move.truths) if event not in SHAPED or self.is_shaped(move, now)]
        if Event.DRAINED in events and not self._homes.are_followed():
            events.remove(Event.DRAINED)  # its frames keep their other source address until broadcasts go the new way
        if target.machine(move.name) is not None:
            events.append(Event.ARRIVED)
        elif source.machine(move.name) is not None and move.state in (State.RESUMING, State.ANNOUNCING):
            events.append(Event.RETURNED)
        if Event.RETURNED in events and not self.is_routable(source, move) and self.is_routable(target, move):
            events.remove(Event.RETURNED)  # only the target can forward: from there it comes back by a move of its own
        if move.heard and move.heard >= self.expected(move, target):
            events.append(Event.ANNOUNCED)
        if move.state is State.REPOINTING and self._homes.have_turned(move.name):
            events.append(Event.REPOINTED)
        if move.state is State.UNDOING:
            events.append(Event.UNDONE)
        waits = move.state is State.RESUMING and self._homes.is_arriving(move.name)  # the target does not route yet
        waits = waits and not self.waits_for_client(move)  # which may never come
        since = max(move.since, move.heard_from) if move.state is State.MOVING else move.since
        if now - since >= OVERDUE_S.get(move.state, float("inf")) and not waits:
            events.append(Event.OVERDUE)
        return events

    def is_shaped(self, move: Migration, now: float) -> bool:
        """Tell whether its queues are in place wherever it will need them, or have been waited for long enough."""
        return now - move.since >= SHAPED_S or all(self._queues.applied(name) for name in self._nodes)

    def is_routable(self, node: Node, move: Migration) -> bool:
        """Tell whether the node has the router's tables, or its switch has them from an earlier controller."""
        router = node.routers.get(move.name)
        return router is not None and (router.planned or self._homes.is_entered(move.name, node))

    def waits_for_client(self, move: Migration) -> bool:
        """Tell whether only the source can forward, until the client has reported at the target.

        So it is after a start in the midst of the move; otherwise the target has got the source's tables before.
        """
        source, target = self._nodes[move.source], self._nodes[move.target]
        return self.is_routable(source, move) and not self.is_routable(target, move)

    def expected(self, move: Migration, target: Node) -> set[bytes]:
        """Return the MACs of the interfaces that are to announce themselves: those that are in use."""
        router = target.routers.get(move.name)
        if router is None:
            return set()
        return {item.mac for item in router.machine.interfaces if router.routes_at(item.number)}


def _not_in_sync(node: Node) -> str:
    """Return what of a node cannot be told what a move needs; empty if nothing."""
    if node.peer is None:
        return "its server is away"
    if node.switch is None:
        return "its switch is away"
    return "" if node.flows.ready else "its switch has not said yet what flows it has"

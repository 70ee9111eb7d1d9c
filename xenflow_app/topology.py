"""Nodes, trunks, and the loop-free ways through them (pure).

Two structures live on the graph of links. For each virtual network a *forest*: broadcast, multicast and unknown
destinations follow it. For each node the *paths toward it*: known destinations take the shortest way. Both change step
by step, a step is confirmed on the nodes before the next one is taken, and no state on the way has a loop:

    forest:  remove everywhere what the target has not; then add     (every state is a subset of a forest)
    paths:   a node turns to its new next hop when all nodes on the new way from there on have turned
             (who has turned never meets one who has not; the others follow the old, loop-free state until they do)

A node that is away (no control connection) goes on forwarding as it last did: the target is planned around that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True, order=True)
class End:
    """One end of a trunk: node and OpenFlow port number."""

    node: str
    port: int


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """A trunk between two nodes; `a` is the smaller end."""

    a: End
    b: End

    def at(self, node: str) -> End:
        """Return the end at `node`."""
        return self.a if self.a.node == node else self.b

    def beyond(self, node: str) -> End:
        """Return the end away from `node`."""
        return self.b if self.a.node == node else self.a


Forest: TypeAlias = frozenset[Edge]
Paths: TypeAlias = Mapping[str, Edge]
"""Toward one node: for each other node the edge it sends on."""


def edge(one: End, other: End) -> Edge:
    """Return the edge between two ends, in canonical order."""
    return Edge(min(one, other), max(one, other))


class Graph:
    """The links that work, by node."""

    def __init__(self, edges: Iterable[Edge] = ()) -> None:
        self.edges = frozenset(edges)
        self._by_node: dict[str, list[Edge]] = {}
        for item in sorted(self.edges):
            self._by_node.setdefault(item.a.node, []).append(item)
            self._by_node.setdefault(item.b.node, []).append(item)

    def of(self, node: str) -> list[Edge]:
        """Return the edges at `node`, sorted."""
        return self._by_node.get(node, [])

    def reach(self, start: str) -> set[str]:
        """Return the nodes that can be reached from `start`, which is one of them."""
        found, waiting = {start}, [start]
        while waiting:
            here = waiting.pop()
            fresh = {link.beyond(here).node for link in self.of(here)} - found
            found |= fresh
            waiting += fresh
        return found


@dataclass(slots=True)
class Topology:
    """What there is to plan with: `links` are all that work, `graph` has those among them that are to be used.

    `settled` tells whether it is known. `away` maps each node without a control connection to the links on which it
    floods, by VLAN id of the network.
    """

    settled: bool = False
    links: frozenset[Edge] = frozenset()
    graph: Graph = field(default_factory=Graph)
    away: dict[str, dict[int, set[Edge]]] = field(default_factory=dict)


def toward(graph: Graph, target: str, fixed: Mapping[str, Edge | None]) -> dict[str, Edge]:
    """Return for each node that reaches `target` the edge it sends on: a shortest way.

    `fixed` holds what a node that is away does now: it joins only by that edge (None: it does not forward).
    """
    paths: dict[str, Edge] = {}
    queue = deque([target])
    while queue:
        here = queue.popleft()
        for link in graph.of(here):
            there = link.beyond(here).node
            if there == target or there in paths or (there in fixed and fixed[there] != link):
                continue
            paths[there] = link
            queue.append(there)
    return paths


def next_paths(active: Paths, target: Paths, destination: str) -> dict[str, Edge]:
    """Return the paths after the next step from `active` to `target`; equal to `target` when nothing is left.

    Source: node-ordered updates, from the destination outwards; the module's docstring says why no step has a loop.
    """
    settled = {destination} | {node for node, link in target.items() if active.get(node) == link}
    while True:
        astray = {n for n in settled if n != destination and target[n].beyond(n).node not in settled}
        if not astray:
            break
        settled -= astray
    after = {node: link for node, link in active.items() if node in target}
    for node, link in target.items():
        if link.beyond(node).node in settled:
            after[node] = link
    return after


def forest(graph: Graph, members: Set[str], frozen: Mapping[str, Set[Edge]]) -> Forest:
    """Return a spanning forest of `graph`, pruned to what connects `members`.

    `frozen` holds, for each node that is away, the edges on which it floods now: only those can be used there, and one
    with both ends away stays.
    """
    root: dict[str, str] = {}

    def find(node: str) -> str:
        while root.setdefault(node, node) != node:
            node = root[node]
        return node

    def usable(link: Edge) -> bool:
        return all(end.node not in frozen or link in frozen[end.node] for end in (link.a, link.b))

    def must(link: Edge) -> bool:
        return link.a.node in frozen and link.b.node in frozen

    depth = _depths(graph)
    chosen: set[Edge] = set()
    for link in sorted(
        (link for link in graph.edges if usable(link)),
        key=lambda link: (not must(link), min(depth[link.a.node], depth[link.b.node]), link),
    ):
        a, b = find(link.a.node), find(link.b.node)
        if a != b:
            root[a] = b
            chosen.add(link)
    return _prune(chosen, members, {link for link in chosen if must(link)})


def _depths(graph: Graph) -> dict[str, int]:
    """Return each node's distance from the first node of its component, for shallow trees."""
    depth: dict[str, int] = {}
    for start in sorted({end.node for link in graph.edges for end in (link.a, link.b)}):
        if start in depth:
            continue
        depth[start] = 0
        queue = deque([start])
        while queue:
            here = queue.popleft()
            for link in graph.of(here):
                there = link.beyond(here).node
                if there not in depth:
                    depth[there] = depth[here] + 1
                    queue.append(there)
    return depth


def _prune(chosen: set[Edge], members: Set[str], keep: Set[Edge]) -> Forest:
    """Remove edges that lead to a leaf which is no member, until there are none."""
    left = set(chosen)
    while True:
        degree: dict[str, int] = {}
        for link in left:
            for end in (link.a, link.b):
                degree[end.node] = degree.get(end.node, 0) + 1
        dead = {
            link
            for link in left - keep
            if any(degree[end.node] == 1 and end.node not in members for end in (link.a, link.b))
        }
        if not dead:
            return frozenset(left)
        left -= dead


def next_forest(active: Forest, target: Forest) -> Forest:
    """Return the forest after the next step from `active` to `target`: first remove, then add."""
    return active & target if active - target else target

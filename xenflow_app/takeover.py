"""What the switches do when a controller starts: ways and trees as they are installed (pure).

Place in the flow: actual flows -> *ways toward a node, links of a tree* -> Ways, Trees, which go on step by step;
entrances -> *who routes for a router's addresses* -> Inherited.

A controller that starts in the midst of a change finds some nodes turned and others not. To turn all at once to what it
would plan itself could lead packets in a circle for a moment; from what is there each step is safe (topology.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from xenflow_app import routing, switching
from xenflow_app.flowtable import FlowTable, Owner, owner_of
from xenflow_app.openflow import actions
from xenflow_app.topology import Edge, Graph, toward

SAMPLES = 8
"""So many addresses at a node are looked at for a complete set of ways to it."""


def ways(
    nodes: Mapping[str, FlowTable], links: Iterable[Edge], target: str, addresses: Iterable[tuple[int, bytes]]
) -> dict[str, Edge] | None:
    """Return for each node the link on which it sends to what is at `target`; None if the flows do not say.

    Ways that do not all lead to the target are not believed: the address was elsewhere when they were made.
    """
    leaves = _leaves(links)
    for vid, mac in sorted(addresses)[:SAMPLES]:
        found = _sends(nodes, leaves, vid, mac)
        found.pop(target, None)
        if found and all(_arrives(found, node, target) for node in found):
            return found
    return None


def _leaves(links: Iterable[Edge]) -> dict[str, dict[bytes, Edge]]:
    """Return for each node the actions by which frames leave on a link, and the link."""
    leaves: dict[str, dict[bytes, Edge]] = {}
    for link in links:
        for end in (link.a, link.b):
            leaves.setdefault(end.node, {})[switching.leave_trunk(end.port)] = link
    return leaves


def _sends(
    nodes: Mapping[str, FlowTable], leaves: Mapping[str, Mapping[bytes, Edge]], vid: int, mac: bytes
) -> dict[str, Edge]:
    """Return the link on which each node sends to an address, for those that do."""
    (key,) = switching.egress(vid, mac, b"")
    found = {}
    for node, table in nodes.items():
        value = table.actual.get(key)
        there = None if value is None else leaves.get(node, {}).get(value[actions.VALUE_HEAD.size :])
        if there is not None:
            found[node] = there
    return found


def _arrives(paths: Mapping[str, Edge], start: str, target: str) -> bool:
    here = start
    for _ in range(len(paths) + 1):
        if here == target or here not in paths:
            break
        here = paths[here].beyond(here).node
    return here == target


def floods(nodes: Mapping[str, FlowTable], vid: int, link: Edge) -> bool:
    """Tell whether a link is in the network's tree at both ends."""
    return all(
        (table := nodes.get(end.node)) is not None and switching.gate_key(vid, end.port) in table.actual
        for end in (link.a, link.b)
    )


@dataclass(frozen=True, slots=True)
class Routed:
    """An address of a router as the switches have it: the nodes that route for it, and where all nodes send to it."""

    vid: int
    mac: bytes
    at: frozenset[str]
    sends: Mapping[str, Edge]

    def end(self, node: str) -> str | None:
        """Return the node that routes what `node` sends to the address; None if nobody does."""
        here, met = node, {node}
        while here in self.sends and (here == node or here not in self.at):
            here = self.sends[here].beyond(here).node
            if here in met:
                return None
            met.add(here)
        return here if here in self.at else None

    def ways(self, target: str, links: Iterable[Edge]) -> dict[str, Edge]:
        """Return how each node goes on sending while the address is at `target`; who has no way gets one there."""
        graph = Graph(links)
        works = replace(self, sends={node: link for node, link in self.sends.items() if link in graph.edges})
        kept = {node: link for node, link in works.sends.items() if node != target and works.end(node) is not None}
        return toward(graph, target, {}) | kept


def routed(nodes: Mapping[str, FlowTable], links: Iterable[Edge]) -> dict[Owner, list[Routed]]:
    """Return by router the addresses that some switch routes for."""
    at: dict[tuple[Owner, int, bytes], set[str]] = {}
    for node, table in nodes.items():
        for key, value in table.actual.items() if table.ready else ():
            address = routing.entrance(key)
            if address is not None:
                at.setdefault((owner_of(value), *address), set()).add(node)
    leaves = _leaves(links)
    tables = {node: table for node, table in nodes.items() if table.ready}
    found: dict[Owner, list[Routed]] = {}
    for (owner, vid, mac), where in at.items():
        found.setdefault(owner, []).append(Routed(vid, mac, frozenset(where), _sends(tables, leaves, vid, mac)))
    return found

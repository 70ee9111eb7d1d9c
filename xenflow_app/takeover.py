"""What the switches do when a controller starts: ways and trees as they are installed (pure).

Place in the flow: actual flows -> *ways toward a node, links of a tree* -> Fabric, which goes on step by step.

A controller that starts in the midst of a change finds some nodes turned and others not. To turn all at once to what it
would plan itself could lead packets in a circle for a moment; from what is there each step is safe (topology.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from xenflow_app import pipeline
from xenflow_app.flowtable import FlowTable
from xenflow_app.openflow import actions
from xenflow_app.topology import Edge

SAMPLES = 8
"""So many addresses at a node are looked at for a complete set of ways to it."""


def ways(
    nodes: Mapping[str, FlowTable], links: Iterable[Edge], target: str, addresses: Iterable[tuple[int, bytes]]
) -> dict[str, Edge] | None:
    """Return for each node the link on which it sends to what is at `target`; None if the flows do not say.

    Ways that do not all lead to the target are not believed: the address was elsewhere when they were made.
    """
    leaves: dict[str, dict[bytes, Edge]] = {}
    for link in links:
        for end in (link.a, link.b):
            leaves.setdefault(end.node, {})[pipeline.leave_trunk(end.port)] = link
    for vid, mac in sorted(addresses)[:SAMPLES]:
        (key,) = pipeline.egress(vid, mac, b"")
        found = {}
        for node, table in nodes.items():
            value = table.actual.get(key)
            there = None if value is None else leaves.get(node, {}).get(value[actions.VALUE_HEAD.size :])
            if there is not None and node != target:
                found[node] = there
        if found and all(_arrives(found, node, target) for node in found):
            return found
    return None


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
        (table := nodes.get(end.node)) is not None and pipeline.gate_key(vid, end.port) in table.actual
        for end in (link.a, link.b)
    )

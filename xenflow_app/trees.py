"""Where each virtual network floods: a loop-free tree over the links (pure).

Place in the flow: ports in networks, links -> *a forest per network* -> gate and flood flows, per network and node.

`step` takes each tree that is not what it should be one step on (topology.py says why no step has a loop); the nodes
that it touches must confirm it before the next one. When that is, Fabric says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from xenflow_app import pipeline, switching, takeover
from xenflow_app.flowtable import FlowTable
from xenflow_app.switching import Member
from xenflow_app.topology import Edge, Forest, Topology, forest, next_forest


@dataclass(slots=True)
class _Network:
    members: dict[str, set[Member]] = field(default_factory=dict)
    tree: Forest = frozenset()
    planned: set[str] = field(default_factory=set)


class Trees:
    """See the module. `stale` are networks whose tree may not be what it should be; `revision` grows with changes."""

    def __init__(self, nodes: Mapping[str, FlowTable], topology: Topology) -> None:
        """`nodes` maps each known node to its flows."""
        self.stale: set[int] = set()
        self.revision = 0
        self._nodes = nodes
        self._topology = topology
        self._networks: dict[int, _Network] = {}
        self._dirty: set[int] = set()
        self._astray: dict[int, set[str]] = {}

    # -- facts --------------------------------------------------------------------------------------------------------

    def attach(self, node: str, vid: int, member: Member) -> None:
        """A port of the node is in the network."""
        network = self._networks.setdefault(vid, _Network())
        network.members.setdefault(node, set()).add(member)
        self._dirty.add(vid)
        self.stale.add(vid)
        self.revision += 1

    def detach(self, node: str, vid: int, member: Member) -> None:
        """The port is not in the network any more."""
        network = self._networks.get(vid)
        if network is not None and node in network.members:
            network.members[node].discard(member)
            if not network.members[node]:
                del network.members[node]
            self._dirty.add(vid)
            self.stale.add(vid)
            self.revision += 1

    def outdate(self) -> None:
        """Links have changed, or who can be told: no tree need be what it should be."""
        self.stale |= self._networks.keys()

    def take_over(self) -> None:
        """Start from what the switches do now."""
        for vid, network in self._networks.items():
            network.tree = frozenset(link for link in self._topology.links if takeover.floods(self._nodes, vid, link))
        for node in self._nodes:
            self._find_astray(node)

    def _find_astray(self, node: str) -> None:
        """Note the networks whose tree on the node has links that are not known: frames may still pass them."""
        gates = {key for key in self._nodes[node].actual if key[0] == pipeline.Table.GATE}
        for vid, network in self._networks.items():
            ports = [pipeline.NO_PORT, *(member.port for member in network.members.get(node, ()))]
            ports += [end.port for link in network.tree for end in (link.a, link.b) if end.node == node]
            gates -= {switching.gate_key(vid, port) for port in ports}
        for key in gates:
            self._astray.setdefault(switching.gate_network(key), set()).add(node)

    def tree(self, vid: int) -> Forest:
        """Return the links on which the network floods now."""
        network = self._networks.get(vid)
        return frozenset() if network is None else network.tree

    def members(self, vid: int) -> Mapping[str, set[Member]]:
        """Return the ports that are in the network, by node."""
        network = self._networks.get(vid)
        return {} if network is None else network.members

    def has_access(self, vid: int, node: str) -> bool:
        """Tell whether an access port of the node is in the network."""
        return any(member.wire is not None for member in self.members(vid).get(node, ()))

    def links_at(self, node: str) -> dict[int, set[Edge]]:
        """Return the links on which the node floods now, by VLAN id of the network."""
        return {
            vid: {link for link in network.tree if node in (link.a.node, link.b.node)}
            for vid, network in self._networks.items()
        }

    def use_of(self, link: Edge) -> int:
        """Return how many networks flood on the link."""
        return sum(link in network.tree for network in self._networks.values())

    # -- plan ---------------------------------------------------------------------------------------------------------

    def step(self) -> set[str]:
        """Take each stale tree one step on; return the nodes on which something changes."""
        touched: set[str] = set()
        for vid in sorted(self.stale):
            network = self._networks[vid]
            frozen = {node: trees.get(vid, set()) for node, trees in self._topology.away.items()}
            target = forest(self._topology.graph, network.members.keys(), frozen)
            astray = self._astray.pop(vid, set())
            after = network.tree & target if astray else next_forest(network.tree, target)
            if astray:
                touched |= astray
                self._dirty.add(vid)
            for link in after ^ network.tree:
                touched |= {link.a.node, link.b.node}
                self._dirty.add(vid)
            if after == target:
                self.stale.discard(vid)
            self.revision += after != network.tree
            network.tree = after
        return touched

    def plan(self) -> None:
        """Plan the flows of the networks that have changed."""
        for vid in self._dirty:
            self._plan_network(vid, self._networks[vid])
        self._dirty.clear()

    def _plan_network(self, vid: int, network: _Network) -> None:
        trunks: dict[str, list[int]] = {}
        for link in network.tree:
            for end in (link.a, link.b):
                trunks.setdefault(end.node, []).append(end.port)
        nodes = network.members.keys() | trunks.keys()
        for node in nodes | network.planned:
            flows = self._nodes.get(node)
            if flows is None:
                continue
            members, ways = network.members.get(node, set()), trunks.get(node, [])
            planned: pipeline.Flows = {}
            if node in nodes:
                vifs = [member.port for member in members if member.wire is None]
                accesses = [(member.port, member.wire) for member in members if member.wire is not None]
                planned = switching.flood(vid, ways, accesses, vifs)
                for port in (pipeline.NO_PORT, *ways, *(member.port for member in members)):
                    planned.update(switching.gate(vid, port))
            flows.want_group((0, "tree", vid), planned)
        network.planned = set(nodes)

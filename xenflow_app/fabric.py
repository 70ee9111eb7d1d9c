"""The virtual networks over the trunks: which port is in which network, where each MAC is, and how frames get there.

Place in the flow: ports, machines, learned MACs, links -> *trees and ways* -> flows of every node.

    attach/detach       ports of a node in a network           -> Trees: gate and flood flows, per network and node
    ways.locate/forget  (network, MAC) -> node and port there  -> Ways: egress flows, per network, MAC and node
    set_graph           links                                  -> both
    set_drained         ends of trunks that nothing shall use  -> both, without these

A change of links goes step by step (topology.py says why no step has a loop): `advance` takes the next step when the
last one is confirmed on every connected node that it touched, and returns the nodes whose confirmation it now awaits.
Addresses that move have steps of their own: they wait for ways to nodes and ways wait for them, but trees do not matter
to them. So a node that is slow to confirm that it floods elsewhere does not keep a router's packets from turning.
A step is also one in which nothing turns, but lessons (ways.py) are given: it is confirmed when they have been sent.
Nothing is planned before `settled`: what nodes and links there are must be known first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from enum import Enum, auto

from xenflow_app.flowtable import FlowTable
from xenflow_app.switching import Member
from xenflow_app.topology import Edge, End, Graph, Topology
from xenflow_app.trees import Trees
from xenflow_app.ways import Ways


class Order(Enum):
    """What turns first when links change. A broadcast teaches bridges its sender's place, which must suit the ways.

    Links that are left although they work: trees first, so that none leads the other way what ways are about to take.
    Links that come: ways first, for the same reason. Links that have failed: both at once, since what is lost counts.
    """

    TREES_FIRST = auto()
    WAYS_FIRST = auto()
    TOGETHER = auto()


class Chain(Enum):
    """What is changed step by step, independently of each other as far as the module says."""

    LINKS = auto()
    TURNS = auto()


@dataclass(slots=True)
class Awaited:
    """A step that was taken, and the nodes that have not confirmed it."""

    step: int
    nodes: set[str]


class Fabric:
    """See the module. What `trees` and `ways` have become can be asked of them; their steps are taken here only."""

    def __init__(self, nodes: Mapping[str, FlowTable]) -> None:
        """`nodes` maps each known node to its flows."""
        self._topology = Topology()
        self.trees = Trees(nodes, self._topology)
        self.ways = Ways(nodes, self._topology, self.trees.has_access)
        self.step = 0
        self._awaiting: dict[Chain, Awaited] = {}
        self._drained: frozenset[End] = frozenset()
        self._order = Order.TOGETHER
        self._ways_change = False
        """Whether the last step of links, confirmed or not, is about ways."""

    @property
    def settled(self) -> bool:
        """Whether it is known what nodes and links there are."""
        return self._topology.settled

    @property
    def links(self) -> frozenset[Edge]:
        """All links that work."""
        return self._topology.links

    @property
    def graph(self) -> Graph:
        """The links that are to be used."""
        return self._topology.graph

    @property
    def revision(self) -> int:
        """Grows whenever members, trees or ways change."""
        return self.trees.revision + self.ways.revision

    # -- facts --------------------------------------------------------------------------------------------------------

    def attach(self, node: str, vid: int, member: Member) -> None:
        """A port of the node is in the network."""
        self.trees.attach(node, vid, member)
        if member.wire is not None:
            self.ways.replan(vid)

    def detach(self, node: str, vid: int, member: Member) -> None:
        """The port is not in the network any more."""
        self.trees.detach(node, vid, member)

    def set_graph(self, edges: Iterable[Edge]) -> None:
        """These are the links that work now."""
        self._topology.links = frozenset(edges)
        self._choose_links()

    def set_drained(self, ends: Iterable[End]) -> None:
        """Nothing shall use the trunks that have one of these ends."""
        self._drained = frozenset(ends)
        self._choose_links()

    def _choose_links(self) -> None:
        """Leave out what is drained, but for what a node out of reach still sends on: it cannot turn."""
        drained = {link for link in self.links if link.a in self._drained or link.b in self._drained}
        graph = Graph(self.links - {link for link in drained if not self._is_stuck(link)})
        if graph.edges != self.graph.edges:
            gone = self.graph.edges - graph.edges
            left = Order.TREES_FIRST if gone <= self.links and graph.edges <= self.graph.edges else Order.TOGETHER
            self._order = left if gone else Order.WAYS_FIRST
            self._topology.graph = graph
            self._stale()

    def _is_stuck(self, link: Edge) -> bool:
        """Tell whether a node out of reach sends or floods on the link."""
        away = self._topology.away
        return any(
            any(link in tree for tree in away[node].values()) or self.ways.sends(node, link)
            for node in {link.a.node, link.b.node} & away.keys()
        )

    def _stale(self) -> None:
        self.ways.stale = True
        self.trees.outdate()

    def node_away(self, node: str) -> None:
        """The node's switch is out of reach: it goes on with what it has."""
        self._topology.away[node] = self.trees.links_at(node)
        self._note_confirmed(node)
        self._choose_links()
        self._stale()

    def node_back(self, node: str) -> None:
        """The node's switch is in reach again."""
        self._topology.away.pop(node, None)
        self._choose_links()
        self._stale()

    def has_turned(self, vid: int, mac: bytes) -> bool:
        """Tell whether all nodes send to where the MAC is, confirmed."""
        return not self.ways.is_moving(vid, mac) and Chain.TURNS not in self._awaiting

    def use_of(self, link: Edge) -> tuple[int, int]:
        """Return how many addresses some node sends to on the link, and how many networks flood on it."""
        return self.ways.use_of(link), self.trees.use_of(link)

    # -- steps --------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """What nodes and links there are is known: start from what the switches do now, and plan."""
        self._topology.settled = True
        self.trees.take_over()
        self._order = Order.TREES_FIRST if self._drained else Order.TOGETHER
        self._stale()

    def advance(self) -> set[str]:
        """Plan what is dirty, take one step if one may be taken; return the nodes whose confirmation it awaits.

        They confirm the step that is the number `step` after the call. Call it until it returns nothing.
        """
        if not self.settled:
            return set()
        self.ways.lessons = []
        chain, touched = Chain.LINKS, self._step_links()
        if not touched and not self.ways.lessons and self._may_turn():
            chain, touched = Chain.TURNS, self.ways.step_moves() - self._topology.away.keys()
        self.trees.plan()
        self.ways.plan()
        awaited = touched | {lesson.end.node for lesson in self.ways.lessons}
        if awaited:
            self.step += 1
            self._awaiting[chain] = Awaited(self.step, awaited)
        return touched

    def _step_links(self) -> set[str]:
        """Take trees and ways one step on; return the connected nodes on which something changes."""
        if Chain.LINKS in self._awaiting:
            return set()
        turning = Chain.TURNS in self._awaiting
        begun = set() if turning else self.ways.begin()
        trees = set() if self._order is Order.WAYS_FIRST and self.ways.stale else self.trees.step()
        wait = turning or (self._order is Order.TREES_FIRST and bool(trees or self.trees.stale))
        ways = begun | (set() if wait else self.ways.step())
        self._ways_change = bool(ways or self.ways.lessons)
        return (trees | ways) - self._topology.away.keys()

    def _may_turn(self) -> bool:
        """Tell whether moving addresses may take a step: to a node whose own ways are confirmed."""
        if Chain.LINKS in self._awaiting and self.ways.stale:
            return False
        return not self._ways_change and Chain.TURNS not in self._awaiting

    @property
    def awaiting(self) -> Set[str]:
        """The nodes whose confirmation some next step awaits."""
        return {node for awaited in self._awaiting.values() for node in awaited.nodes}

    @property
    def moving(self) -> bool:
        """Whether a change of links is still under way."""
        return bool(self.ways.turning or self._awaiting or self.trees.stale or self.ways.stale)

    def confirmed(self, node: str, step: int) -> None:
        """The node's packets follow what was planned for it in that step."""
        self._note_confirmed(node, step)

    def _note_confirmed(self, node: str, step: int | None = None) -> None:
        """The node need not confirm that step any more; None: not any."""
        for chain, awaited in list(self._awaiting.items()):
            if step in (None, awaited.step):
                awaited.nodes.discard(node)
                if not awaited.nodes:
                    del self._awaiting[chain]

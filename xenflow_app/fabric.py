"""The virtual networks over the trunks: which port is in which network, where each MAC is, and how frames get there.

Place in the flow: ports, machines, learned MACs, links -> *trees and ways* -> flows of every node.

    attach/detach   ports of a node in a network           -> gate and flood flows, per network and node
    locate/forget   (network, MAC) -> node and how it leaves -> egress flows, per network and MAC, on every node
    set_graph       links                                  -> a forest per network, paths toward each node
    set_drained     ends of trunks that nothing shall use  -> the same, without these

A change of links goes step by step (topology.py says why no step has a loop): `advance` takes the next step when the
last one is confirmed on every connected node that it touched, and returns the nodes whose confirmation it now awaits.
Addresses that move have steps of their own: they wait for ways to nodes and ways wait for them, but trees do not matter
to them. So a node that is slow to confirm that it floods elsewhere does not keep a router's packets from turning.
Before nodes turn to another link, or to where an address has moved, the bridges on the way are taught (disguise.py):
`lessons` are what is to be sent before the step counts as confirmed.
Nothing is planned before `settled`: what nodes and links there are must be known first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from enum import Enum, auto

from xenflow_app import edges, pipeline, switching, takeover
from xenflow_app.disguise import Lesson
from xenflow_app.flowtable import FlowTable
from xenflow_app.topology import Edge, End, Forest, Graph, forest, next_forest, next_paths, toward


class Order(Enum):
    """What turns first when links change. A broadcast teaches bridges its sender's place, which must suit the ways.

    Links that are left although they work: trees first, so that none leads the other way what ways are about to take.
    Links that come: ways first, for the same reason. Links that have failed: both at once, since what is lost counts.
    """

    TREES_FIRST = auto()
    WAYS_FIRST = auto()
    TOGETHER = auto()


@dataclass(frozen=True, slots=True)
class Member:
    """A port of a node in a network; `wire` is the VLAN id on an access port's wire, None at a vif."""

    port: int
    wire: int | None

    def leave(self) -> bytes:
        """Return the actions that send a frame out of the port."""
        return switching.leave_vif(self.port) if self.wire is None else switching.leave_access(self.port, self.wire)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a MAC is: the node, and the port it is behind."""

    node: str
    member: Member


@dataclass(slots=True)
class _Network:
    members: dict[str, set[Member]] = field(default_factory=dict)
    tree: Forest = frozenset()
    planned: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Move:
    """An address on its way to another node: what each node does with its frames until it has turned.

    The new node turns first; the others only when `released`, from the new node outwards, each batch of them once the
    bridges on its new ways have been taught, from the ends in `taught`.
    """

    before: Location
    ways: dict[str, Edge]
    released: bool
    first: bool = True
    taught: dict[Edge, End] = field(default_factory=dict)


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
    """See the module. `nodes` maps each known node to its flows; `away` holds those without a control connection.

    `links` are all that work, `graph` has those among them that are to be used.
    """

    def __init__(self, nodes: Mapping[str, FlowTable]) -> None:
        self.settled = False
        self.links: frozenset[Edge] = frozenset()
        self.graph = Graph()
        self.step = 0
        self.revision = 0
        """Grows whenever members, trees or ways change."""
        self.lessons: list[Lesson] = []
        self._awaiting: dict[Chain, Awaited] = {}
        self._nodes = nodes
        self._networks: dict[int, _Network] = {}
        self._where: dict[tuple[int, bytes], Location] = {}
        self._at: dict[str, set[tuple[int, bytes]]] = {}
        self._paths: dict[str, dict[str, Edge]] = {}
        self._dirty_macs: set[tuple[int, bytes]] = set()
        self._dirty_networks: set[int] = set()
        self._stale_trees: set[int] = set()
        self._astray: dict[int, set[str]] = {}
        self._moves: dict[tuple[int, bytes], _Move] = {}
        self._stale_paths = True
        self._away: dict[str, dict[int, set[Edge]]] = {}
        self._drained: frozenset[End] = frozenset()
        self._order = Order.TOGETHER
        self._ways_change = False
        """Whether the last step of links, confirmed or not, is about ways."""
        self._taught: dict[str, dict[Edge, End]] = {}

    # -- facts --------------------------------------------------------------------------------------------------------

    def attach(self, node: str, vid: int, member: Member) -> None:
        """A port of the node is in the network."""
        network = self._networks.setdefault(vid, _Network())
        network.members.setdefault(node, set()).add(member)
        self._dirty_networks.add(vid)
        self._stale_trees.add(vid)
        self.revision += 1
        if member.wire is not None:
            self._dirty_macs |= {where for where in self._where if where[0] == vid}

    def detach(self, node: str, vid: int, member: Member) -> None:
        """The port is not in the network any more."""
        network = self._networks.get(vid)
        if network is not None and node in network.members:
            network.members[node].discard(member)
            if not network.members[node]:
                del network.members[node]
            self._dirty_networks.add(vid)
            self._stale_trees.add(vid)
            self.revision += 1

    def locate(self, vid: int, mac: bytes, location: Location, *, hold: bool = False) -> None:
        """The MAC is there, and nowhere else. With `hold`, only the new node knows until `release`."""
        where = (vid, mac)
        before = self._where.get(where)
        if before is not None and before.node == location.node and where in self._moves:
            self._end_found(where)
        if before == location:
            return
        if before is not None:
            self._at[before.node].discard(where)
            if before.node != location.node and self.settled:
                self._set_out(where, before, location.node, released=not hold)
        self._where[where] = location
        self._stale_paths |= location.node not in self._paths
        self._at.setdefault(location.node, set()).add(where)
        self._dirty_macs.add(where)

    def found(self, vid: int, mac: bytes, location: Location, ways: Mapping[str, Edge]) -> None:
        """The switches forward for the MAC there, and send to it by these ways: so it stays until it is located."""
        where = (vid, mac)
        before = self._where.get(where)
        if before is not None:
            self._at[before.node].discard(where)
        self._where[where] = location
        self._at.setdefault(location.node, set()).add(where)
        self._moves[where] = _Move(location, dict(ways), released=False, first=False)
        self._stale_paths |= location.node not in self._paths
        self._dirty_macs.add(where)

    def _end_found(self, where: tuple[int, bytes]) -> None:
        """The MAC is where it was found, and nowhere else: all nodes send there."""
        if self._moves[where].before.node == self._where[where].node:
            del self._moves[where]
            self._dirty_macs.add(where)

    def _set_out(self, where: tuple[int, bytes], before: Location, target: str, *, released: bool) -> None:
        """The address moves: until their turn comes, all nodes but the new one go on as they do now."""
        under_way = self._moves.get(where)
        if under_way is not None and not under_way.released and under_way.before.node == target:
            del self._moves[where]  # it goes back to where all others still send
            return
        ways = dict(self._paths.get(before.node, {})) if under_way is None else under_way.ways
        ways.pop(target, None)
        self._moves[where] = _Move(before, ways, released)

    def release(self, vid: int, mac: bytes) -> None:
        """Let the other nodes turn to where the MAC is."""
        move = self._moves.get((vid, mac))
        if move is not None:
            move.released = True

    def has_turned(self, vid: int, mac: bytes) -> bool:
        """Tell whether all nodes send to where the MAC is, confirmed."""
        return (vid, mac) not in self._moves and Chain.TURNS not in self._awaiting

    def forget(self, vid: int, mac: bytes, location: Location | None = None) -> None:
        """The MAC is not there any more; with a location: only if that is where it is."""
        where = (vid, mac)
        before = self._where.get(where)
        if before is not None and location in (None, before):
            del self._where[where]
            self._at[before.node].discard(where)
            self._moves.pop(where, None)
            self._dirty_macs.add(where)

    def location(self, vid: int, mac: bytes) -> Location | None:
        """Return where a MAC is."""
        return self._where.get((vid, mac))

    def locations(self) -> Mapping[tuple[int, bytes], Location]:
        """Return where every MAC is, by VLAN id and MAC."""
        return self._where

    def set_graph(self, edges: Iterable[Edge]) -> None:
        """These are the links that work now."""
        self.links = frozenset(edges)
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
            self.graph = graph
            self._stale()

    def _is_stuck(self, link: Edge) -> bool:
        return any(
            any(link in tree for tree in self._away.get(node, {}).values())
            or (node in self._away and any(paths.get(node) == link for paths in self._paths.values()))
            for node in (link.a.node, link.b.node)
        )

    def _stale(self) -> None:
        self._stale_paths = True
        self._stale_trees |= self._networks.keys()

    def node_away(self, node: str) -> None:
        """The node's switch is out of reach: it goes on with what it has."""
        self._away[node] = {
            vid: {link for link in network.tree if node in (link.a.node, link.b.node)}
            for vid, network in self._networks.items()
        }
        self._note_confirmed(node)
        self._choose_links()
        self._stale()

    def node_back(self, node: str) -> None:
        """The node's switch is in reach again."""
        self._away.pop(node, None)
        self._choose_links()
        self._stale()

    def tree(self, vid: int) -> Forest:
        """Return the links on which the network floods now."""
        network = self._networks.get(vid)
        return frozenset() if network is None else network.tree

    def members(self, vid: int) -> Mapping[str, set[Member]]:
        """Return the ports that are in the network, by node."""
        network = self._networks.get(vid)
        return {} if network is None else network.members

    def way(self, node: str, target: str) -> Edge | None:
        """Return the link on which `node` sends to what is at `target`."""
        return self._paths.get(target, {}).get(node)

    def use_of(self, link: Edge) -> tuple[int, int]:
        """Return how many addresses some node sends to on the link, and how many networks flood on it."""
        addresses = sum(len(self._at.get(target, ())) for target, ways in self._paths.items() if link in ways.values())
        addresses += sum(link in move.ways.values() for move in self._moves.values())
        return addresses, sum(link in network.tree for network in self._networks.values())

    # -- plan ---------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """What nodes and links there are is known: start from what the switches do now, and plan."""
        self.settled = True
        for vid, network in self._networks.items():
            network.tree = frozenset(link for link in self.links if takeover.floods(self._nodes, vid, link))
        for node in self._nodes:
            self._find_astray(node)
        self._order = Order.TREES_FIRST if self._drained else Order.TOGETHER
        self._stale()

    def _find_astray(self, node: str) -> None:
        """Note the networks whose tree on the node has links that are not known: frames may still pass them."""
        gates = {key for key in self._nodes[node].actual if key[0] == pipeline.Table.GATE}
        for vid, network in self._networks.items():
            ports = [pipeline.NO_PORT, *(member.port for member in network.members.get(node, ()))]
            ports += [end.port for link in network.tree for end in (link.a, link.b) if end.node == node]
            gates -= {switching.gate_key(vid, port) for port in ports}
        for key in gates:
            self._astray.setdefault(switching.gate_network(key), set()).add(node)

    def advance(self) -> set[str]:
        """Plan what is dirty, take one step if one may be taken; return the nodes whose confirmation it awaits.

        They confirm the step that is the number `step` after the call. Call it until it returns nothing.
        """
        if not self.settled:
            return set()
        self.lessons = []
        chain, touched = Chain.LINKS, self._step_links()
        if not touched and not self.lessons and self._may_turn():
            chain, touched = Chain.TURNS, self._step_moves() - self._away.keys()
        for vid in self._dirty_networks:
            self._plan_network(vid, self._networks[vid])
        self._dirty_networks.clear()
        for where in self._dirty_macs:
            self._plan_mac(*where)
        self._dirty_macs.clear()
        awaited = touched | {lesson.end.node for lesson in self.lessons}
        if awaited:
            self.step += 1
            self._awaiting[chain] = Awaited(self.step, awaited)
        return touched

    def _step_links(self) -> set[str]:
        """Take trees and ways one step on; return the connected nodes on which something changes."""
        if Chain.LINKS in self._awaiting:
            return set()
        turning = Chain.TURNS in self._awaiting
        begun = set() if turning else self._begin_paths()
        trees = set() if self._order is Order.WAYS_FIRST and self._stale_paths else self._step_trees()
        wait = turning or (self._order is Order.TREES_FIRST and bool(trees or self._stale_trees))
        ways = begun | (set() if wait else self._step_paths())
        self._ways_change = bool(ways or self.lessons)
        return (trees | ways) - self._away.keys()

    def _may_turn(self) -> bool:
        """Tell whether moving addresses may take a step: to a node whose own ways are confirmed."""
        if Chain.LINKS in self._awaiting and self._stale_paths:
            return False
        return not self._ways_change and Chain.TURNS not in self._awaiting

    @property
    def awaiting(self) -> Set[str]:
        """The nodes whose confirmation some next step awaits."""
        return {node for awaited in self._awaiting.values() for node in awaited.nodes}

    @property
    def moving(self) -> bool:
        """Whether a change of links is still under way."""
        waits = any(move.released for move in self._moves.values())
        return bool(waits or self._awaiting or self._stale_trees or self._stale_paths)

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

    def _step_trees(self) -> set[str]:
        """Take each stale tree one step on; return the nodes on which something changes."""
        touched: set[str] = set()
        for vid in sorted(self._stale_trees):
            network = self._networks[vid]
            frozen = {node: trees.get(vid, set()) for node, trees in self._away.items()}
            target = forest(self.graph, network.members.keys(), frozen)
            astray = self._astray.pop(vid, set())
            after = network.tree & target if astray else next_forest(network.tree, target)
            if astray:
                touched |= astray
                self._dirty_networks.add(vid)
            for link in after ^ network.tree:
                touched |= {link.a.node, link.b.node}
                self._dirty_networks.add(vid)
            if after == target:
                self._stale_trees.discard(vid)
            self.revision += after != network.tree
            network.tree = after
        return touched

    def _begin_paths(self) -> set[str]:
        """Plan ways for the first time, from those that the switches have; return who must confirm them."""
        touched: set[str] = set()
        for target in self._nodes.keys() - self._paths.keys():
            found = takeover.ways(self._nodes, self.links, target, self._at.get(target, ()))
            if found is None:
                found = toward(self.graph, target, dict.fromkeys(self._away.keys() - {target}))
            self._paths[target] = found
            if self._at.get(target):
                touched |= found.keys()
                self._dirty_macs |= self._at[target]
            self._stale_paths = True
            self.revision += 1
        return touched

    def _step_paths(self) -> set[str]:
        """Take the ways toward each node one step on; return the nodes on which something changes."""
        touched: set[str] = set()
        if not self._stale_paths:
            return touched
        self._stale_paths = False
        for target in self._nodes:
            active = self._paths[target]
            fixed = {node: active.get(node) for node in self._away if node != target}
            wanted = toward(self.graph, target, fixed)
            after = next_paths(active, wanted, target)
            changed = {node for node in after.keys() | active.keys() if after.get(node) != active.get(node)}
            if self._teach_ways(target, active, {n: after[n] for n in changed & after.keys()}):
                self._stale_paths = True
                continue
            if after == wanted:
                self._taught.pop(target, None)
            if changed and self._at.get(target):
                touched |= changed
                self._dirty_macs |= self._at[target]
            self._stale_paths |= after != wanted
            self.revision += bool(changed)
            self._paths[target] = after
            for where, move in self._moves.items() if changed else ():
                if move.before.node == target and not move.released:  # whoever has not turned goes by links that work
                    move.ways = {node: way for node, way in after.items() if node != self._where[where].node}
                    touched |= changed
                    self._dirty_macs.add(where)
        return touched

    def _teach_ways(self, target: str, active: Mapping[str, Edge], turning: Mapping[str, Edge]) -> bool:
        """Let bridges learn where all is that is at `target`; True if nodes must wait until they have.

        A node whose link has failed does not wait: it loses more by that.
        """
        ends = {link: link.beyond(node) for node, link in turning.items()}
        lessons: list[Lesson] = []
        for where in self._at.get(target, ()):
            lessons += self._lessons(where, self._taught.get(target, {}), ends)
        self._taught.setdefault(target, {}).update(ends)
        self.lessons += lessons
        return bool(lessons) and all(active.get(node) in self.links for node in turning)

    def _step_moves(self) -> set[str]:
        """Take each moving address one step on; return the nodes on which something changes."""
        touched: set[str] = set()
        for where, move in list(self._moves.items()):
            target = self._where[where].node
            wanted = self._paths.get(target)
            if wanted is None:
                continue
            if move.first:
                move.first = False
                changed = {target}
            elif move.released:
                after = next_paths(move.ways, wanted, target)
                waiting = self._cut_off(move.before.node, target)
                after |= waiting
                nodes = after.keys() | move.ways.keys()
                changed = {node for node in nodes if after.get(node) != move.ways.get(node)}
                if self._teach(where, move, {after[node]: after[node].beyond(node) for node in changed & after.keys()}):
                    continue
                move.ways = after
                if after == wanted and not waiting and (move.before.node in wanted or move.before.node in self._away):
                    del self._moves[where]
            else:
                continue
            touched |= changed - {move.before.node}  # all old ways end there: no turn depends on its own
            self._dirty_macs.add(where)
        return touched

    def _cut_off(self, before: str, target: str) -> dict[str, Edge]:
        """Return the ways of the nodes that cannot reach the new node now, but the one before: they turn later.

        The links of a node that was cut off are found again one after the other, when its controller has it already.
        """
        wanted = self._paths.get(target, {})
        return {node: way for node, way in self._paths.get(before, {}).items() if node not in wanted and node != target}

    def _teach(self, where: tuple[int, bytes], move: _Move, ends: Mapping[Edge, End]) -> bool:
        """Let these ends of links tell what is beyond them where the address will be; False if they have told it."""
        lessons = self._lessons(where, move.taught, ends)
        move.taught |= ends
        self.lessons += lessons
        return bool(lessons)

    def _lessons(self, where: tuple[int, bytes], taught: Mapping[Edge, End], ends: Mapping[Edge, End]) -> list[Lesson]:
        unheard = sorted(end for link, end in ends.items() if taught.get(link) != end)
        return [Lesson(end, *where) for end in unheard if end.node not in self._away]

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

    def _plan_mac(self, vid: int, mac: bytes) -> None:
        location = self._where.get((vid, mac))
        paths = {} if location is None else self._paths.get(location.node, {})
        move = self._moves.get((vid, mac))
        if move is not None:
            paths = move.ways
        for node, flows in self._nodes.items():
            planned: pipeline.Flows = {}
            if location is not None and location.node == node:
                planned = switching.egress(vid, mac, location.member.leave())
            elif node in paths:
                planned = switching.egress(vid, mac, switching.leave_trunk(paths[node].at(node).port))
            elif move is not None and move.before.node == node:
                planned = switching.egress(vid, mac, move.before.member.leave())
            if location is not None and location.member.wire is None and self._has_access(vid, node):
                planned |= edges.refuse_source(vid, mac)
            flows.want_group((0, "mac", vid, mac), planned)

    def _has_access(self, vid: int, node: str) -> bool:
        network = self._networks.get(vid)
        return network is not None and any(member.wire is not None for member in network.members.get(node, ()))

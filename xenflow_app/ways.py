"""Where each MAC is, and the link on which each node sends to it (pure).

Place in the flow: machines, learned MACs, links -> *paths toward each node* -> egress flows, per network and MAC.

What is at a node is sent to by the paths toward that node; `step` takes these one step on where they are not what they
should be. An address that moves to another node has a way of its own until all nodes have turned: `step_moves`. No step
has a loop (topology.py); the nodes that it touches must confirm it before the next one. When that is, Fabric says.
Before nodes turn to another link, or to where an address has moved, the bridges on the way are taught (disguise.py):
`lessons` are what is to be sent before the step counts as confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from xenflow_app import edges, pipeline, switching, takeover
from xenflow_app.disguise import Lesson
from xenflow_app.flowtable import FlowTable
from xenflow_app.switching import Location
from xenflow_app.topology import Edge, End, Topology, next_paths, toward


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


class Ways:
    """See the module. `stale` tells whether paths may not be what they should be; `revision` grows with changes."""

    def __init__(
        self, nodes: Mapping[str, FlowTable], topology: Topology, has_access: Callable[[int, str], bool]
    ) -> None:
        """`nodes` maps each known node to its flows; `has_access` tells whether a network has an access port on one."""
        self.stale = True
        self.revision = 0
        self.lessons: list[Lesson] = []
        self._nodes = nodes
        self._topology = topology
        self._has_access = has_access
        self._where: dict[tuple[int, bytes], Location] = {}
        self._at: dict[str, set[tuple[int, bytes]]] = {}
        self._paths: dict[str, dict[str, Edge]] = {}
        self._dirty: set[tuple[int, bytes]] = set()
        self._moves: dict[tuple[int, bytes], _Move] = {}
        self._taught: dict[str, dict[Edge, End]] = {}

    # -- facts --------------------------------------------------------------------------------------------------------

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
            if before.node != location.node and self._topology.settled:
                self._set_out(where, before, location.node, released=not hold)
        self._where[where] = location
        self.stale |= location.node not in self._paths
        self._at.setdefault(location.node, set()).add(where)
        self._dirty.add(where)

    def found(self, vid: int, mac: bytes, location: Location, ways: Mapping[str, Edge]) -> None:
        """The switches forward for the MAC there, and send to it by these ways: so it stays until it is located."""
        where = (vid, mac)
        before = self._where.get(where)
        if before is not None:
            self._at[before.node].discard(where)
        self._where[where] = location
        self._at.setdefault(location.node, set()).add(where)
        self._moves[where] = _Move(location, dict(ways), released=False, first=False)
        self.stale |= location.node not in self._paths
        self._dirty.add(where)

    def _end_found(self, where: tuple[int, bytes]) -> None:
        """The MAC is where it was found, and nowhere else: all nodes send there."""
        if self._moves[where].before.node == self._where[where].node:
            del self._moves[where]
            self._dirty.add(where)

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

    def is_moving(self, vid: int, mac: bytes) -> bool:
        """Tell whether some node has still to turn to where the MAC is."""
        return (vid, mac) in self._moves

    @property
    def turning(self) -> bool:
        """Whether nodes have still to turn to some MAC, and may."""
        return any(move.released for move in self._moves.values())

    def forget(self, vid: int, mac: bytes, location: Location | None = None) -> None:
        """The MAC is not there any more; with a location: only if that is where it is."""
        where = (vid, mac)
        before = self._where.get(where)
        if before is not None and location in (None, before):
            del self._where[where]
            self._at[before.node].discard(where)
            self._moves.pop(where, None)
            self._dirty.add(where)

    def location(self, vid: int, mac: bytes) -> Location | None:
        """Return where a MAC is."""
        return self._where.get((vid, mac))

    def locations(self) -> Mapping[tuple[int, bytes], Location]:
        """Return where every MAC is, by VLAN id and MAC."""
        return self._where

    def way(self, node: str, target: str) -> Edge | None:
        """Return the link on which `node` sends to what is at `target`."""
        return self._paths.get(target, {}).get(node)

    def sends(self, node: str, link: Edge) -> bool:
        """Tell whether the link is the node's on a path."""
        return any(paths.get(node) == link for paths in self._paths.values())

    def use_of(self, link: Edge) -> int:
        """Return how many addresses some node sends to on the link."""
        addresses = sum(len(self._at.get(target, ())) for target, ways in self._paths.items() if link in ways.values())
        return addresses + sum(link in move.ways.values() for move in self._moves.values())

    def replan(self, vid: int) -> None:
        """Access ports of the network have changed: what its MACs may claim there is planned anew."""
        self._dirty |= {where for where in self._where if where[0] == vid}

    # -- paths --------------------------------------------------------------------------------------------------------

    def begin(self) -> set[str]:
        """Plan ways for the first time, from those that the switches have; return who must confirm them."""
        touched: set[str] = set()
        for target in self._nodes.keys() - self._paths.keys():
            found = takeover.ways(self._nodes, self._topology.links, target, self._at.get(target, ()))
            if found is None:
                found = toward(self._topology.graph, target, dict.fromkeys(self._topology.away.keys() - {target}))
            self._paths[target] = found
            if self._at.get(target):
                touched |= found.keys()
                self._dirty |= self._at[target]
            self.stale = True
            self.revision += 1
        return touched

    def step(self) -> set[str]:
        """Take the ways toward each node one step on; return the nodes on which something changes."""
        touched: set[str] = set()
        if not self.stale:
            return touched
        self.stale = False
        for target in self._nodes:
            active = self._paths[target]
            fixed = {node: active.get(node) for node in self._topology.away if node != target}
            wanted = toward(self._topology.graph, target, fixed)
            after = next_paths(active, wanted, target)
            changed = {node for node in after.keys() | active.keys() if after.get(node) != active.get(node)}
            if self._teach_ways(target, active, {n: after[n] for n in changed & after.keys()}):
                self.stale = True
                continue
            if after == wanted:
                self._taught.pop(target, None)
            if changed and self._at.get(target):
                touched |= changed
                self._dirty |= self._at[target]
            self.stale |= after != wanted
            self.revision += bool(changed)
            self._paths[target] = after
            for where, move in self._moves.items() if changed else ():
                if move.before.node == target and not move.released:  # whoever has not turned goes by links that work
                    move.ways = {node: way for node, way in after.items() if node != self._where[where].node}
                    touched |= changed
                    self._dirty.add(where)
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
        return bool(lessons) and all(active.get(node) in self._topology.links for node in turning)

    # -- addresses that move ------------------------------------------------------------------------------------------

    def step_moves(self) -> set[str]:
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
                before = move.before.node
                if after == wanted and not waiting and (before in wanted or before in self._topology.away):
                    del self._moves[where]
            else:
                continue
            touched |= changed - {move.before.node}  # all old ways end there: no turn depends on its own
            self._dirty.add(where)
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
        return [Lesson(end, *where) for end in unheard if end.node not in self._topology.away]

    # -- flows --------------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Plan the flows of the MACs that are somewhere else, or reached otherwise, than before."""
        for where in self._dirty:
            self._plan_mac(*where)
        self._dirty.clear()

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

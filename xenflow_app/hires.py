"""Who hired what, and which ports its frames leave by (pure; docs/design/qos.md).

Place in the flow: machines, networks, homes, ways -> *owners and their ports* -> Admission, Queues.

An owner is a router (its frames have its MAC) or a network (all other frames in it). A router's frames go from where it
is routed to every port of its networks, along the ways of known addresses. What it floods goes along the trees: only
its control traffic is sure of something there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from xenflow.bandwidth import TrafficClass
from xenflow.model import Machine, Network, PortKind
from xenflow_app.disguise import alias
from xenflow_app.fabric import Fabric
from xenflow_app.flowtable import FABRIC, Owner
from xenflow_app.homes import Homes
from xenflow_app.networks import Networks
from xenflow_app.node import Node

Place = tuple[str, str]
"""Node and name of a port."""


@dataclass(frozen=True, slots=True)
class Hire:
    """An owner of queues: `frames` are (VLAN id, source MAC), the MAC empty for a network; rates in bit/s.

    `moving` are a router's frames while it moves, when they have another source MAC.
    """

    name: str
    owner: Owner
    frames: tuple[tuple[int, bytes], ...]
    rate: int = 0
    ceiling: int = 0
    classes: tuple[TrafficClass, ...] = ()
    moving: tuple[tuple[int, bytes], ...] = ()

    @property
    def is_router(self) -> bool:
        """Whether it is a router, and not a network."""
        return self.owner != FABRIC

    @property
    def key(self) -> str:
        """What tells a router from a network of the same name."""
        return f"{'router' if self.is_router else 'network'} {self.name}"


def of_router(machine: Machine, owner: Owner, vids: Mapping[int, int]) -> Hire:
    """Return a router as an owner; `vids` are the VLAN ids of its interfaces, by number."""
    frames = tuple((vids[item.number], item.mac) for item in machine.interfaces if item.number in vids)
    moving = tuple((vid, alias(owner)) for vid, _ in frames)
    return Hire(machine.name, owner, frames, machine.rate, machine.ceiling, machine.classes, moving)


def all_hires(nodes: Mapping[str, Node], homes: Homes, networks: Networks) -> list[Hire]:
    """Return all owners, in the order of their keys; where nodes differ on a network's rate, the highest counts."""
    found: dict[str, Hire] = {}
    for node in nodes.values():
        for name, router in node.routers.items():
            if homes.home(name) == node.name:
                hire = of_router(router.machine, router.number, router.vids)
                found[hire.key] = hire
        agreed = networks.agreed(node.name)
        for fact in node.inbox.facts.of(Network.KIND).values():
            if isinstance(fact, Network) and agreed.get(fact.name) == fact.vid:
                hire = Hire(fact.name, FABRIC, ((fact.vid, b""),), fact.rate)
                if hire.key not in found or hire.rate > found[hire.key].rate:
                    found[hire.key] = hire
    return [found[key] for key in sorted(found)]


class Ways:
    """Where frames leave, as links and members are now; asked for many owners, each way is followed once."""

    def __init__(self, nodes: Mapping[str, Node], fabric: Fabric) -> None:
        self._fabric = fabric
        self._names = {name: {port.number: port.name for port in node.ports} for name, node in nodes.items()}
        self._known: dict[tuple[str, int], tuple[frozenset[Place], frozenset[Place]]] = {}

    def of(self, hire: Hire, starts: frozenset[str]) -> tuple[frozenset[Place], frozenset[Place]]:
        """Return the ports by which the owner's frames to known addresses leave, and those by which any of them do.

        A router's frames start at `starts`, a network's at any node that has a port in it.
        """
        known: set[Place] = set()
        every: set[Place] = set()
        for vid, _ in hire.frames:
            for start in starts if hire.is_router else self._fabric.trees.members(vid).keys():
                ways, floods = self._leaving(start, vid)
                known |= ways
                every |= ways | floods
        return frozenset(known), frozenset(every)

    def _leaving(self, start: str, vid: int) -> tuple[frozenset[Place], frozenset[Place]]:
        found = self._known.get((start, vid))
        if found is None:
            ways = self._named({*self._on_ways(start, vid), *self._members(vid)})
            found = self._known[start, vid] = ways, self._named(self._on_tree(start, vid))
        return found

    def _named(self, ports: Iterable[tuple[str, int]]) -> frozenset[Place]:
        return frozenset((node, self._names[node][port]) for node, port in ports if port in self._names.get(node, {}))

    def _members(self, vid: int) -> Iterator[tuple[str, int]]:
        for node, members in self._fabric.trees.members(vid).items():
            for member in members:
                yield node, member.port

    def _on_ways(self, start: str, vid: int) -> Iterator[tuple[str, int]]:
        for target in self._fabric.trees.members(vid):
            at, seen = start, {start}
            while at != target and (link := self._fabric.ways.way(at, target)) is not None:
                yield at, link.at(at).port
                at = link.beyond(at).node
                if at in seen:
                    break
                seen.add(at)

    def _on_tree(self, start: str, vid: int) -> Iterator[tuple[str, int]]:
        links = self._fabric.trees.tree(vid)
        reached, waiting = {start}, [start]
        while waiting:
            at = waiting.pop()
            for link in links:
                if at in (link.a.node, link.b.node) and link.beyond(at).node not in reached:
                    yield at, link.at(at).port
                    reached.add(link.beyond(at).node)
                    waiting.append(link.beyond(at).node)


def capacity(node: Node, name: str) -> int:
    """Return what a port carries in bit/s, 0 if nobody says."""
    port = node.port(name)
    if port is None:
        return 0
    if port.kind is not PortKind.VIF:
        return port.capacity
    machine = node.machine(port.machine)
    found = (item.capacity for item in machine.interfaces if item.number == port.interface) if machine else ()
    return next(iter(found), 0)

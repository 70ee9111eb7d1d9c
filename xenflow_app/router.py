"""One virtual router: its facts, its RIB, and the flows that follow from them.

Place in the flow: facts (summaries from the server) -> *RIB -> FIB* -> flows of the node that hosts it.

Each fact is planned for itself, so that a change costs the same at ten routes and at a million:

    Route     one flow in FIB (its key is the prefix), whose value says: a next hop, a link, a group, the VM, or drop
    Neighbor  three flows (rewrite, size check, itself as a destination on its link)
    next hops a route names next hops by id only; whether they are resolved changes no route's flow
    Address   packets to the router itself; and what its vif may claim in ARP and ND

Nothing is planned before the first complete snapshot: a half-known table must not replace what is installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from xenflow.capped import CappedRoutes, Move
from xenflow.model import (
    Address,
    Fact,
    Hop,
    Interface,
    Link,
    Machine,
    Neighbor,
    Route,
    RouteKind,
    ShedRoutes,
    neighbor_key,
)
from xenflow.replica import Change
from xenflow_app import pipeline, routing
from xenflow_app.exact import ExactFlows
from xenflow_app.flowtable import FlowTable, FlowValue
from xenflow_app.ids import Ids
from xenflow_app.rib import Rib
from xenflow_app.settings import Reactive

_UNKNOWN_HOP = 0
"""The id of a next hop that the switch cannot use: no flow has it, so the packet goes to the VM."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a router runs: the flows of its node, and the VLAN id of each of its interfaces by number."""

    flows: FlowTable
    vids: Mapping[int, int]


class Router:
    """See the module. `planned` tells whether its facts have been complete once, and flows follow from them."""

    def __init__(self, number: int, machine: Machine, place: Place, reactive: Reactive | None = None) -> None:
        """`number` is the router's id in register 2; with `reactive` it gets exact flows at first packets."""
        self.number = number
        self.machine = machine
        self.rib = Rib()
        self.links: dict[int, Link] = {}
        self.addresses: dict[bytes, Address] = {}
        self.neighbors: dict[bytes, Neighbor] = {}
        self.reported_shed = 0
        self.planned = False
        self.exact = None
        if reactive is not None:
            self.exact = ExactFlows(self, reactive.idle_timeout_s, machine.max_flows or reactive.max_flows)
        self._place = place
        self._hops = Ids()
        self._groups = Ids()
        self._uses: dict[tuple[Hop, ...], int] = {}
        self._values: dict[tuple[Hop, ...], FlowValue] = {}
        self._capped: CappedRoutes[Route] = CappedRoutes(machine.max_flows)
        self._slow = routing.via_machine(number)
        self._nothing = routing.via_nothing(number)

    @property
    def name(self) -> str:
        """The router's name."""
        return self.machine.name

    @property
    def flows(self) -> FlowTable:
        """The flows of the node that it runs on."""
        return self._place.flows

    @property
    def shed(self) -> int:
        """Routes without a flow of their own: kept back by client or server, or beyond `max_flows` here."""
        here = self.exact.shed if self.exact is not None else self._capped.shed
        return self.reported_shed + here

    @property
    def vids(self) -> Mapping[int, int]:
        """The VLAN id of each interface, by number."""
        return self._place.vids

    def interface(self, number: int) -> Interface | None:
        """Return the interface of that number in the router's definition."""
        return next((item for item in self.machine.interfaces if item.number == number), None)

    def claims(self, interface: Interface) -> tuple[bytes, ...]:
        """Return the addresses (packed) that the interface may claim: as defined, or else as reported."""
        if interface.addresses:
            return interface.own
        return tuple(sorted({item.address[:-1] for item in self.addresses.values() if item.link == interface.number}))

    def own(self) -> Iterator[tuple[Interface, bytes]]:
        """Yield each address (packed) that the router has, as reported, and may claim, with its interface."""
        interfaces = {item.number: item for item in self.machine.interfaces}
        for address in self.addresses.values():
            interface, packed = interfaces.get(address.link), address.address[:-1]
            if interface is not None and (not interface.addresses or packed in interface.own):
                yield interface, packed

    def routes_at(self, number: int) -> bool:
        """Tell whether the switch routes what comes in there; else it goes to the VM like to any machine.

        Not before the tables are known, and not while the VM has the interface down.
        """
        link = self.links.get(number)
        return self.planned and link is not None and link.up

    def hop_id(self, link: int, address: bytes) -> int:
        """Return the id of a next hop; 0 for one that the switch cannot reach."""
        if link not in self._place.vids or not address:
            return _UNKNOWN_HOP
        return self._hops.of(neighbor_key(link, address))

    def hop(self, number: int) -> tuple[int, bytes] | None:
        """Return link and packed address of the next hop with this id."""
        key = self._hops.name(number)
        return None if key is None else (int.from_bytes(key[:4], "big"), key[4:])

    @property
    def shed_here(self) -> int:
        """Routes that have no flow of their own because of `max_flows`."""
        return self.shed - self.reported_shed

    # -- facts --------------------------------------------------------------------------------------------------------

    def load(self, facts: Iterable[Fact]) -> None:
        """Take in all that is known of the router so far, without planning."""
        for fact in facts:
            self._store(fact)

    def apply(self, change: Change) -> bool:
        """Take in what changed, and plan it; True when it concerns what the vifs may claim or whether they route."""
        vifs = False
        planned = self.planned
        for fact in change.upserts:
            before = self.rib.get(fact.prefix) if type(fact) is Route else None
            self._store(fact)
            if type(fact) is Route:
                if planned:
                    self._plan_route(fact, before)
            elif type(fact) is Neighbor:
                if planned:
                    self._plan_neighbor(fact.key)
            else:
                vifs |= type(fact) in (Address, Link)
                self._plan_other(fact.KIND, fact.key)
        for kind, key in change.withdrawals:
            vifs |= kind in (Address.KIND, Link.KIND)
            self._withdraw(kind, key)
        if change.in_sync and not self.planned:
            self.plan()
            vifs = True
        return vifs

    def _store(self, fact: Fact) -> None:
        if type(fact) is Route:
            self.rib.put(fact)
        elif type(fact) is Neighbor:
            self.neighbors[fact.key] = fact
        elif type(fact) is Link:
            self.links[fact.index] = fact
        elif type(fact) is Address:
            self.addresses[fact.key] = fact
        elif type(fact) is ShedRoutes:
            self.reported_shed = fact.count

    def _withdraw(self, kind: int, key: bytes) -> None:
        if kind == Route.KIND:
            route = self.rib.drop(key)
            if route is not None and self.planned:
                self._unplan_route(route)
        elif kind == Neighbor.KIND:
            self.neighbors.pop(key, None)
            if self.planned:
                self._plan_neighbor(key)
        elif kind == Link.KIND:
            self.links.pop(int.from_bytes(key, "big"), None)
            self._plan_other(kind, key)
        elif kind == Address.KIND:
            self.addresses.pop(key, None)
            self._plan_other(kind, key)
        elif kind == ShedRoutes.KIND:
            self.reported_shed = 0

    # -- plan ---------------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Plan everything: the facts are complete, or the place has changed."""
        self.planned = True
        if self.exact is None:
            self.flows.want_group((self.number, "wildcard"), routing.wildcard(self.number, reactive=False))
        for address in self.addresses:
            self._plan_address(address)
        for key in self.neighbors:
            self._plan_neighbor(key)
        for route in self.rib:
            self._plan_route(route, None)
        if self.exact is not None:
            self.exact.adopt()

    def unplan(self) -> None:
        """Desire no flow of the router any more."""
        for route in self.rib:
            self.flows.unwant(routing.route_key(self.number, route.prefix))
        self.flows.drop_groups(lambda group: group[0] == self.number)
        if self.exact is not None:
            self.exact.clear()
        self._uses.clear()
        self._values.clear()
        self._capped = CappedRoutes(self.machine.max_flows)
        self.planned = False

    def value_for(self, route: Route | None) -> FlowValue:
        """Return the value of the flow that does what `route` says; without a route the VM decides."""
        if route is None or route.kind is RouteKind.SLOW:
            return self._slow
        if route.kind is RouteKind.BLACKHOLE:
            return self._nothing
        value = self._values.get(route.hops)
        return self._resolve(route.hops) if value is None else value

    def _resolve(self, hops: tuple[Hop, ...]) -> FlowValue:
        """Work out and keep the value for a set of next hops; a group is planned along with it."""
        if len(hops) == 1:
            (hop,) = hops
            if hop.link not in self._place.vids:
                value = self._slow
            elif hop.gateway:
                value = routing.via_hop(self.number, self.hop_id(hop.link, hop.gateway))
            else:
                value = routing.via_link(self.number, hop.link)
        elif hops:
            group = self._groups.of(repr(hops).encode())
            buckets = [self.hop_id(hop.link, hop.gateway) for hop in spread(hops, routing.BUCKETS)]
            self.flows.want_group((self.number, "group", group), routing.group(self.number, group, buckets))
            value = routing.via_group(self.number, group)
        else:
            value = self._slow
        self._values[hops] = value
        return value

    def _plan_route(self, route: Route, before: Route | None) -> None:
        self._uses[route.hops] = self._uses.get(route.hops, 0) + 1
        if self.exact is not None:
            self.exact.changed(route.prefix)
        elif not self.machine.max_flows:
            self.flows.want(routing.route_key(self.number, route.prefix), self.value_for(route))
        else:
            self._move(self._capped.put(route.prefix, route))
        if before is not None:
            self._release(before.hops)

    def _unplan_route(self, route: Route) -> None:
        if self.exact is not None:
            self.exact.changed(route.prefix)
        elif not self.machine.max_flows:
            self.flows.unwant(routing.route_key(self.number, route.prefix))
        else:
            self._move(self._capped.drop(route.prefix))
        self._release(route.hops)

    def _move(self, moves: Iterable[Move]) -> None:
        """Give routes a flow of their own, or take it away, as the cap has it; in the order of `moves`."""
        for move in moves:
            key = routing.route_key(self.number, move.prefix)
            if move.shown:
                self.flows.want(key, self.value_for(self._capped[move.prefix]))
            else:
                self.flows.unwant(key)

    def _release(self, hops: tuple[Hop, ...]) -> None:
        """One route less goes that way; the last one takes the group with it."""
        left = self._uses.get(hops, 0) - 1
        if left > 0:
            self._uses[hops] = left
            return
        self._uses.pop(hops, None)
        self._values.pop(hops, None)
        if len(hops) > 1:
            name = repr(hops).encode()
            self.flows.want_group((self.number, "group", self._groups.of(name)), {})
            self._groups.release(name)

    def _plan_other(self, kind: int, key: bytes) -> None:
        """Plan what depends on a link or an address."""
        if not self.planned:
            return
        if kind == Address.KIND:
            self._plan_address(key)
        elif kind == Link.KIND:
            for neighbor in [item for item in self.neighbors if item[:4] == key]:
                self._plan_neighbor(neighbor)

    def _plan_address(self, key: bytes) -> None:
        address = self.addresses.get(key)
        flows = {}
        if address is not None:
            for owned in own_addresses(address.address):
                flows.update(routing.own_address(self.number, owned))
        self.flows.want_group((self.number, "address", key), flows)

    def _plan_neighbor(self, key: bytes) -> None:
        neighbor = self.neighbors.get(key)
        adjacency = None if neighbor is None else self.adjacency(neighbor)
        flows: pipeline.Flows = {}
        if neighbor is not None and adjacency is not None:
            flows = routing.neighbor(self.number, self.hop_id(neighbor.link, neighbor.address), adjacency)
        self.flows.want_group((self.number, "neighbor", key), flows)

    def adjacency(self, neighbor: Neighbor) -> routing.Adjacency | None:
        """Return how frames reach a neighbor; None where its link is not in a network or not known yet."""
        link, interface = self.links.get(neighbor.link), self.interface(neighbor.link)
        vid = self._place.vids.get(neighbor.link)
        if link is None or interface is None or vid is None:
            return None
        return routing.Adjacency(
            neighbor.link, neighbor.address, link.mtu, vid, source=interface.mac, destination=neighbor.mac
        )


def own_addresses(address: bytes) -> list[bytes]:
    """Return what a packet may be addressed to so that it is for the router itself.

    `address` is packed, with its prefix length. Besides the address: the directed broadcasts of its IPv4 subnet (RFC
    1812, section 4.2.3.1), or the subnet-router anycast address of its IPv6 subnet (RFC 4291, section 2.6.1).
    """
    packed, length = address[:-1], address[-1]
    bits = len(packed) * 8
    if bits - length < 2:
        return [packed]
    mask = (1 << bits - length) - 1
    number = int.from_bytes(packed, "big")
    others = [number & ~mask] if bits == 128 else [number & ~mask, number | mask]
    return [packed, *(other.to_bytes(len(packed), "big") for other in others if other != number)]


def spread(hops: tuple[Hop, ...], buckets: int) -> list[Hop]:
    """Return which hop each bucket gets: in proportion to the weights, by largest remainder, each at least one."""
    kept = hops[:buckets]
    total = sum(hop.weight for hop in kept)
    shares = [hop.weight * buckets / total for hop in kept]
    counts = [max(1, int(share)) for share in shares]
    while sum(counts) > buckets:
        counts[counts.index(max(counts))] -= 1
    by_remainder = sorted(range(len(kept)), key=lambda place: (int(shares[place]) - shares[place], place))
    for place in by_remainder[: buckets - sum(counts)]:
        counts[place] += 1
    return [hop for hop, count in zip(kept, counts, strict=True) for _ in range(count)]

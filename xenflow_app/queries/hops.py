"""Routes and next hops of one router as an operator sees them: where packets leave, or why they go to the VM."""

from __future__ import annotations

import msgspec

from xenflow.answers import HopStatus, RouteStatus
from xenflow.model import Hop, Neighbor, Route, RouteKind, address_text, mac_text, neighbor_key, prefix_text
from xenflow_app import pipeline, routing
from xenflow_app.openflow import nxm, text
from xenflow_app.pipeline import Table
from xenflow_app.queries.flows import state_of
from xenflow_app.queries.names import Names
from xenflow_app.router import Router, spread
from xenflow_app.rules import Output, Rule

_KINDS = {RouteKind.UNICAST: "unicast", RouteKind.BLACKHOLE: "blackhole", RouteKind.SLOW: "slow"}


class HopReader:
    """Reads routes; what many routes have in common is worked out once."""

    def __init__(self, names: Names, router: Router) -> None:
        self._names = names
        self._router = router
        self._known: dict[tuple[Hop, ...], list[HopStatus]] = {}

    def route(self, prefix: bytes, destination: bytes = b"") -> RouteStatus:
        """Return the route to exactly `prefix`, which is in the RIB; for a connected one, with the way to there."""
        router = self._router
        route = router.rib.get(prefix)
        if route is None:
            return RouteStatus(prefix_text(prefix), "", [], "gone", "gone")
        hops = self.hops(route.hops, destination)
        key = routing.route_key(router.number, prefix)
        value = router.flows.actual.get(key)
        return RouteStatus(
            prefix=prefix_text(prefix),
            kind=_KINDS[route.kind],
            hops=hops,
            forwarding=self._forwarding(route, hops, key),
            state=self._state(key),
            flow="" if value is None else text.flow(key, value),
        )

    def without_route(self) -> str:
        """Return what happens to packets that no route covers."""
        kept = self._router.reported_shed
        if kept:
            return f"such packets go to its VM, which may have one (client or server keep {kept} routes back)"
        return "such packets go to its VM, which answers that there is none"

    def _state(self, key: bytes) -> str:
        flows = self._router.flows
        if key not in flows.desired and key not in flows.actual:
            if not self._router.planned:
                return "waiting"
            return "on demand" if self._router.exact else "shed"
        return state_of(flows, key)

    def _forwarding(self, route: Route, hops: list[HopStatus], key: bytes) -> str:
        router = self._router
        if not router.planned:
            return "slow path: the router's VM has not told all of its tables yet"
        if router.exact is None and key not in router.flows.desired:
            return f"slow path: shed, more routes than max_flows = {router.machine.max_flows}"
        if route.kind is RouteKind.BLACKHOLE:
            return "dropped by the switch (blackhole)"
        if route.kind is RouteKind.SLOW or not hops:
            return "slow path: not a route that a switch can follow; the VM answers"
        problems = [hop.problem for hop in hops if hop.problem]
        if not problems:
            return "switch" if len(hops) == 1 else f"switch, over {len(hops)} next hops"
        if len(problems) == len(hops):
            return f"slow path: {problems[0]}"
        return f"switch, but for {len(problems)} of {len(hops)} next hops: {problems[0]}"

    def hops(self, hops: tuple[Hop, ...], destination: bytes = b"") -> list[HopStatus]:
        """Return the next hops of a route."""
        if destination and len(hops) == 1 and not hops[0].gateway:
            return [self._hop(hops[0], destination)]
        found = self._known.get(hops)
        if found is None:
            found = [self._hop(hop, hop.gateway) for hop in hops]
            if len(hops) > 1:
                shares = spread(hops, routing.BUCKETS)
                found = [
                    msgspec.structs.replace(status, buckets=shares.count(hop))
                    for status, hop in zip(found, hops, strict=True)
                ]
            self._known[hops] = found
        return found

    def _hop(self, hop: Hop, address: bytes) -> HopStatus:
        router = self._router
        interface, link = router.interface(hop.link), router.links.get(hop.link)
        status = HopStatus(
            interface=link.name if link is not None else f"#{hop.link}" if hop.link else "",
            network="" if interface is None else interface.network,
            gateway=address_text(hop.gateway),
            weight=hop.weight,
            vid=router.vids.get(hop.link, 0),
        )
        if hop.link not in router.vids:
            return msgspec.structs.replace(status, problem="its interface is in none of the networks")
        if not address:
            return status
        neighbor = router.neighbors.get(neighbor_key(hop.link, address))
        if neighbor is None:
            return msgspec.structs.replace(status, problem=f"the MAC address of {address_text(address)} is not known")
        return msgspec.structs.replace(
            status, mac=mac_text(neighbor.mac), out=self._out(status.vid, neighbor), problem=self._missing(neighbor)
        )

    def _missing(self, neighbor: Neighbor) -> str:
        router = self._router
        if router.adjacency(neighbor) is None:
            return "its link is not known"
        hop = router.hop_id(neighbor.link, neighbor.address)
        key = nxm.flow_key(Table.NEIGHBOR, 100, reg2=router.number, reg3=hop)
        return "" if key in router.flows.actual else "the flows of this neighbor are not installed"

    def _out(self, vid: int, neighbor: Neighbor) -> str:
        """Return where frames to a neighbor leave the node."""
        actual = self._router.flows.actual
        inside = actual.get(nxm.flow_key(Table.LINK, 100, reg0=vid, dl_dst=neighbor.mac))
        if inside is not None:
            key = nxm.flow_key(Table.LINK, 100, reg0=vid, dl_dst=neighbor.mac)
            return f"{self._names.router_name(Rule(key, inside).loads(pipeline.ROUTER) or 0)} on this node"
        key = nxm.flow_key(Table.EGRESS, 100, reg0=vid, dl_dst=neighbor.mac)
        value = actual.get(key)
        if value is None:
            return "flooded"
        ports = [self._names.port_name(item.port) for item in Rule(key, value).actions if isinstance(item, Output)]
        return ", ".join(ports)

"""`xenflow routers` and `xenflow routes`: what a router has told, and what became of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING

from xenflow.answers import InterfaceStatus, Lookup, Page, ResourcesStatus, RouterStatus, RouteStatus
from xenflow.model import Interface, address_text, mac_text, prefix_text
from xenflow.resources import Granted, Resources
from xenflow_app.queries.hops import HopReader
from xenflow_app.queries.names import Names, QueryError, find_router
from xenflow_app.queries.paging import page
from xenflow_app.router import own_addresses

if TYPE_CHECKING:
    from xenflow_app.controller import Controller
    from xenflow_app.node import Node
    from xenflow_app.router import Router


def routers(controller: Controller) -> list[RouterStatus]:
    """Return all routers by name, without counters."""
    found = []
    for node in controller.nodes.values():
        owned = node.flows.count_by_owner()
        found += [_router(node, router, owned.get(router.number, 0)) for router in node.routers.values()]
    return sorted(found, key=lambda router: router.name)


def _router(node: Node, router: Router, flows: int) -> RouterStatus:
    granted = node.inbox.facts.of(Granted.KIND).get(router.name.encode())
    return RouterStatus(
        name=router.name,
        node=node.name,
        in_sync=router.planned,
        interfaces=[_interface(node, router, item) for item in router.machine.interfaces],
        routes=len(router.rib),
        neighbors=len(router.neighbors),
        flows=flows,
        shed_reported=router.reported_shed,
        shed_here=router.shed_here,
        max_flows=router.machine.max_flows,
        defined=_resources(router.machine.resources),
        has=_resources(granted.has) if isinstance(granted, Granted) else None,
        resource_problems=list(granted.problems) if isinstance(granted, Granted) else [],
    )


def _resources(resources: Resources) -> ResourcesStatus:
    return ResourcesStatus(resources.memory_mib, resources.vcpus, resources.cpu_weight, resources.cpu_cap)


def _interface(node: Node, router: Router, interface: Interface) -> InterfaceStatus:
    link = router.links.get(interface.number)
    reported = sorted(item.address for item in router.addresses.values() if item.link == interface.number)
    ports = [port for port in node.ports if (port.machine, port.interface) == (router.name, interface.number)]
    return InterfaceStatus(
        number=interface.number,
        name="" if link is None else link.name,
        network=interface.network,
        vid=router.vids.get(interface.number, 0),
        port=ports[0].name if ports else "",
        mac=mac_text(interface.mac),
        addresses=[prefix_text(item) for item in reported] or [address_text(item) for item in interface.addresses],
        mtu=0 if link is None else link.mtu,
        up=link is not None and link.up,
    )


def routes(controller: Controller, arguments: Mapping[str, str]) -> Page[RouteStatus]:
    """Return a page of the routes of `router`, only those within `prefix` if given. Raises QueryError.

    Sorted by family, address and length.
    """
    node, router = find_router(controller, arguments.get("router", ""))
    hops = HopReader(Names(controller, node), router)
    keys = (_sortable(route.prefix) for route in router.rib)
    if arguments.get("prefix"):
        within = parse_prefix(arguments["prefix"])
        bits = (len(within) - 1) * 8 - within[-1]
        number = int.from_bytes(within[:-1], "big") >> bits
        keys = (
            _sortable(route.prefix)
            for route in router.rib
            if len(route.prefix) == len(within)
            and route.prefix[-1] >= within[-1]
            and int.from_bytes(route.prefix[:-1], "big") >> bits == number
        )
    return page(keys, arguments, lambda key: hops.route(key[1:]))


def _sortable(prefix: bytes) -> bytes:
    return bytes([len(prefix)]) + prefix


def parse_prefix(text: str) -> bytes:
    """Return a packed prefix. Raises QueryError."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise QueryError(f"not a prefix: {error}") from error
    return network.network_address.packed + bytes([network.prefixlen])


def parse_address(text: str) -> bytes:
    """Return a packed address. Raises QueryError."""
    try:
        return ipaddress.ip_address(text).packed
    except ValueError as error:
        raise QueryError(str(error)) from error


def lookup(controller: Controller, arguments: Mapping[str, str]) -> Lookup:
    """Return what `router` does with packets to `address`. Raises QueryError."""
    node, router = find_router(controller, arguments.get("router", ""))
    address = parse_address(arguments.get("address", ""))
    hops = HopReader(Names(controller, node), router)
    text = address_text(address)
    for own in router.addresses.values():
        if address in own_addresses(own.address):
            words = f"{text} is {router.name} itself ({prefix_text(own.address)}): its VM answers"
            return Lookup(text, words, None)
    route = router.rib.lookup(address)
    if route is None:
        return Lookup(text, f"{router.name} has no route to {text}: {hops.without_route()}", None)
    found = hops.route(route.prefix, address)
    return Lookup(text, f"{router.name} has a route to {found.prefix}: {found.forwarding}", found)

"""What is wrong with a topology beyond the types of its keys: names, references, numbers, addresses. All of it at once.

Pure: `problems` returns one line for each problem, in the order of the file, each naming table, key and value.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator

from xenflow.model import ANNOUNCEMENT_MAC, RESERVED_VIDS, pack_mac
from xenflow.resources import faults
from xenflow_lab.topology import (
    AccessTable,
    HostTable,
    InterfaceTable,
    OutsideInterfaceTable,
    OutsideTable,
    RouterTable,
    RouteTable,
    Routing,
    RoutingTable,
    Topology,
)

RESERVED_NAMES = frozenset({"controller", "wires"})
MAX_LAB_NAME = 20
MAX_NAME = 24
VLAN_TAG_BYTES = 4
MAX_MTU = 65535
FRR_DAEMONS = frozenset({"bgpd", "ospfd", "ospf6d", "ripd", "ripngd", "isisd", "bfdd", "staticd"})

_LAB_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def problems(topology: Topology) -> list[str]:
    """Return everything that is wrong with `topology`; empty if it can be built."""
    return [problem for check in _CHECKS for problem in check(topology)]


def lab_name_problem(name: str) -> str | None:
    """Return why a lab cannot be called `name`, or None."""
    if _LAB_NAME.fullmatch(name) and len(name) <= MAX_LAB_NAME:
        return None
    return f"lab.name: 1 to {MAX_LAB_NAME} of a-z, 0-9 and '-', beginning with a letter or a digit ({name!r})"


def _lab(topology: Topology) -> Iterator[str]:
    problem = lab_name_problem(topology.lab.name)
    if problem:
        yield problem
    if topology.lab.mode not in ("proactive", "reactive"):
        yield f'lab.mode: "proactive" or "reactive" ({topology.lab.mode!r})'
    if not topology.node:
        yield "node: at least one [[node]] is needed"


def _names(topology: Topology) -> Iterator[str]:
    machines = [
        *(("node", node.name) for node in topology.node),
        *(("router", router.name) for router in topology.router),
        *(("host", host.name) for host in topology.host),
        *(("outside", outside.name) for outside in topology.outside),
    ]
    yield from _distinct(machines)
    yield from _distinct(("network", network.name) for network in topology.network)
    yield from _distinct(("access", access.name) for access in topology.access)


def _distinct(named: Iterable[tuple[str, str]]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for table, name in named:
        if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
            yield f"{table}.name: 1 to {MAX_NAME} of a-z, 0-9, '.', '_' and '-' ({name!r})"
        elif name in RESERVED_NAMES:
            yield f"{table}.name: reserved for the lab itself ({name!r})"
        elif name in seen:
            yield f"{table}.name: already the name of a {seen[name]} ({name!r})"
        seen.setdefault(name, table)


def _networks(topology: Topology) -> Iterator[str]:
    seen: dict[int, str] = {}
    for network in topology.network:
        where = f"network {network.name!r}"
        if not 0 < network.vid < 4095 or network.vid in RESERVED_VIDS:
            yield f"{where}: vid: a VLAN id is 1 to 4094 ({network.vid})"
        elif network.vid in seen:
            yield f"{where}: vid: already the id of network {seen[network.vid]!r} ({network.vid})"
        seen.setdefault(network.vid, network.name)
        if not 1280 <= network.mtu <= MAX_MTU:
            yield f"{where}: mtu: 1280 (the least for IPv6) to {MAX_MTU} ({network.mtu})"


def _trunks(topology: Topology) -> Iterator[str]:
    nodes = {node.name for node in topology.node}
    largest = max((network.mtu for network in topology.network), default=0)
    for number, trunk in enumerate(topology.trunk, start=1):
        where = f"trunk {number}"
        for name in trunk.between:
            if name not in nodes:
                yield f"{where}: between: no node of this name ({name!r})"
        if len(set(trunk.between)) != 2 or len(trunk.between) != 2:
            yield f"{where}: between: two different nodes ({', '.join(trunk.between)})"
        if trunk.rate_mbps < 0:
            yield f"{where}: rate_mbps: 0 (no limit) or more ({trunk.rate_mbps})"
        if not largest + VLAN_TAG_BYTES <= trunk.mtu <= MAX_MTU:
            yield (
                f"{where}: mtu: {largest + VLAN_TAG_BYTES} (the largest network's and {VLAN_TAG_BYTES} for the tag)"
                f" to {MAX_MTU} ({trunk.mtu})"
            )


def _routers(topology: Topology) -> Iterator[str]:
    for router in topology.router:
        where = f"router {router.name!r}"
        yield from _place(topology, where, router)
        yield from _routing(where, router)
        for key in ("max_routes", "max_flows", "client_max_routes"):
            if getattr(router, key) < 0:
                yield f"{where}: {key}: 0 (no cap) or more ({getattr(router, key)})"
        for key, reason, value in faults(router.resources):
            yield f"{where}: {key}: {reason} ({value})"
        for number, interface in enumerate(router.interface, start=1):
            yield from _interface(topology, f"{where}: interface {number}", interface)


def _hosts(topology: Topology) -> Iterator[str]:
    for host in topology.host:
        where = f"host {host.name!r}"
        yield from _place(topology, where, host)
        yield from _interface(topology, where, host)
        yield from _gateways(where, host.gateways)
        yield from _routes(where, host.route)


def _place(topology: Topology, where: str, table: RouterTable | HostTable | AccessTable) -> Iterator[str]:
    if table.node not in {node.name for node in topology.node}:
        yield f"{where}: node: no node of this name ({table.node!r})"


def _interface(topology: Topology, where: str, interface: InterfaceTable | HostTable) -> Iterator[str]:
    mtus = {network.name: network.mtu for network in topology.network}
    if interface.network not in mtus:
        yield f"{where}: network: no network of this name ({interface.network!r})"
    elif interface.mtu and not 576 <= interface.mtu <= mtus[interface.network]:
        yield f"{where}: mtu: 576 to the network's {mtus[interface.network]}, or 0 for the network's ({interface.mtu})"
    if interface.rate_mbps < 0:
        yield f"{where}: rate_mbps: 0 (no limit) or more ({interface.rate_mbps})"
    yield from _addresses(where, interface.addresses)
    yield from _mac(where, interface.mac)


def _addresses(where: str, addresses: Iterable[str]) -> Iterator[str]:
    for text in addresses:
        try:
            ipaddress.ip_interface(text)
        except ValueError:
            yield f"{where}: addresses: an address with its prefix length, such as 10.0.0.1/24 ({text!r})"
        else:
            if "/" not in text:
                yield f"{where}: addresses: the prefix length is missing ({text!r})"


def _gateways(where: str, gateways: Iterable[str]) -> Iterator[str]:
    for text in gateways:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            yield f"{where}: gateways: an address without prefix length ({text!r})"


def _routes(where: str, routes: Iterable[RouteTable]) -> Iterator[str]:
    for route in routes:
        try:
            to, via = ipaddress.ip_network(route.to), ipaddress.ip_address(route.via)
        except ValueError as error:
            yield f"{where}: route: {error} (to {route.to!r} via {route.via!r})"
        else:
            if to.version == 4 and via.version == 6:
                yield f"{where}: route: an IPv4 prefix needs an IPv4 next hop (to {route.to!r} via {route.via!r})"
            elif to.version != via.version:
                yield f"{where}: route: an IPv6 prefix needs an IPv6 next hop (to {route.to!r} via {route.via!r})"


def _mac(where: str, text: str) -> Iterator[str]:
    if not text:
        return
    try:
        mac = pack_mac(text)
    except ValueError:
        yield f"{where}: mac: six bytes such as 02:00:00:00:00:01 ({text!r})"
    else:
        if mac[0] & 1 or mac in (ANNOUNCEMENT_MAC, bytes(6)):
            yield f"{where}: mac: the address of one interface, not of a group ({text!r})"


def _routing(where: str, table: RoutingTable) -> Iterator[str]:
    yield from _routes(where, table.route)
    if table.router_id:
        try:
            ipaddress.IPv4Address(table.router_id)
        except ValueError:
            yield f"{where}: router_id: four numbers such as 10.0.0.1 ({table.router_id!r})"
    for wanted, given, key in ((Routing.FRR, table.frr or table.daemons, "frr"), (Routing.BIRD, table.bird, "bird")):
        if given and table.routing is not wanted:
            yield f'{where}: {key}: only with routing = "{wanted.value}" ({table.routing.value!r})'
    if table.ospf and table.routing not in (Routing.FRR, Routing.BIRD):
        yield f'{where}: ospf: only with routing = "frr" or "bird" ({table.routing.value!r})'
    if not 1 <= table.ospf_hello_s < table.ospf_dead_s <= 65535:
        yield f"{where}: ospf_dead_s: more than ospf_hello_s ({table.ospf_hello_s}, {table.ospf_dead_s})"
    for daemon in table.daemons:
        if daemon not in FRR_DAEMONS:
            yield f"{where}: daemons: one of {', '.join(sorted(FRR_DAEMONS))} ({daemon!r})"


def _access(topology: Topology) -> Iterator[str]:
    networks = {network.name for network in topology.network}
    for access in topology.access:
        where = f"access {access.name!r}"
        yield from _place(topology, where, access)
        if not access.network and not access.vlans:
            yield f"{where}: network (untagged) or vlans (tagged) is needed"
        for name in [access.network] if access.network else []:
            if name not in networks:
                yield f"{where}: network: no network of this name ({name!r})"
        for vlan, name in access.vlans.items():
            if not vlan.isdecimal() or not 0 < int(vlan) < 4095:
                yield f"{where}: vlans: a VLAN id is 1 to 4094 ({vlan!r})"
            if name not in networks:
                yield f"{where}: vlans: no network of this name ({name!r})"


def _outside(topology: Topology) -> Iterator[str]:
    for outside in topology.outside:
        where = f"outside {outside.name!r}"
        yield from _routing(where, outside)
        yield from _gateways(where, outside.gateways)
        for number, interface in enumerate(outside.interface, start=1):
            yield from _outside_interface(topology, outside, number, interface)


def _outside_interface(
    topology: Topology, outside: OutsideTable, number: int, interface: OutsideInterfaceTable
) -> Iterator[str]:
    where = f"outside {outside.name!r}: interface {number}"
    if interface.access not in {access.name for access in topology.access}:
        yield f"{where}: access: no access port of this name ({interface.access!r})"
    if not 0 <= interface.vlan < 4095:
        yield f"{where}: vlan: 0 (untagged) to 4094 ({interface.vlan})"
    if not 576 <= interface.mtu <= MAX_MTU:
        yield f"{where}: mtu: 576 to {MAX_MTU} ({interface.mtu})"
    yield from _addresses(where, interface.addresses)
    yield from _mac(where, interface.mac)


def _macs(topology: Topology) -> Iterator[str]:
    seen: dict[str, str] = {}
    named = [
        *((f"router {router.name!r}", i.mac) for router in topology.router for i in router.interface),
        *((f"host {host.name!r}", host.mac) for host in topology.host),
    ]
    for where, mac in named:
        if mac and mac.lower() in seen:
            yield f"{where}: mac: already in use by {seen[mac.lower()]}; a machine is found by it ({mac!r})"
        seen.setdefault(mac.lower(), where)


_CHECKS: tuple[Callable[[Topology], Iterator[str]], ...] = (
    _lab,
    _names,
    _networks,
    _trunks,
    _routers,
    _hosts,
    _access,
    _outside,
    _macs,
)

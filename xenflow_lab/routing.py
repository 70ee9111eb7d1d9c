"""Configuration of the routing daemons inside virtual routers and outside machines. Pure: a machine -> text.

`ospf = true` gives OSPFv2 and OSPFv3 on every interface that has an address; an interface with `passive = true` is
announced only. What the file adds (`frr`, `bird`) follows the generated text.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from xenflow_lab.plan import Interface, Kind, Machine
from xenflow_lab.topology import Routing, RoutingTable

FRR_PATH: Final = "/usr/lib/frr"
_FRR_ALWAYS: Final = ("zebra", "staticd")
_FAST_TIMERS: Final = (" timers throttle spf 10 100 1000", " timers lsa min-arrival 100")
"""The defaults (seconds) are for networks of another age; a lab is to converge while somebody watches."""


def router_id(machine: Machine) -> str:
    """Return the router id: the file's, else one made of the machine's number."""
    table = machine.routing
    if table is not None and table.router_id:
        return table.router_id
    group = 1 if machine.kind is Kind.OUTSIDE else 0
    return f"10.255.{group}.{machine.number}"


def frr_daemons(machine: Machine) -> list[str]:
    """Return the daemons that run, zebra first."""
    table = machine.routing
    if table is None:
        return []
    generated = ["ospfd", "ospf6d"] if table.ospf else []
    return list(dict.fromkeys([*_FRR_ALWAYS, *generated, *table.daemons]))


def frr_argv(daemon: str) -> list[str]:
    """Return the command of one of FRR's daemons; its files are under the machine's own /run and /etc/frr."""
    options = ["-s", "90000000"] if daemon == "zebra" else []
    return [f"{FRR_PATH}/{daemon}", "-A", "127.0.0.1", *options]


def frr_config(machine: Machine) -> str:
    """Return frr.conf for a machine with routing = "frr"."""
    table = machine.routing
    if table is None:
        return ""
    lines = ["frr defaults datacenter", f"hostname {machine.name}", "log stdout informational"]
    if table.ospf:
        lines += _frr_ospf(machine, table)
    return "\n".join(lines) + "\n" + table.frr.strip() + "\n"


def _families(interface: Interface) -> set[int]:
    return {ipaddress.ip_interface(text).version for text in interface.addresses}


def _frr_ospf(machine: Machine, table: RoutingTable) -> list[str]:
    lines = []
    for interface in machine.interfaces:
        families = _families(interface)
        lines += [f"interface {interface.device}"]
        for version, ospf, area in ((4, "ip ospf", "ip ospf area 0"), (6, "ipv6 ospf6", "ipv6 ospf6 area 0")):
            if version not in families:
                continue
            lines += [
                f" {area}",
                f" {ospf} hello-interval {table.ospf_hello_s}",
                f" {ospf} dead-interval {table.ospf_dead_s}",
                f" {ospf} retransmit-interval 1",
            ]
            if interface.passive:
                lines.append(f" {ospf} passive")
            if interface.ospf_cost:
                lines.append(f" {ospf} cost {interface.ospf_cost}")
        lines.append("exit")
    identity = router_id(machine)
    common = (" redistribute static", *_FAST_TIMERS, "exit")
    return [
        *lines,
        *("router ospf", f" ospf router-id {identity}", " timers throttle lsa all 100", *common),
        *("router ospf6", f" ospf6 router-id {identity}", *common),
    ]


def bird_config(machine: Machine) -> str:
    """Return bird.conf for a machine with routing = "bird"."""
    table = machine.routing
    if table is None:
        return ""
    lines = [
        f"router id {router_id(machine)};",
        "log stderr all;",
        "protocol device { scan time 2; }",
        'protocol direct { ipv4; ipv6; interface -"xfctl", "eth*"; }',
        "protocol kernel kernel4 { ipv4 { export where source != RTS_DEVICE; }; merge paths on; learn; }",
        "protocol kernel kernel6 { ipv6 { export where source != RTS_DEVICE; }; merge paths on; learn; }",
    ]
    if table.ospf:
        lines += [*_bird_ospf(machine, table, 4), *_bird_ospf(machine, table, 6)]
    return "\n".join(lines) + "\n" + table.bird.strip() + "\n"


def _bird_ospf(machine: Machine, table: RoutingTable, version: int) -> list[str]:
    protocol = "v2" if version == 4 else "v3"
    lines = [
        f"protocol ospf {protocol} ospf{version} {{",
        f"  ipv{version} {{ import all; export where source = RTS_INHERIT; }};",
        "  ecmp yes;",
        "  area 0 {",
    ]
    for interface in machine.interfaces:
        if version not in _families(interface):
            continue
        stub = "stub yes; " if interface.passive else ""
        cost = f"cost {interface.ospf_cost}; " if interface.ospf_cost else ""
        timers = f"hello {table.ospf_hello_s}; dead {table.ospf_dead_s};"
        lines.append(f'    interface "{interface.device}" {{ type broadcast; {timers} {cost}{stub}}};')
    return [*lines, "  };", "}"]


def uses(machine: Machine, routing: Routing) -> bool:
    """Return whether the machine runs this routing daemon."""
    return machine.routing is not None and machine.routing.routing is routing

"""The cables of a lab, as batches for ip(8) and tc(8): few commands, however large the lab.

Pure: each function returns text; `lab` runs it. Order: namespaces, `links`, `switch_side` (wires, nodes, controller),
`guest_side`. See the picture in `plan`.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable

from xenflow_lab.paths import Paths
from xenflow_lab.places import Side
from xenflow_lab.plan import (
    CONTROL_ADDRESS,
    CONTROL_BRIDGE,
    CONTROL_MAC,
    CONTROLLER,
    CONTROLLER_ADDRESS,
    WIRE_MTU,
    WIRES,
    ControlLink,
    Kind,
    Machine,
    Plan,
    Trunk,
)
from xenflow_lab.topology import HostTable, OutsideTable, RouteTable

BURST_BYTES = 64_000
"""Burst of a rate limit; at least one frame of WIRE_MTU."""
NOWHERE = "nowhere"
"""A bridge without ports in the wires namespace: what goes there is gone (not every kernel has tc's own drop)."""
_PLAIN_BRIDGE = "type bridge stp_state 0 mcast_snooping 0 forward_delay 0 group_fwd_mask 0xfff8"


def links(plan: Plan, paths: Paths) -> str:
    """Return the ip(8) batch that adds every veth, both ends where they belong."""
    lines: list[str] = []

    def veth(a: str, a_where: str, b: str, b_where: str, options: str = f"mtu {WIRE_MTU}", b_mtu: int = 0) -> None:
        lines.append(
            f"link add {a} netns {paths.namespace(a_where)} {options} type veth"
            f" peer name {b} netns {paths.namespace(b_where)} mtu {b_mtu or WIRE_MTU}"
        )

    for vif in plan.vifs:
        interface = vif.interface
        veth(interface.device, vif.machine, interface.peer, WIRES, f"mtu {interface.mtu} address {interface.mac}")
        veth(vif.wire, WIRES, vif.port, vif.node)
    for control in plan.controls:
        veth(CONTROL_BRIDGE, control.router, control.peer, WIRES, f"mtu 1500 address {control.mac}")
        veth(control.wire, WIRES, control.port, control.node)
    for access in plan.accesses:
        veth(access.wire, WIRES, access.port, access.table.node)
        for end in access.ends:
            interface = end.interface
            veth(interface.device, end.machine, interface.peer, WIRES, f"mtu {interface.mtu} address {interface.mac}")
    for trunk in plan.trunks:
        mtu = f"mtu {trunk.mtu}"
        a, b = trunk.ends
        if trunk.is_direct:
            veth(a.port, a.node, b.port, b.node, mtu, trunk.mtu)
        else:
            veth(a.port, a.node, f"t{trunk.number}a", WIRES, mtu, trunk.mtu)
            veth(b.port, b.node, f"t{trunk.number}b", WIRES, mtu, trunk.mtu)
    for node in plan.of_kind(Kind.NODE):
        veth("mgmt", node.name, f"m{node.number}", CONTROLLER, "mtu 1500", 1500)
    return "\n".join(lines) + "\n"


def switch_side(plan: Plan) -> dict[str, str]:
    """Return, for wires, nodes and controller, the ip(8) batch that brings up their ends."""
    lines: dict[str, list[str]] = defaultdict(list)
    _controller(plan, lines[CONTROLLER])
    for node in plan.of_kind(Kind.NODE):
        lines[node.name] = _node(plan, node)
    wires = lines[WIRES]
    wires += [f"link add {NOWHERE} mtu {WIRE_MTU} {_PLAIN_BRIDGE}", *_up(NOWHERE)]
    for vif in plan.vifs:
        wires += _up(vif.interface.peer, vif.wire)
        lines[vif.node] += _up(vif.port)
    for control in plan.controls:
        wires += _up(control.peer, control.wire)
        lines[control.node] += _control_port(control)
    for trunk in plan.trunks:
        for end in trunk.ends:
            lines[end.node] += _up(end.port)
        if not trunk.is_direct:
            wires += _trunk(trunk)
    for access in plan.accesses:
        lines[access.table.node] += _up(access.port)
        wires += [f"link add b{access.number} mtu {WIRE_MTU} {_PLAIN_BRIDGE}"]
        ends = [access.wire, *(end.interface.peer for end in access.ends)]
        wires += [f"link set {name} master b{access.number}" for name in ends]
        wires += _up(*ends, f"b{access.number}")
    return {who: "\n".join(batch) + "\n" for who, batch in lines.items()}


def wire_filters(plan: Plan) -> str:
    """Return the tc(8) batch for the wires namespace: what enters one end of a wire leaves the other, and the rates."""
    lines: list[str] = []
    for a, b in [
        *((vif.interface.peer, vif.wire) for vif in plan.vifs),
        *((control.peer, control.wire) for control in plan.controls),
        *((f"t{t.number}a", f"t{t.number}b") for t in plan.trunks if not t.is_direct and not t.bridge),
    ]:
        lines += [f"qdisc add dev {a} ingress", f"qdisc add dev {b} ingress", join(a, b), join(b, a)]
    for vif in plan.vifs:
        if vif.rate_mbps:
            lines.append(_rate(vif.wire, vif.rate_mbps))
    for trunk in plan.trunks:
        if trunk.rate_mbps:
            lines += [_rate(f"t{trunk.number}{end}", trunk.rate_mbps) for end in "ab"]
    return "\n".join(lines) + "\n"


def join(source: str, target: str) -> str:
    """Return the tc(8) command that sends every frame which enters `source` out of `target`."""
    return (
        f"filter replace dev {source} parent ffff: handle 800::1 protocol all prio 1 u32 match u32 0 0"
        f" action mirred egress redirect dev {target}"
    )


def cut(source: str) -> str:
    """Return the tc(8) command after which every frame that enters `source` is lost; `join` mends it."""
    return join(source, NOWHERE)


def new_wires(side: Side, holder_pid: int) -> str:
    """Return the ip(8) batch, for the wires namespace, that adds cables to the node whose holder is `holder_pid`."""
    ends = [*((vif.wire, vif.port) for vif in side.vifs), *((link.wire, link.port) for link in side.controls)]
    lines = []
    for wire, port in ends:
        lines.append(f"link add {wire} mtu {WIRE_MTU} type veth peer name {port} netns {holder_pid} mtu {WIRE_MTU}")
        lines += _up(wire)
    return "\n".join(lines) + "\n"


def new_wire_filters(side: Side) -> str:
    """Return the tc(8) batch that makes new cables ready to be joined, and silent until then."""
    lines = []
    for _, wire in side.wires:
        lines += [f"qdisc add dev {wire} ingress", cut(wire)]
    lines += [_rate(vif.wire, vif.rate_mbps) for vif in side.vifs if vif.rate_mbps]
    return "\n".join(lines) + "\n"


def new_ports(side: Side) -> str:
    """Return the ip(8) batch that brings up the ports at the node's end of new cables."""
    lines = [line for vif in side.vifs for line in _up(vif.port)]
    return "\n".join([*lines, *(line for control in side.controls for line in _control_port(control))]) + "\n"


def cut_all(side: Side) -> str:
    """Return the tc(8) batch after which no frame passes between the guest and this side, either way."""
    return "\n".join(cut(end) for wire in side.wires for end in wire) + "\n"


def join_all(side: Side) -> str:
    """Return the tc(8) batch that connects the guest with this side: first what it hears, then what it says."""
    return "\n".join(f"{join(wire, peer)}\n{join(peer, wire)}" for peer, wire in side.wires) + "\n"


def guest_side(plan: Plan, machine: Machine) -> str:
    """Return the ip(8) batch of a guest: interfaces, addresses and routes."""
    lines = [line for interface in machine.interfaces for line in _up(interface.device)]
    if machine.kind is Kind.ROUTER:
        lines += _up(CONTROL_BRIDGE)
    for interface in machine.interfaces:
        lines += [f"address add {text} dev {interface.device}{_nodad(text)}" for text in interface.addresses]
    table = machine.table
    if isinstance(table, HostTable | OutsideTable):
        lines += [f"route add default via {gateway}" for gateway in table.gateways]
    if table is not None:
        lines += routes(table.route)
    return "\n".join(lines) + "\n"


def routes(tables: Iterable[RouteTable]) -> list[str]:
    """Return the ip(8) commands that add static routes; those with one prefix become one of equal cost."""
    hops: dict[str, list[str]] = defaultdict(list)
    for table in tables:
        hops[table.to].append(table.via)
    return [
        f"route add {to} " + (f"via {vias[0]}" if len(vias) == 1 else " ".join(f"nexthop via {via}" for via in vias))
        for to, vias in hops.items()
    ]


def _nodad(address: str) -> str:
    return " nodad" if ipaddress.ip_interface(address).version == 6 else ""


def _up(*devices: str) -> list[str]:
    return [f"link set {device} up" for device in devices]


def _control_port(control: ControlLink) -> list[str]:
    return [
        f"link set {control.port} master {CONTROL_BRIDGE}",
        f"link set {control.port} type bridge_slave isolated on",
        *_up(control.port),
    ]


def _rate(device: str, rate_mbps: float) -> str:
    return f"qdisc add dev {device} root tbf rate {int(rate_mbps * 1e6)}bit burst {BURST_BYTES} latency 100ms"


def _controller(plan: Plan, lines: list[str]) -> None:
    lines += [f"link add mgmt {_PLAIN_BRIDGE}", f"address add {CONTROLLER_ADDRESS}/16 dev mgmt", *_up("mgmt")]
    for node in plan.of_kind(Kind.NODE):
        lines += [f"link set m{node.number} master mgmt", *_up(f"m{node.number}")]


def _node(plan: Plan, node: Machine) -> list[str]:
    return [
        f"address add {plan.management[node.name]}/16 dev mgmt",
        *_up("mgmt"),
        f"link add {CONTROL_BRIDGE} address {CONTROL_MAC} {_PLAIN_BRIDGE}",
        *_up(CONTROL_BRIDGE),
    ]


def _trunk(trunk: Trunk) -> list[str]:
    ends = [f"t{trunk.number}a", f"t{trunk.number}b"]
    lines = _up(*ends)
    if trunk.bridge:
        bridge = f"tb{trunk.number}"
        lines += [f"link add {bridge} mtu {trunk.mtu} {_PLAIN_BRIDGE}", *_up(bridge)]
        lines += [f"link set {end} master {bridge}" for end in ends]
    return lines


def node_script() -> str:
    """Return the shell commands that a node needs after its batch: the settings that follow an interface."""
    return (
        "echo 0 > /proc/sys/net/ipv4/conf/mgmt/arp_ignore\n"
        f"echo 0 > /proc/sys/net/ipv6/conf/{CONTROL_BRIDGE}/disable_ipv6\n"
        f"ip address add {CONTROL_ADDRESS}/64 dev {CONTROL_BRIDGE} nodad\n"
    )

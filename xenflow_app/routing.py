"""What a node does with the packets of a router that it forwards for, as flows (pure; docs/design/pipeline.md).

Place in the flow: FIB, neighbors, addresses -> *flows of the tables link to rewrite* -> FlowTable. Router plans from
facts which of them there are; a route's flow names next hops by id, so that a neighbor's change is no route's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xenflow_app.flowtable import FlowKey, FlowValue, cookie
from xenflow_app.openflow import actions, fields, nxm
from xenflow_app.openflow.decode import entries
from xenflow_app.openflow.fields import whole
from xenflow_app.openflow.nxm import ETH_IP, ETH_IPV6, MatchFields
from xenflow_app.pipeline import (
    CLEAR,
    DROP,
    GROUP,
    HOP,
    INTERFACE,
    LEAVES_BY,
    NETWORK,
    NO_PORT,
    ROUTER,
    TO_MACHINE,
    TOO_BIG,
    Flows,
    Kind,
    Sheet,
    Table,
    goto,
)
from xenflow_app.switching import leave_vif

ROUTE_PRIORITY = 100
"""A route flow's priority is this plus its prefix length."""
BUCKETS = 16
"""Buckets of an ECMP group: weights are rounded to sixteenths."""


def to_router(vid: int, mac: bytes, router: int, interface: int) -> Flows:
    """Return the flow by which frames to a router's MAC enter its routing tables."""
    sheet = Sheet(Kind.LINK, router)
    acts = actions.load(INTERFACE, interface) + actions.load(ROUTER, router) + goto(Table.LOCAL)
    sheet.add(Table.LINK, 100, acts, reg0=vid, dl_dst=mac)
    return sheet.flows


def entrance_key(vid: int, mac: bytes) -> FlowKey:
    """Return the key of the flow by which frames to a router's MAC enter its routing tables."""
    return nxm.flow_key(Table.LINK, 100, reg0=vid, dl_dst=mac)


def entrance(key: FlowKey) -> tuple[int, bytes] | None:
    """Return the VLAN id and the MAC in the key of an entrance; None if it is another flow's."""
    if key[:3] != _ENTRANCE:
        return None
    matched = dict(entries(key[3:]))
    mac = matched.get(fields.ETH_DST)
    return None if mac is None else (int.from_bytes(matched[fields.REG0], "big"), mac)


_ENTRANCE = nxm.flow_key(Table.LINK, 100)[:3]


def to_machine(router: int, interface: int, port: int) -> Flows:
    """Return the flow that hands a packet to the router's VM on one interface: all that depends on the vif's port."""
    sheet = Sheet(Kind.LOCAL, router)
    sheet.add(Table.MACHINE, 100, leave_vif(port), reg1=interface, reg2=router)
    return sheet.flows


def own_address(router: int, address: bytes) -> Flows:
    """Return the flow by which packets to the router itself reach its VM."""
    sheet = Sheet(Kind.LOCAL, router)
    sheet.add(Table.LOCAL, 250, TO_MACHINE, _destination(address), reg2=router)
    return sheet.flows


def _destination(address: bytes) -> MatchFields:
    if len(address) == 4:
        return {"dl_type": ETH_IP, "nw_dst": address}
    return {"dl_type": ETH_IPV6, "ipv6_dst": address}


def route_key(router: int, prefix: bytes) -> FlowKey:
    """Return the key of the one flow of a route; longer prefixes have higher priority."""
    build = nxm.ipv4_route_key if len(prefix) == 5 else nxm.ipv6_route_key
    return build(Table.FIB, ROUTE_PRIORITY, router, prefix[:-1], prefix[-1])


def wildcard(router: int, *, reactive: bool) -> Flows:
    """Return the flow that leaves to the VM what has no flow of its own (paper, section II-D).

    Reactive forwarding has it only while the cap is reached: otherwise the controller decides.
    """
    sheet = Sheet(Kind.WILDCARD, router)
    sheet.add(Table.EXACT if reactive else Table.FIB, 1, TO_MACHINE, reg2=router)
    return sheet.flows


def via_hop(router: int, hop: int) -> FlowValue:
    """Return the value of a route flow through one next hop."""
    return actions.value(cookie(Kind.ROUTE, router), actions.load(HOP, hop) + goto(Table.NEIGHBOR))


def via_link(router: int, interface: int) -> FlowValue:
    """Return the value of a route flow to a connected prefix: the destination itself is the neighbor."""
    return actions.value(cookie(Kind.ROUTE, router), actions.load(LEAVES_BY, interface) + goto(Table.ONLINK))


def via_group(router: int, number: int) -> FlowValue:
    """Return the value of a route flow through an ECMP group."""
    return actions.value(cookie(Kind.ROUTE, router), actions.load(GROUP, number) + goto(Table.ECMP))


def via_machine(router: int) -> FlowValue:
    """Return the value of a route flow that leaves the packet to the VM (slow path)."""
    return actions.value(cookie(Kind.ROUTE, router), TO_MACHINE)


def via_nothing(router: int) -> FlowValue:
    """Return the value of a blackhole's flow."""
    return actions.value(cookie(Kind.ROUTE, router), DROP)


@dataclass(frozen=True, slots=True)
class Packet:
    """What an exact flow matches: where a packet came in, its addresses (packed), and its DSCP (upper 6 bits of TOS).

    No layer 4: the fragments of a datagram must take one way.
    """

    port: int
    vid: int
    dl_src: bytes
    dl_dst: bytes
    source: bytes
    destination: bytes
    tos: int


def exact(router: int, packet: Packet, route: FlowValue, idle_timeout_s: int) -> tuple[FlowKey, FlowValue]:
    """Return the exact flow of a packet (paper, section II-A): it does what the route's flow would do."""
    matched: MatchFields = {"in_port": packet.port, "reg0": packet.vid, "reg2": router, "nw_tos": packet.tos}
    matched |= {"dl_src": packet.dl_src, "dl_dst": packet.dl_dst}
    if len(packet.source) == 4:
        matched |= {"dl_type": ETH_IP, "nw_src": packet.source, "nw_dst": packet.destination}
    else:
        matched |= {"dl_type": ETH_IPV6, "ipv6_src": packet.source, "ipv6_dst": packet.destination}
    acts = route[actions.VALUE_HEAD.size :]
    return nxm.flow_key(Table.EXACT, 100, **matched), actions.value(cookie(Kind.EXACT, router), acts, idle_timeout_s)


def resume(regs: Sequence[int], port: int) -> bytes:
    """Return the actions that put a packet from the controller back into the state in which it left the pipeline."""
    acts = b"".join(actions.load(register, regs[place]) for place, register in enumerate((NETWORK, INTERFACE, ROUTER)))
    return acts if port else acts + actions.load(whole(fields.IN_PORT), NO_PORT)


def group(router: int, number: int, buckets: Sequence[int]) -> Flows:
    """Return an ECMP group: a hash of source and destination address picks one of the buckets, each a next hop id."""
    sheet = Sheet(Kind.GROUP, router)
    pick = actions.multipath(len(buckets), HOP, basis=50) + goto(Table.BUCKET)
    sheet.add(Table.ECMP, 100, pick, reg2=router, reg6=number)
    for bucket, hop in enumerate(buckets):
        acts = actions.load(HOP, hop) + goto(Table.NEIGHBOR)
        sheet.add(Table.BUCKET, 100, acts, reg2=router, reg3=bucket, reg6=number)
    return sheet.flows


@dataclass(frozen=True, slots=True)
class Adjacency:
    """A resolved neighbor as the pipeline needs it: the way out and the addresses that frames get.

    `mtu` is the egress interface's in bytes; `vid` its network's; `source` its MAC, `destination` the neighbor's.
    """

    interface: int
    address: bytes
    mtu: int
    vid: int
    source: bytes
    destination: bytes


def neighbor(router: int, hop: int, to: Adjacency) -> Flows:
    """Return the flows of a neighbor: size check, rewrite, and the neighbor itself as a destination on the link.

    Its tag is taken off before, since the kernel's datapath does not count it, and the one in userspace does: an
    Ethernet frame without a tag is 14 bytes longer than its packet.
    """
    sheet = Sheet(Kind.HOP, router)
    rewrite = (
        actions.set_dl_src(to.source)
        + actions.set_dl_dst(to.destination)
        + actions.set_vlan_vid(to.vid)
        + actions.dec_ttl()
        + actions.load(NETWORK, to.vid)
        + CLEAR
        + goto(Table.CLASS)
    )
    sheet.add(Table.REWRITE, 100, rewrite, reg2=router, reg3=hop)
    size = actions.strip_vlan() + actions.check_pkt_larger(to.mtu + 14, TOO_BIG)
    sheet.add(Table.NEIGHBOR, 100, size + goto(Table.REWRITE), reg2=router, reg3=hop)
    chosen = actions.load(HOP, hop) + goto(Table.NEIGHBOR)
    sheet.add(Table.ONLINK, 100, chosen, _destination(to.address), reg2=router, reg4=to.interface)
    return sheet.flows

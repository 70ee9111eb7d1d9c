"""The pipeline: which flow follows from which decision (pure; docs/design/pipeline.md draws it).

Place in the flow: facts -> FIB -> *flows as bytes* -> FlowTable. Each function returns the flows of one key, so that
one change replans one key. Nothing here keeps state.

    admission -> (learn) -> request -> class -> link -> local -> fib -> on-link / ecmp -> neighbor -> rewrite -> class
                               |                 |       |                                  |
                             answer              |       +---------- machine (slow path) <--+
                               |                 |
                               +-> (advertise) --+-> queue -> egress -> gate -> flood
                                                                 +-> return (answers)

Registers: 0 VLAN id of the network that the packet is in, 1 number of the router's interface it came to, 2 router id,
3 next hop id, 4 number of the interface it leaves by, 5 "too big" (one bit), 6 ECMP group id, 7 "from an edge", and
"answered" (one bit each).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Unpack

from xenflow.model import ANNOUNCEMENT_MAC
from xenflow_app.flowtable import FABRIC, FlowKey, FlowValue, Owner, cookie
from xenflow_app.openflow import actions, fields, nxm
from xenflow_app.openflow.decode import entries
from xenflow_app.openflow.fields import Subfield, whole
from xenflow_app.openflow.nxm import ETH_IP, ETH_IPV6, ICMP6, MatchFields

Flows = dict[FlowKey, FlowValue]

PROBE_MAC = bytes.fromhex("035846000001")
"""Destination of link probes: a locally administered multicast address, which ordinary bridges flood."""
RESERVED_PRIORITY = 65000
"""Of the flows in ADMISSION that drop what misuses the announcement's address."""
ROUTE_PRIORITY = 100
"""A route flow's priority is this plus its prefix length."""
PROBE_TYPE = 0x88B5
"""EtherType of link probes (IEEE 802, local experimental 1)."""

VLAN_PRESENT = 0x1000
VLAN_VID = 0x0FFF
LEARN_SLOTS_BITS = 6
"""Low bits of the source MAC that tell learning slots apart: at most 64 packet-ins per port and second."""
BUCKETS = 16
"""Buckets of an ECMP group: weights are rounded to sixteenths."""
NO_PORT = 0
"""The input port of a packet that was routed on this node: no port, so that it may leave by any."""

NETWORK, INTERFACE, ROUTER, HOP, LEAVES_BY, _SIZE, GROUP, _EDGE = (whole(register) for register in fields.REGISTERS)
TOO_BIG = Subfield(_SIZE.header, 0, 1)
FROM_EDGE = Subfield(_EDGE.header, 0, 1)
ANSWERED = Subfield(_EDGE.header, 1, 1)


class Table(IntEnum):
    """Table numbers; a packet only goes to higher ones, but for the ways back to LINK."""

    ADMISSION = 0
    LEARN = 5
    LEARN_LIMIT = 6
    REQUEST = 7
    ANSWER = 8
    CLASS = 9
    LINK = 10
    LOCAL = 20
    MACHINE = 25
    EXACT = 28
    FIB = 30
    ONLINK = 32
    ECMP = 35
    BUCKET = 36
    NEIGHBOR = 40
    REWRITE = 45
    ADVERTISE = 46
    QUEUE = 48
    EGRESS = 50
    RETURN = 52
    GATE = 59
    FLOOD = 60


class Kind(IntEnum):
    """What a flow is for; part of its cookie."""

    STATIC = 1
    ADMISSION = 2
    LINK = 3
    LOCAL = 4
    ROUTE = 5
    HOP = 6
    GROUP = 7
    EGRESS = 8
    TREE = 9
    LEARNED = 10
    EXACT = 11
    LIMIT = 12
    WILDCARD = 13
    ANSWER = 14
    CLASS = 15
    QUEUE = 16


class Sheet:
    """Flows of one kind and owner while they are written down."""

    def __init__(self, kind: Kind, owner: Owner) -> None:
        self.flows: Flows = {}
        self._cookie = cookie(kind, owner)

    def add(
        self,
        table: Table,
        priority: int,
        acts: bytes,
        within: MatchFields | None = None,
        **matched: Unpack[MatchFields],
    ) -> None:
        """Write a flow down; `within` holds fields that several flows share."""
        if within:
            matched.update(within)
        self.flows[nxm.flow_key(table, priority, **matched)] = actions.value(self._cookie, acts)


def goto(table: Table) -> bytes:
    """Return the action that continues in `table`."""
    return actions.resubmit(table)


_TO_MACHINE = goto(Table.MACHINE)
FROM_PORT = goto(Table.REQUEST)
"""Where a frame goes on that a vif or an access port sent."""
_DROP = b""


# -- what every node has ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def static(*, reactive: bool) -> Flows:
    """Return the flows that depend on nothing but the mode."""
    sheet = Sheet(Kind.STATIC, FABRIC)
    admission, group_bit = Table.ADMISSION, (b"\x01" + bytes(5), b"\x01" + bytes(5))
    sheet.add(admission, RESERVED_PRIORITY, _DROP, dl_dst=ANNOUNCEMENT_MAC)
    sheet.add(admission, RESERVED_PRIORITY, _DROP, dl_src=ANNOUNCEMENT_MAC)
    sheet.add(admission, 64900, _DROP, dl_src=group_bit)
    sheet.add(admission, 64500, _DROP, dl_dst=PROBE_MAC)
    sheet.add(admission, 64500, _DROP, dl_dst=(bytes.fromhex("0180c2000000"), bytes.fromhex("fffffffffff0")))
    sheet.add(admission, 0, _DROP)
    sheet.add(Table.LEARN, 0, goto(Table.LEARN_LIMIT) + FROM_PORT)
    sheet.add(Table.LEARN_LIMIT, 0, _learn_limit())
    sheet.add(Table.LINK, 0, goto(Table.QUEUE))
    _static_local(sheet, Table.EXACT if reactive else Table.FIB)
    for table in (Table.FIB, Table.ONLINK, Table.ECMP, Table.BUCKET, Table.NEIGHBOR):
        sheet.add(table, 0, _TO_MACHINE)
    sheet.add(Table.REWRITE, 200, _TO_MACHINE, reg5=(1, 1))
    sheet.add(Table.QUEUE, 0, goto(Table.EGRESS))
    sheet.add(Table.EGRESS, 0, goto(Table.GATE))
    if reactive:
        sheet.add(Table.EXACT, 0, actions.controller(reason=actions.Reason.NO_MATCH))
    return sheet.flows


def _learn_limit() -> bytes:
    """Report an unknown source, then stay silent for a second about sources in the same slot of that port."""
    slot = (whole(fields.IN_PORT), Subfield(fields.ETH_SRC, 0, LEARN_SLOTS_BITS))
    silence = actions.learn_drop(Table.LEARN_LIMIT, 100, 1, cookie(Kind.LIMIT, FABRIC), slot)
    return silence + actions.controller(64, actions.Reason.NO_MATCH)


def _static_local(sheet: Sheet, routing: Table) -> None:
    """What a router's own kernel must see, whatever its routes are; all else that is IP goes to `routing`."""
    for ttl in (0, 1):
        sheet.add(Table.LOCAL, 300, _TO_MACHINE, dl_type=ETH_IP, nw_ttl=ttl)
        sheet.add(Table.LOCAL, 300, _TO_MACHINE, dl_type=ETH_IPV6, nw_ttl=ttl)
    for protocol in (IGMP, RSVP):
        sheet.add(Table.LOCAL, 300, _TO_MACHINE, dl_type=ETH_IP, nw_proto=protocol)
    sheet.add(Table.LOCAL, 300, _TO_MACHINE, dl_type=ETH_IPV6, nw_proto=RSVP)
    for listener in MLD:
        sheet.add(Table.LOCAL, 300, _TO_MACHINE, dl_type=ETH_IPV6, nw_proto=ICMP6, icmp6_type=listener)
    for prefix in (*_SPECIAL_V4, (bytes([240, 0, 0, 0]), 4)):
        sheet.add(Table.LOCAL, 300, _TO_MACHINE, dl_type=ETH_IP, nw_dst=prefix)
    for prefix in _SPECIAL_V4:
        sheet.add(Table.LOCAL, 300, _TO_MACHINE, dl_type=ETH_IP, nw_src=prefix)
    for prefix in _SPECIAL_V6:
        sheet.add(Table.LOCAL, 300, _TO_MACHINE, dl_type=ETH_IPV6, ipv6_dst=prefix)
        sheet.add(Table.LOCAL, 300, _TO_MACHINE, dl_type=ETH_IPV6, ipv6_src=prefix)
    sheet.add(Table.LOCAL, 100, goto(routing), dl_type=ETH_IP)
    sheet.add(Table.LOCAL, 100, goto(routing), dl_type=ETH_IPV6)
    sheet.add(Table.LOCAL, 0, _TO_MACHINE)


IGMP, RSVP = 2, 46
MLD = (130, 131, 132, 143)
"""ICMPv6 types of multicast listener discovery (RFC 2710, RFC 3810)."""
_SPECIAL_V4 = ((bytes([127, 0, 0, 0]), 8), (bytes([224, 0, 0, 0]), 4), (bytes(4), 8))
"""Loopback, multicast, "this network" (RFC 1122, section 3.2.1.3): never forwarded by a router."""
_SPECIAL_V6 = ((bytes.fromhex("fe80") + bytes(14), 10), (b"\xff" + bytes(15), 8), (bytes(16), 127))
"""Link-local, multicast, unspecified and loopback (RFC 4291, section 2.5): never forwarded by a router."""


# -- a router ---------------------------------------------------------------------------------------------------------


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
    sheet.add(Table.LOCAL, 250, _TO_MACHINE, _destination(address), reg2=router)
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
    sheet.add(Table.EXACT if reactive else Table.FIB, 1, _TO_MACHINE, reg2=router)
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
    return actions.value(cookie(Kind.ROUTE, router), _TO_MACHINE)


def via_nothing(router: int) -> FlowValue:
    """Return the value of a blackhole's flow."""
    return actions.value(cookie(Kind.ROUTE, router), _DROP)


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

    A tagged Ethernet frame is 18 bytes longer than its packet.
    """
    sheet = Sheet(Kind.HOP, router)
    rewrite = (
        actions.set_dl_src(to.source)
        + actions.set_dl_dst(to.destination)
        + actions.set_vlan_vid(to.vid)
        + actions.dec_ttl()
        + actions.load(NETWORK, to.vid)
        + _CLEAR
        + goto(Table.CLASS)
    )
    sheet.add(Table.REWRITE, 100, rewrite, reg2=router, reg3=hop)
    fits = actions.check_pkt_larger(to.mtu + 18, TOO_BIG) + goto(Table.REWRITE)
    sheet.add(Table.NEIGHBOR, 100, fits, reg2=router, reg3=hop)
    chosen = actions.load(HOP, hop) + goto(Table.NEIGHBOR)
    sheet.add(Table.ONLINK, 100, chosen, _destination(to.address), reg2=router, reg4=to.interface)
    return sheet.flows


_CLEAR = b"".join(actions.load(register, 0) for register in (INTERFACE, ROUTER, HOP, LEAVES_BY, _SIZE, GROUP, _EDGE))
_CLEAR += actions.load(whole(fields.IN_PORT), NO_PORT)


# -- links ------------------------------------------------------------------------------------------------------------


def leave_trunk(port: int) -> bytes:
    """Return the actions that send a frame to another node, with its tag."""
    return actions.output(port)


def leave_vif(port: int) -> bytes:
    """Return the actions that deliver a frame to a VM, without a tag."""
    return actions.strip_vlan() + actions.output(port)


def leave_access(port: int, wire: int) -> bytes:
    """Return the actions that deliver a frame to the outside, with the tag of that wire (0: none)."""
    return (actions.set_vlan_vid(wire) if wire else actions.strip_vlan()) + actions.output(port)


def egress(vid: int, mac: bytes, leave: bytes) -> Flows:
    """Return the flow that sends frames to a known MAC on their way."""
    sheet = Sheet(Kind.EGRESS, FABRIC)
    sheet.add(Table.EGRESS, 100, leave, reg0=vid, dl_dst=mac)
    return sheet.flows


def egress_port(value: FlowValue) -> int:
    """Return the port by which such a flow sends frames on their way."""
    return actions.last_output(value[actions.VALUE_HEAD.size :])


def gate_key(vid: int, port: int) -> FlowKey:
    """Return the key of the flow that lets frames from `port` into the network's tree."""
    return nxm.flow_key(Table.GATE, 100, in_port=port, reg0=vid)


def gate_network(key: FlowKey) -> int:
    """Return the VLAN id in the key of a gate flow."""
    return int.from_bytes(dict(entries(key[3:]))[fields.REG0], "big")


def gate(vid: int, port: int) -> Flows:
    """Return the flow that lets frames from `port` (NO_PORT: routed on this node) into the network's tree."""
    return {gate_key(vid, port): actions.value(cookie(Kind.TREE, FABRIC), goto(Table.FLOOD))}


def flood(vid: int, trunks: Iterable[int], accesses: Sequence[tuple[int, int]], vifs: Iterable[int]) -> Flows:
    """Return the flow that floods a network: tree trunks, access ports (port, id on the wire), vifs.

    The port that a frame came from is left out by the switch itself.
    """
    sheet = Sheet(Kind.TREE, FABRIC)
    retagged = sorted((port, wire) for port, wire in accesses if wire)
    bare = sorted([*vifs, *(port for port, wire in accesses if not wire)])
    acts = b"".join(actions.output(port) for port in sorted(trunks))
    acts += b"".join(leave_access(port, wire) for port, wire in retagged)
    acts += actions.strip_vlan() + b"".join(actions.output(port) for port in bare) if bare else b""
    sheet.add(Table.FLOOD, 100, acts, reg0=vid)
    return sheet.flows

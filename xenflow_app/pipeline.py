"""The pipeline: its tables, registers and kinds of flows, and what every node has (pure; docs/design/pipeline.md).

Place in the flow: facts -> FIB -> *flows as bytes* -> FlowTable. The flows of the tables are built by edges.py
(admission, learn), answering.py, classes.py, routing.py (link to rewrite) and switching.py (egress to flood), all of
them from what is here. Each function there returns the flows of one key, so that one change replans one key.

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

from enum import IntEnum
from functools import lru_cache
from typing import Unpack

from xenflow.model import ANNOUNCEMENT_MAC
from xenflow_app.flowtable import FABRIC, FlowKey, FlowValue, Owner, cookie
from xenflow_app.openflow import actions, fields, nxm
from xenflow_app.openflow.fields import Subfield, whole
from xenflow_app.openflow.nxm import ETH_IP, ETH_IPV6, ICMP6, MatchFields

Flows = dict[FlowKey, FlowValue]

PROBE_MAC = bytes.fromhex("035846000001")
"""Destination of link probes: a locally administered multicast address, which ordinary bridges flood."""
RESERVED_PRIORITY = 65000
"""Of the flows in ADMISSION that drop what misuses the announcement's address."""
PROBE_TYPE = 0x88B5
"""EtherType of link probes (IEEE 802, local experimental 1)."""

VLAN_PRESENT = 0x1000
VLAN_VID = 0x0FFF
LEARN_SLOTS_BITS = 6
"""Low bits of the source MAC that tell learning slots apart: at most 64 packet-ins per port and second."""
NO_PORT = 0
"""The input port of a packet that was routed on this node: no port, so that it may leave by any."""

NETWORK, INTERFACE, ROUTER, HOP, LEAVES_BY, _SIZE, GROUP, _EDGE = (whole(register) for register in fields.REGISTERS)
TOO_BIG = Subfield(_SIZE.header, 0, 1)
FROM_EDGE = Subfield(_EDGE.header, 0, 1)
ANSWERED = Subfield(_EDGE.header, 1, 1)
_VID_OF_NETWORK = Subfield(NETWORK.header, 0, 12)
_VID, _IS_TAGGED = Subfield(fields.VLAN_TCI, 0, 12), Subfield(fields.VLAN_TCI, 12, 1)


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


TO_MACHINE = goto(Table.MACHINE)
"""The slow path: the router's VM decides."""
FROM_PORT = goto(Table.REQUEST)
"""Where a frame goes on that a vif or an access port sent."""
DROP = b""
CLEAR = b"".join(actions.load(register, 0) for register in (INTERFACE, ROUTER, HOP, LEAVES_BY, _SIZE, GROUP, _EDGE))
CLEAR += actions.load(whole(fields.IN_PORT), NO_PORT)
"""Forget what was noted of a packet, but for its network: it has been routed."""


# -- what every node has ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def static(*, reactive: bool) -> Flows:
    """Return the flows that depend on nothing but the mode."""
    sheet = Sheet(Kind.STATIC, FABRIC)
    admission, group_bit = Table.ADMISSION, (b"\x01" + bytes(5), b"\x01" + bytes(5))
    sheet.add(admission, RESERVED_PRIORITY, DROP, dl_dst=ANNOUNCEMENT_MAC)
    sheet.add(admission, RESERVED_PRIORITY, DROP, dl_src=ANNOUNCEMENT_MAC)
    sheet.add(admission, 64900, DROP, dl_src=group_bit)
    sheet.add(admission, 64500, DROP, dl_dst=PROBE_MAC)
    sheet.add(admission, 64500, DROP, dl_dst=(bytes.fromhex("0180c2000000"), bytes.fromhex("fffffffffff0")))
    sheet.add(admission, 0, DROP)
    sheet.add(Table.LEARN, 0, goto(Table.LEARN_LIMIT) + FROM_PORT)
    sheet.add(Table.LEARN_LIMIT, 0, _learn_limit())
    sheet.add(Table.LINK, 0, goto(Table.QUEUE))
    _static_local(sheet, Table.EXACT if reactive else Table.FIB)
    for table in (Table.FIB, Table.ONLINK, Table.ECMP, Table.BUCKET, Table.NEIGHBOR):
        sheet.add(table, 0, TO_MACHINE)
    tagged = actions.move(_VID_OF_NETWORK, _VID) + actions.load(_IS_TAGGED, 1)
    sheet.add(Table.REWRITE, 200, tagged + TO_MACHINE, reg5=(1, 1))
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
        sheet.add(Table.LOCAL, 300, TO_MACHINE, dl_type=ETH_IP, nw_ttl=ttl)
        sheet.add(Table.LOCAL, 300, TO_MACHINE, dl_type=ETH_IPV6, nw_ttl=ttl)
    for protocol in (IGMP, RSVP):
        sheet.add(Table.LOCAL, 300, TO_MACHINE, dl_type=ETH_IP, nw_proto=protocol)
    sheet.add(Table.LOCAL, 300, TO_MACHINE, dl_type=ETH_IPV6, nw_proto=RSVP)
    for listener in MLD:
        sheet.add(Table.LOCAL, 300, TO_MACHINE, dl_type=ETH_IPV6, nw_proto=ICMP6, icmp6_type=listener)
    for prefix in (*_SPECIAL_V4, (bytes([240, 0, 0, 0]), 4)):
        sheet.add(Table.LOCAL, 300, TO_MACHINE, dl_type=ETH_IP, nw_dst=prefix)
    for prefix in _SPECIAL_V4:
        sheet.add(Table.LOCAL, 300, TO_MACHINE, dl_type=ETH_IP, nw_src=prefix)
    for prefix in _SPECIAL_V6:
        sheet.add(Table.LOCAL, 300, TO_MACHINE, dl_type=ETH_IPV6, ipv6_dst=prefix)
        sheet.add(Table.LOCAL, 300, TO_MACHINE, dl_type=ETH_IPV6, ipv6_src=prefix)
    sheet.add(Table.LOCAL, 100, goto(routing), dl_type=ETH_IP)
    sheet.add(Table.LOCAL, 100, goto(routing), dl_type=ETH_IPV6)
    sheet.add(Table.LOCAL, 0, TO_MACHINE)


IGMP, RSVP = 2, 46
MLD = (130, 131, 132, 143)
"""ICMPv6 types of multicast listener discovery (RFC 2710, RFC 3810)."""
_SPECIAL_V4 = ((bytes([127, 0, 0, 0]), 8), (bytes([224, 0, 0, 0]), 4), (bytes(4), 8))
"""Loopback, multicast, "this network" (RFC 1122, section 3.2.1.3): never forwarded by a router."""
_SPECIAL_V6 = ((bytes.fromhex("fe80") + bytes(14), 10), (b"\xff" + bytes(15), 8), (bytes(16), 127))
"""Link-local, multicast, unspecified and loopback (RFC 4291, section 2.5): never forwarded by a router."""

"""Which class a packet is in, and which queue that is on a node, as flows (pure; docs/design/qos.md).

Place in the flow: what is hired -> *flows of the tables class and queue* -> FlowTable.

    edge, rewrite -> class: the class becomes the tag's priority code point -> link -> ... -> queue: set_queue -> egress

A packet is classed where it enters and where it is routed; a trunk's frames carry their class. What comes from outside
does not choose: class sets the code point of every packet that it sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from xenflow.bandwidth import CONTROL_CLASS, DEFAULT_CLASS, LENGTH, Match
from xenflow_app import rules
from xenflow_app.flowtable import FABRIC, FlowKey, FlowValue, Owner, kind_of, owner_of
from xenflow_app.openflow import actions
from xenflow_app.openflow.nxm import ETH_ARP, ETH_IP, ETH_IPV6, ICMP, ICMP6, TCP, UDP, MatchFields
from xenflow_app.pipeline import IGMP, MLD, RSVP, VLAN_PRESENT, Flows, Kind, Sheet, Table, goto

CLASSES = 8
"""Classes of one owner: as many as there are priority code points."""
_PROTOCOLS = (IGMP, RSVP, 88, 89, 103, 112)
"""IP protocols of routers: IGMP, RSVP, EIGRP, OSPF, PIM, VRRP."""
_BGP = 179
_DATAGRAMS = (520, 521, 646, 3784, 3785, 4784)
"""UDP ports: RIP, RIPng, LDP, BFD (RFC 5881, RFC 5883)."""
_DISCOVERY = (133, 134, 135, 136, 137)
_NO_FRAGMENT = (0, 3)
_PCP_SHIFT = 13
_OF_ROUTER, _OF_NETWORK = 110, 50
"""Priorities of default classes in the table queue; those of other classes are larger by 10."""


def queue_id(slot: int, number: int) -> int:
    """Return the queue id of a class of the owner in `slot` (from 1): the same on each port of each node."""
    return slot * CLASSES + number


def _mark(number: int) -> bytes:
    return actions.set_vlan_pcp(number) + goto(Table.LINK)


def static() -> Flows:
    """Return the flows that every node has: control traffic where it enters; all else is in the default class.

    A routed packet is no control traffic: it passes the router, and must not use up what keeps its adjacencies.
    """
    sheet = Sheet(Kind.CLASS, FABRIC)
    for matched in _control():
        sheet.add(Table.CLASS, 60000, _mark(CONTROL_CLASS), matched, reg7=(1, 1))
    sheet.add(Table.CLASS, 0, _mark(DEFAULT_CLASS))
    return sheet.flows


def _control() -> Iterator[MatchFields]:
    yield {"dl_type": ETH_ARP}
    yield {"dl_type": LENGTH}  # IS-IS
    for kind in (*_DISCOVERY, *MLD):
        yield {"dl_type": ETH_IPV6, "nw_proto": ICMP6, "icmp6_type": kind}
    for family in (ETH_IP, ETH_IPV6):
        for protocol in _PROTOCOLS:
            yield {"dl_type": family, "nw_proto": protocol}
        yield {"dl_type": family, "nw_proto": TCP, "tcp_src": _BGP}
        yield {"dl_type": family, "nw_proto": TCP, "tcp_dst": _BGP}
        for port in _DATAGRAMS:
            yield {"dl_type": family, "nw_proto": UDP, "udp_dst": port}


CONTROL_MATCHES = (
    Match(ethertype=ETH_ARP),
    Match(ethertype=LENGTH),
    Match(protocol=ICMP6, icmp6_types=(_DISCOVERY[0], _DISCOVERY[-1])),
    *(Match(protocol=protocol) for protocol in _PROTOCOLS),
    Match(protocol=TCP, source_ports=(_BGP, _BGP)),
    Match(protocol=TCP, destination_ports=(_BGP, _BGP)),
    *(Match(protocol=UDP, destination_ports=(port, port)) for port in _DATAGRAMS),
)
"""The same for ports whose frames carry no tag, where routed packets count as well; MLD has an extension header, and
does not."""


def classed(vid: int, mac: bytes, router: Owner, number: int, match: Match) -> Flows:
    """Return the flows that put a router's packets into one of its classes; a lower number goes first."""
    sheet = Sheet(Kind.CLASS, router)
    for matched in _expand(match):
        sheet.add(Table.CLASS, 30000 - number, _mark(number), matched, reg0=vid, dl_src=mac)
    return sheet.flows


def _expand(match: Match) -> Iterator[MatchFields]:
    """Yield a match for each address family and each block of ports."""
    prefix = match.source or match.destination
    for family, length, foreign in ((ETH_IP, 5, ICMP6), (ETH_IPV6, 17, ICMP)):
        if (prefix and len(prefix) != length) or match.protocol == foreign:
            continue
        matched: MatchFields = {"dl_type": family}
        if match.dscp >= 0:
            matched["nw_tos"] = match.dscp << 2
        if match.protocol >= 0:
            matched["nw_proto"] = match.protocol
        _between(matched, match, family)
        yield from _with_ports(matched, match)


def _between(matched: MatchFields, match: Match, family: int) -> None:
    source, destination = (
        (prefix[:-1], prefix[-1]) if prefix and prefix[-1] else None for prefix in (match.source, match.destination)
    )
    if family == ETH_IP:
        if source:
            matched["nw_src"] = source
        if destination:
            matched["nw_dst"] = destination
    else:
        if source:
            matched["ipv6_src"] = source
        if destination:
            matched["ipv6_dst"] = destination


def _with_ports(matched: MatchFields, match: Match) -> Iterator[MatchFields]:
    """Ports are those of whole datagrams only: all fragments of one must take one queue."""
    if not match.needs_ports:
        yield matched
        return
    whole: MatchFields = matched | {"ip_frag": _NO_FRAGMENT}
    for source in blocks(*(match.source_ports or (0, 65535))):
        for destination in blocks(*(match.destination_ports or (0, 65535))):
            if match.protocol == TCP:
                yield whole | {"tcp_src": source, "tcp_dst": destination}
            else:
                yield whole | {"udp_src": source, "udp_dst": destination}


def blocks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the fewest (value, mask) of 16 bits that cover first to last, both included."""
    while first <= last:
        size = first & -first or 1 << 16
        while size > last - first + 1:
            size >>= 1
        yield first, 0x10000 - size
        first += size


def is_default(key: FlowKey) -> bool:
    """Tell whether a flow gives an owner's default class its queue: only who is admitted has that."""
    return key[0] == Table.QUEUE and int.from_bytes(key[1:3], "big") in (_OF_ROUTER, _OF_NETWORK)


def slot_of(flows: Mapping[FlowKey, FlowValue], vid: int, mac: bytes, owner: Owner) -> int:
    """Return the slot that flows of a switch give an owner, as its control class has it; 0 if they give none."""
    (key,) = queued(vid, mac, owner, 0, (CONTROL_CLASS,))
    value = flows.get(key)
    if value is None or kind_of(value) != Kind.QUEUE or owner_of(value) != owner:
        return 0
    return next((action.queue // CLASSES for action in rules.actions(value) if isinstance(action, rules.SetQueue)), 0)


def queued(vid: int, mac: bytes, owner: Owner, slot: int, numbers: Iterable[int]) -> Flows:
    """Return the flows that give an owner's frames their queues on a node; without a MAC: the network's own.

    `numbers` are the classes that have a queue. The default class takes whatever has no queue of its own.
    """
    sheet = Sheet(Kind.QUEUE, owner)
    base = _OF_ROUTER if mac else _OF_NETWORK
    frame: MatchFields = {"reg0": vid, "dl_src": mac} if mac else {"reg0": vid}
    for number in numbers:
        acts = actions.set_queue(queue_id(slot, number)) + goto(Table.EGRESS)
        if number == DEFAULT_CLASS:
            sheet.add(Table.QUEUE, base, acts, frame)
        else:
            tci = (VLAN_PRESENT | number << _PCP_SHIFT, VLAN_PRESENT | 7 << _PCP_SHIFT)
            sheet.add(Table.QUEUE, base + 10, acts, frame, vlan_tci=tci)
    return sheet.flows

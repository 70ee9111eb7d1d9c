"""What may enter at the ports of a node, as flows (pure; docs/design/pipeline.md).

Place in the flow: ports, machines, networks -> *flows of the tables admission and learn* -> FlowTable. A vif says who
it is, a trunk's frames carry the tag of a network that exists, an access port's wire is a network; nothing else enters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from xenflow.model import ANNOUNCEMENT_MAC
from xenflow_app.flowtable import FABRIC, Owner, cookie
from xenflow_app.openflow import actions, nxm
from xenflow_app.openflow.nxm import ETH_ARP, ETH_IP, ETH_IPV6, ETH_QINQ, ETH_VLAN, ICMP6, UDP, MatchFields
from xenflow_app.pipeline import (
    DROP,
    FROM_PORT,
    NETWORK,
    PROBE_MAC,
    PROBE_TYPE,
    VLAN_PRESENT,
    VLAN_VID,
    Flows,
    Kind,
    Sheet,
    Table,
    goto,
)


def _enter(vid: int, then: bytes) -> bytes:
    """Note the network, tag the frame with it, go on."""
    return actions.load(NETWORK, vid) + actions.set_vlan_vid(vid) + then


def admit_vif(port: int, vid: int, mac: bytes, addresses: Sequence[bytes], owner: Owner, *, router: bool) -> Flows:
    """Return what a vif may send: untagged, from its MAC, claiming its addresses (packed) in ARP and ND.

    A router may send packets from any IP source (it forwards); a host only from its addresses.
    """
    sheet = Sheet(Kind.ADMISSION, owner)
    enter = _enter(vid, FROM_PORT)
    v4 = [address for address in addresses if len(address) == 4]
    v6 = [address for address in addresses if len(address) == 16]
    frame: MatchFields = {"in_port": port, "dl_src": mac}
    sheet.add(Table.ADMISSION, 60000, DROP, in_port=port, vlan_tci=(VLAN_PRESENT, VLAN_PRESENT))
    for address in (*v4, bytes(4)):
        sheet.add(Table.ADMISSION, 50000, enter, frame, dl_type=ETH_ARP, arp_sha=mac, arp_spa=address)
    sheet.add(Table.ADMISSION, 45000, DROP, in_port=port, dl_type=ETH_ARP)
    _admit_discovery(sheet, port, mac, v6, enter, router=router)
    if router:
        sheet.add(Table.ADMISSION, 30000, enter, frame)
        return sheet.flows
    for address in v4:
        sheet.add(Table.ADMISSION, 30000, enter, frame, dl_type=ETH_IP, nw_src=address)
    sheet.add(Table.ADMISSION, 30000, enter, frame, dl_type=ETH_IP, nw_src=bytes(4), nw_proto=UDP)
    for address in v6:
        sheet.add(Table.ADMISSION, 30000, enter, frame, dl_type=ETH_IPV6, ipv6_src=address)
    return sheet.flows


def _admit_discovery(
    sheet: Sheet, port: int, mac: bytes, addresses: Sequence[bytes], enter: bytes, *, router: bool
) -> None:
    """Neighbor discovery (RFC 4861): a sender may bind only its own addresses, and only to its own MAC."""
    nobody, no_option = bytes(16), bytes(6)
    frame: MatchFields = {"in_port": port, "dl_src": mac, "dl_type": ETH_IPV6, "nw_proto": ICMP6}
    table = Table.ADMISSION
    for kind in (133, 143):
        sheet.add(table, 50000, enter, frame, icmp6_type=kind, ipv6_src=nobody)
    sheet.add(table, 50000, enter, frame, icmp6_type=135, ipv6_src=nobody, nd_sll=no_option)
    for address in addresses:
        for option in (mac, no_option):
            sheet.add(table, 50000, enter, frame, icmp6_type=135, ipv6_src=address, nd_sll=option)
            sheet.add(table, 50000, enter, frame, icmp6_type=136, nd_target=address, nd_tll=option)
        for kind in (133, 134, 137) if router else (133,):
            sheet.add(table, 50000, enter, frame, icmp6_type=kind, ipv6_src=address)
    for kind in (133, 134, 135, 136, 137):
        sheet.add(table, 45000, DROP, in_port=port, dl_type=ETH_IPV6, nw_proto=ICMP6, icmp6_type=kind)


def admit_announcement(port: int, mac: bytes, owner: Owner) -> Flows:
    """Return the flow that takes the announcement from the vif where it is expected, before everything else."""
    sheet = Sheet(Kind.ADMISSION, owner)
    frame: MatchFields = {"in_port": port, "dl_src": mac, "dl_dst": ANNOUNCEMENT_MAC, "vlan_tci": (0, VLAN_PRESENT)}
    sheet.add(Table.ADMISSION, 65100, actions.controller(), frame, dl_type=ETH_ARP, arp_op=2, arp_sha=mac)
    return sheet.flows


def admit_trunk(port: int, vids: Iterable[int]) -> Flows:
    """Return what may come in from another node: one tag, of a network that exists; and probes, to the controller."""
    sheet = Sheet(Kind.ADMISSION, FABRIC)
    sheet.add(Table.ADMISSION, 64600, actions.controller(), in_port=port, dl_dst=PROBE_MAC, dl_type=PROBE_TYPE)
    _refuse_double_tags(sheet, port)
    for vid in vids:
        acts = actions.load(NETWORK, vid) + goto(Table.LINK)
        sheet.add(Table.ADMISSION, 30000, acts, in_port=port, vlan_tci=(VLAN_PRESENT | vid, VLAN_PRESENT | VLAN_VID))
    return sheet.flows


def admit_access(port: int, vlans: Mapping[int, int]) -> Flows:
    """Return what may come in from outside; `vlans` maps the id on the wire (0: untagged) to the network's."""
    sheet = Sheet(Kind.ADMISSION, FABRIC)
    _refuse_double_tags(sheet, port)
    for wire, vid in vlans.items():
        tci = VLAN_PRESENT | wire if wire else 0
        enter = _enter(vid, goto(Table.LEARN))
        sheet.add(Table.ADMISSION, 30000, enter, in_port=port, vlan_tci=(tci, VLAN_PRESENT | VLAN_VID))
        if wire:
            back = actions.set_vlan_vid(wire) + actions.output(actions.IN_PORT)
            sheet.add(Table.RETURN, 100, back, in_port=port, reg0=vid)
    return sheet.flows


def _refuse_double_tags(sheet: Sheet, port: int) -> None:
    for inner in (ETH_VLAN, ETH_QINQ):
        tagged = (VLAN_PRESENT, VLAN_PRESENT)
        sheet.add(Table.ADMISSION, 60000, DROP, in_port=port, vlan_tci=tagged, dl_type=inner)


def refuse_source(vid: int, mac: bytes) -> Flows:
    """Return the flow that drops frames from an access port which claim the MAC of a vif in the same network."""
    sheet = Sheet(Kind.ADMISSION, FABRIC)
    sheet.add(Table.LEARN, 200, DROP, reg0=vid, dl_src=mac)
    return sheet.flows


def learned(port: int, vid: int, mac: bytes, idle_timeout_s: int) -> Flows:
    """Return the flow that knows a source behind an access port; it ages by itself, and the switch says so."""
    key = nxm.flow_key(Table.LEARN, 100, in_port=port, reg0=vid, dl_src=mac)
    return {key: actions.value(cookie(Kind.LEARNED, FABRIC), FROM_PORT, idle_timeout_s)}

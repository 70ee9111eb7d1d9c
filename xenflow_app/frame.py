"""A frame as the pipeline sees it: the fields that flows match and change, by NXM header (pure).

Place in the flow: trace question -> *Frame* -> walk. A field that the frame does not have is 0, as in Open vSwitch;
flows only look at fields whose presence they have matched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from xenflow.model import address_text, mac_text
from xenflow_app.openflow import fields, nxm
from xenflow_app.openflow.fields import Subfield

BROADCAST = b"\xff" * 6
VLAN_PRESENT = 0x1000
ETHERNET_BYTES, TAG_BYTES = 14, 4
_PROTOCOLS = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 46: "RSVP", 58: "ICMPv6", 89: "OSPF"}
_ECHO = {4: (nxm.ICMP, fields.ICMP_TYPE, 8), 16: (nxm.ICMP6, fields.ICMP6_TYPE, 128)}


@dataclass(frozen=True, slots=True)
class Frame:
    """Fields by header, and the size of what the frame carries (an IP packet: its length), in bytes."""

    fields: Mapping[int, int] = field(default_factory=dict)
    payload_bytes: int = 84

    def get(self, header: int) -> int:
        """Return a field."""
        return self.fields.get(header, 0)

    def packed(self, header: int) -> bytes:
        """Return a field as bytes."""
        return self.get(header).to_bytes(header & 0xFF, "big")

    def read(self, part: Subfield) -> int:
        """Return some bits of a field."""
        return self.get(part.header) >> part.ofs & ((1 << part.nbits) - 1)

    def write(self, part: Subfield, number: int) -> Frame:
        """Return the frame with some bits of a field set."""
        mask = ((1 << part.nbits) - 1) << part.ofs
        return self.put(part.header, self.get(part.header) & ~mask | number << part.ofs & mask)

    def put(self, header: int, number: int) -> Frame:
        """Return the frame with a field set."""
        return replace(self, fields={**self.fields, header: number})

    def enter(self, port: int) -> Frame:
        """Return the frame as it comes in at a port: no register is set."""
        kept = {header: number for header, number in self.fields.items() if header not in fields.REGISTERS}
        return replace(self, fields={**kept, fields.IN_PORT: port})

    @property
    def vid(self) -> int | None:
        """The VLAN id in the tag; None without a tag."""
        tci = self.get(fields.VLAN_TCI)
        return tci & 0xFFF if tci & VLAN_PRESENT else None

    @property
    def size_bytes(self) -> int:
        """The size of the whole frame, without checksum."""
        return self.payload_bytes + ETHERNET_BYTES + (TAG_BYTES if self.vid is not None else 0)

    @property
    def is_ip(self) -> bool:
        """Whether it carries IPv4 or IPv6."""
        return self.get(fields.ETH_TYPE) in (nxm.ETH_IP, nxm.ETH_IPV6)

    @property
    def is_group(self) -> bool:
        """Whether it goes to a broadcast or multicast MAC address."""
        return bool(self.packed(fields.ETH_DST)[0] & 1)

    @property
    def destination(self) -> bytes:
        """The packed IP address that it goes to (for ARP: that it asks for); empty for anything else."""
        return self._address(fields.IP_DST, fields.IPV6_DST, fields.ARP_TPA)

    @property
    def source(self) -> bytes:
        """The packed IP address that it comes from (for ARP: that it claims); empty for anything else."""
        return self._address(fields.IP_SRC, fields.IPV6_SRC, fields.ARP_SPA)

    def _address(self, v4: int, v6: int, arp: int) -> bytes:
        header = {nxm.ETH_IP: v4, nxm.ETH_IPV6: v6, nxm.ETH_ARP: arp}.get(self.get(fields.ETH_TYPE))
        return b"" if header is None else self.packed(header)

    def __str__(self) -> str:
        tag = "" if self.vid is None else f", VLAN {self.vid}"
        macs = f"{mac_text(self.packed(fields.ETH_SRC))} > {mac_text(self.packed(fields.ETH_DST))}{tag}"
        kind = self.get(fields.ETH_TYPE)
        ends = f"{address_text(self.source)} > {address_text(self.destination)}"
        if self.is_ip:
            protocol = self.get(fields.IP_PROTO)
            name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
            return f"{name} {ends}, TTL {self.get(fields.IP_TTL)}, {self.payload_bytes} bytes, {macs}"
        if kind == nxm.ETH_ARP:
            return f"ARP {ends}, {macs}"
        return f"type {kind:#06x}, {macs}"


def ethernet(source: bytes, destination: bytes, kind: int) -> dict[int, int]:
    """Return the fields of an Ethernet header without a tag."""
    macs = ((fields.ETH_SRC, source), (fields.ETH_DST, destination))
    return {header: int.from_bytes(mac, "big") for header, mac in macs} | {fields.ETH_TYPE: kind}


def ip(macs: tuple[bytes, bytes], ends: tuple[bytes, bytes], ttl: int, size_bytes: int, protocol: int = -1) -> Frame:
    """Return an IP packet between packed addresses, in a frame between MAC addresses; an echo request by default."""
    four = len(ends[0]) == 4
    echo, icmp_type, request = _ECHO[len(ends[0])]
    chosen = echo if protocol < 0 else protocol
    found = ethernet(*macs, nxm.ETH_IP if four else nxm.ETH_IPV6)
    found |= {fields.IP_PROTO: chosen, fields.IP_TTL: ttl}
    headers = (fields.IP_SRC, fields.IP_DST) if four else (fields.IPV6_SRC, fields.IPV6_DST)
    for header, address in zip(headers, ends, strict=True):
        found[header] = int.from_bytes(address, "big")
    if chosen == echo:
        found[icmp_type] = request
    return Frame(found, size_bytes)


def arp_request(mac: bytes, ends: tuple[bytes, bytes]) -> Frame:
    """Return the question who has the second of two packed IPv4 addresses, from the first."""
    found = ethernet(mac, BROADCAST, nxm.ETH_ARP)
    found |= {fields.ARP_OP: 1, fields.ARP_SHA: int.from_bytes(mac, "big")}
    found |= {fields.ARP_SPA: int.from_bytes(ends[0], "big"), fields.ARP_TPA: int.from_bytes(ends[1], "big")}
    return Frame(found, 28)


def tagged(frame: Frame, vid: int) -> Frame:
    """Return the frame with a tag."""
    return frame.put(fields.VLAN_TCI, VLAN_PRESENT | vid)

"""NXM field headers (nicira-ext.h, meta-flow.h of Open vSwitch) and subfields of them.

A header is class (16 bits), field (7), has-mask (1), length of what follows (8). The constants are the forms without
a mask; `masked` gives the other one. A `Subfield` is some consecutive bits of a field, as actions name them.
"""

from __future__ import annotations

from dataclasses import dataclass


def _header(nxm_class: int, field: int, length: int) -> int:
    return nxm_class << 16 | field << 9 | length


IN_PORT = _header(0, 0, 2)
ETH_DST = _header(0, 1, 6)
ETH_SRC = _header(0, 2, 6)
ETH_TYPE = _header(0, 3, 2)
VLAN_TCI = _header(0, 4, 2)
IP_TOS = _header(0, 5, 1)
IP_PROTO = _header(0, 6, 1)
IP_SRC = _header(0, 7, 4)
IP_DST = _header(0, 8, 4)
TCP_SRC = _header(0, 9, 2)
TCP_DST = _header(0, 10, 2)
UDP_SRC = _header(0, 11, 2)
UDP_DST = _header(0, 12, 2)
ICMP_TYPE = _header(0, 13, 1)
ICMP_CODE = _header(0, 14, 1)
ARP_OP = _header(0, 15, 2)
ARP_SPA = _header(0, 16, 4)
ARP_TPA = _header(0, 17, 4)

REG0 = _header(1, 0, 4)
REG1 = _header(1, 1, 4)
REG2 = _header(1, 2, 4)
REG3 = _header(1, 3, 4)
REG4 = _header(1, 4, 4)
REG5 = _header(1, 5, 4)
REG6 = _header(1, 6, 4)
REG7 = _header(1, 7, 4)
REGISTERS = (REG0, REG1, REG2, REG3, REG4, REG5, REG6, REG7)
ARP_SHA = _header(1, 17, 6)
ARP_THA = _header(1, 18, 6)
IPV6_SRC = _header(1, 19, 16)
IPV6_DST = _header(1, 20, 16)
ICMP6_TYPE = _header(1, 21, 1)
ICMP6_CODE = _header(1, 22, 1)
ND_TARGET = _header(1, 23, 16)
ND_SLL = _header(1, 24, 6)
ND_TLL = _header(1, 25, 6)
IP_FRAG = _header(1, 26, 1)
IP_TTL = _header(1, 29, 1)
COOKIE = _header(1, 30, 8)
"""Only in requests (dump, delete), never in a flow's own match."""
ND_RESERVED = _header(0x1000, 1, 4)
"""The flags of a neighbor advertisement (R, S and O are the highest bits), and 29 bits that are zero."""
ND_OPTIONS_TYPE = _header(0x1000, 2, 1)
"""The type of the option that a neighbor discovery packet begins with."""

NAMES = {
    IN_PORT: "NXM_OF_IN_PORT",
    ETH_DST: "NXM_OF_ETH_DST",
    ETH_SRC: "NXM_OF_ETH_SRC",
    ETH_TYPE: "NXM_OF_ETH_TYPE",
    VLAN_TCI: "NXM_OF_VLAN_TCI",
    IP_TOS: "NXM_OF_IP_TOS",
    IP_PROTO: "NXM_OF_IP_PROTO",
    IP_SRC: "NXM_OF_IP_SRC",
    IP_DST: "NXM_OF_IP_DST",
    TCP_SRC: "NXM_OF_TCP_SRC",
    TCP_DST: "NXM_OF_TCP_DST",
    UDP_SRC: "NXM_OF_UDP_SRC",
    UDP_DST: "NXM_OF_UDP_DST",
    ICMP_TYPE: "NXM_OF_ICMP_TYPE",
    ICMP_CODE: "NXM_OF_ICMP_CODE",
    ARP_OP: "NXM_OF_ARP_OP",
    ARP_SPA: "NXM_OF_ARP_SPA",
    ARP_TPA: "NXM_OF_ARP_TPA",
    **{header: f"NXM_NX_REG{number}" for number, header in enumerate(REGISTERS)},
    ARP_SHA: "NXM_NX_ARP_SHA",
    ARP_THA: "NXM_NX_ARP_THA",
    IPV6_SRC: "NXM_NX_IPV6_SRC",
    IPV6_DST: "NXM_NX_IPV6_DST",
    ICMP6_TYPE: "NXM_NX_ICMPV6_TYPE",
    ICMP6_CODE: "NXM_NX_ICMPV6_CODE",
    ND_TARGET: "NXM_NX_ND_TARGET",
    ND_SLL: "NXM_NX_ND_SLL",
    ND_TLL: "NXM_NX_ND_TLL",
    IP_FRAG: "NXM_NX_IP_FRAG",
    IP_TTL: "NXM_NX_IP_TTL",
    ND_RESERVED: "ERICOXM_OF_ICMPV6_ND_RESERVED",
    ND_OPTIONS_TYPE: "ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE",
}
"""Names as Open vSwitch prints them."""


def masked(header: int) -> int:
    """Return the header of the same field with a mask behind the value."""
    return (header & ~0xFF) | 0x100 | (header & 0xFF) * 2


def bits(header: int) -> int:
    """Return the width of a field (header without mask) in bits."""
    return (header & 0xFF) * 8


@dataclass(frozen=True, slots=True)
class Subfield:
    """`nbits` bits of a field, from bit `ofs` (0 is the lowest)."""

    header: int
    ofs: int
    nbits: int


def whole(header: int) -> Subfield:
    """Return the subfield that is all of a field."""
    return Subfield(header, 0, bits(header))

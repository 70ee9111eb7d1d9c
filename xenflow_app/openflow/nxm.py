"""Matches and flow keys: NXM in the order in which Open vSwitch itself writes it (nx_put_raw in its nx-match.c).

What is written here is what a flow dump returns, byte for byte, whatever the order of the arguments. For that the same
normal form applies: a full mask is no mask, an empty mask is no field. Values that Open vSwitch would alter or refuse
(bits outside of the mask, a field without what it presupposes) are ValueErrors here.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import TypeAlias, TypedDict, Unpack

from xenflow_app.openflow import fields

FlowKey: TypeAlias = bytes
"""Table (1 byte), priority (2 bytes), match."""
KEY_HEAD = struct.Struct(">BH")

Number: TypeAlias = int | tuple[int, int]
"""A value, or (value, mask)."""
Bytes: TypeAlias = bytes | tuple[bytes, bytes]
"""Packed bytes, or (bytes, mask)."""
Prefixed: TypeAlias = bytes | tuple[bytes, int]
"""A packed address, or (packed address, prefix length)."""

ETH_IP, ETH_ARP, ETH_IPV6, ETH_VLAN, ETH_QINQ = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
FRAG_ANY, FRAG_LATER = 1, 2
"""Bits of ip_frag: the packet is a fragment; it is not the first one."""


class MatchFields(TypedDict, total=False):
    """The fields of a match; `nw_tos` is the whole byte with ECN zero (46 << 2 for EF), as in ovs-ofctl."""

    in_port: int
    dl_src: Bytes
    dl_dst: Bytes
    dl_type: int
    vlan_tci: Number
    nw_src: Prefixed
    nw_dst: Prefixed
    ipv6_src: Prefixed
    ipv6_dst: Prefixed
    ip_frag: Number
    nw_tos: int
    nw_ttl: int
    nw_proto: int
    tcp_src: Number
    tcp_dst: Number
    udp_src: Number
    udp_dst: Number
    icmp_type: int
    icmp_code: int
    icmp6_type: int
    icmp6_code: int
    nd_target: Prefixed
    nd_sll: Bytes
    nd_tll: Bytes
    arp_op: int
    arp_spa: Prefixed
    arp_tpa: Prefixed
    arp_sha: Bytes
    arp_tha: Bytes
    reg0: Number
    reg1: Number
    reg2: Number
    reg3: Number
    reg4: Number
    reg5: Number
    reg6: Number
    reg7: Number


def _entry(header: int, value: bytes, mask: bytes | None) -> bytes:
    """Return one match entry in normal form."""
    width = header & 0xFF
    if len(value) != width or (mask is not None and len(mask) != width):
        raise ValueError(f"{fields.NAMES[header]} takes {width} bytes, not {value.hex()}")
    if mask is None or mask == b"\xff" * width:
        return header.to_bytes(4, "big") + value
    if any(bit & ~allowed & 0xFF for bit, allowed in zip(value, mask, strict=True)):
        raise ValueError(f"{fields.NAMES[header]}: {value.hex()} has bits outside of the mask {mask.hex()}")
    if not any(mask):
        return b""
    return fields.masked(header).to_bytes(4, "big") + value + mask


def _encode_number(header: int, value: object) -> bytes:
    width = header & 0xFF
    try:
        match value:
            case int():
                return _entry(header, value.to_bytes(width, "big"), None)
            case (int(bits), int(mask)):
                # ip_frag has two bits in its byte; both of them are all of it
                full = header == fields.IP_FRAG and mask == 3
                return _entry(header, bits.to_bytes(width, "big"), None if full else mask.to_bytes(width, "big"))
    except OverflowError as error:
        raise ValueError(f"{fields.NAMES[header]} has {width * 8} bits, not room for {value!r}") from error
    raise ValueError(f"{fields.NAMES[header]}: neither value nor (value, mask): {value!r}")


def _encode_bytes(header: int, value: object) -> bytes:
    match value:
        case bytes():
            return _entry(header, value, None)
        case (bytes(bits), bytes(mask)):
            return _entry(header, bits, mask)
    raise ValueError(f"{fields.NAMES[header]}: neither bytes nor (bytes, mask): {value!r}")


def _encode_prefix(header: int, value: object) -> bytes:
    match value:
        case bytes():
            return _entry(header, value, None)
        case (bytes(packed), int(length)) if 0 <= length <= fields.bits(header):
            return _entry(header, packed, prefix_mask(length, header & 0xFF))
    raise ValueError(f"{fields.NAMES[header]}: neither address nor (address, length): {value!r}")


@functools.cache
def prefix_mask(length: int, width_bytes: int) -> bytes:
    """Return the netmask of `length` bits in `width_bytes` bytes."""
    width = width_bytes * 8
    return (((1 << length) - 1) << (width - length)).to_bytes(width_bytes, "big")


_IP = (("dl_type", ETH_IP), ("dl_type", ETH_IPV6))
_IP4 = (("dl_type", ETH_IP),)
_IP6 = (("dl_type", ETH_IPV6),)
_ARP = (("dl_type", ETH_ARP),)
_ICMP4 = (("nw_proto", ICMP),)
_ICMP6 = (("nw_proto", ICMP6),)
_ND = (("icmp6_type", 135), ("icmp6_type", 136))
_Needs: TypeAlias = tuple[tuple[str, int], ...]
_Rule: TypeAlias = tuple[int, int, Callable[[int, object], bytes], _Needs]

_RULES: dict[str, _Rule] = {
    name: (place, header, encode, needs)
    for place, (name, header, encode, needs) in enumerate(
        (
            ("in_port", fields.IN_PORT, _encode_number, ()),
            ("dl_src", fields.ETH_SRC, _encode_bytes, ()),
            ("dl_dst", fields.ETH_DST, _encode_bytes, ()),
            ("dl_type", fields.ETH_TYPE, _encode_number, ()),
            ("vlan_tci", fields.VLAN_TCI, _encode_number, ()),
            ("nw_src", fields.IP_SRC, _encode_prefix, _IP4),
            ("nw_dst", fields.IP_DST, _encode_prefix, _IP4),
            ("ipv6_src", fields.IPV6_SRC, _encode_prefix, _IP6),
            ("ipv6_dst", fields.IPV6_DST, _encode_prefix, _IP6),
            ("ip_frag", fields.IP_FRAG, _encode_number, _IP),
            ("nw_tos", fields.IP_TOS, _encode_number, _IP),
            ("nw_ttl", fields.IP_TTL, _encode_number, _IP),
            ("nw_proto", fields.IP_PROTO, _encode_number, _IP),
            ("tcp_src", fields.TCP_SRC, _encode_number, (("nw_proto", TCP),)),
            ("tcp_dst", fields.TCP_DST, _encode_number, (("nw_proto", TCP),)),
            ("udp_src", fields.UDP_SRC, _encode_number, (("nw_proto", UDP),)),
            ("udp_dst", fields.UDP_DST, _encode_number, (("nw_proto", UDP),)),
            ("icmp_type", fields.ICMP_TYPE, _encode_number, _ICMP4),
            ("icmp_code", fields.ICMP_CODE, _encode_number, _ICMP4),
            ("icmp6_type", fields.ICMP6_TYPE, _encode_number, _ICMP6),
            ("icmp6_code", fields.ICMP6_CODE, _encode_number, _ICMP6),
            ("nd_target", fields.ND_TARGET, _encode_prefix, _ND),
            ("nd_sll", fields.ND_SLL, _encode_bytes, _ND[:1]),
            ("nd_tll", fields.ND_TLL, _encode_bytes, _ND[1:]),
            ("arp_op", fields.ARP_OP, _encode_number, _ARP),
            ("arp_spa", fields.ARP_SPA, _encode_prefix, _ARP),
            ("arp_tpa", fields.ARP_TPA, _encode_prefix, _ARP),
            ("arp_sha", fields.ARP_SHA, _encode_bytes, _ARP),
            ("arp_tha", fields.ARP_THA, _encode_bytes, _ARP),
            *((f"reg{number}", header, _encode_number, ()) for number, header in enumerate(fields.REGISTERS)),
        )
    )
}
"""Field -> (place in Open vSwitch's order, header, encoder, what must also be matched: one of these)."""


def match(**matched: Unpack[MatchFields]) -> bytes:
    """Return the NXM match of these fields, in Open vSwitch's order.

    Raises ValueError for values out of range and for a field without the field that it presupposes (arp_op without
    dl_type, and so on).
    """
    entries: list[tuple[int, bytes]] = []
    for name, value in matched.items():
        place, header, encode, needs = _RULES[name]
        if needs and not any(matched.get(other) == wanted for other, wanted in needs):
            raise ValueError(f"{name} needs " + " or ".join(f"{other}={wanted:#x}" for other, wanted in needs))
        entries.append((place, encode(header, value)))
    entries.sort()
    return b"".join([entry for _place, entry in entries])


def key(table: int, priority: int, match_bytes: bytes) -> FlowKey:
    """Return the key of a flow. Raises ValueError for a table or priority out of range."""
    if not (0 <= table < 0xFF and 0 <= priority <= 0xFFFF):
        raise ValueError(f"no such table or priority: {table}, {priority}")
    return KEY_HEAD.pack(table, priority) + match_bytes


def flow_key(table: int, priority: int, **matched: Unpack[MatchFields]) -> FlowKey:
    """Return the key of a flow from the fields of its match; raises as `match` and `key` do."""
    return key(table, priority, match(**matched))


class RouteKeys:
    """Keys of the route flows of one router in one table, built by concatenation.

    A route flow matches the address family, the destination prefix and register 2 (the router); its priority is
    `base_priority` + prefix length. `key` equals `flow_key` with the same fields.
    """

    __slots__ = ("_heads", "_tails")

    def __init__(self, table: int, base_priority: int, reg2: int, width_bytes: int) -> None:
        """Prepare for packed addresses of `width_bytes` (4 or 16)."""
        dl_type = {4: ETH_IP, 16: ETH_IPV6}[width_bytes]
        destination = {4: fields.IP_DST, 16: fields.IPV6_DST}[width_bytes]
        family, router, length_max = match(dl_type=dl_type), match(reg2=reg2), width_bytes * 8
        heads, tails = [], []
        for length in range(length_max + 1):
            header = destination if length == length_max else fields.masked(destination)
            head = KEY_HEAD.pack(table, base_priority + length) + family
            heads.append(head + header.to_bytes(4, "big") if length else head)
            tails.append(prefix_mask(length, width_bytes) + router if 0 < length < length_max else router)
        self._heads, self._tails = tuple(heads), tuple(tails)

    def key(self, packed: bytes, length: int) -> FlowKey:
        """Return the key for a packed address (host bits zero) and prefix length."""
        if not length:
            return self._heads[0] + self._tails[0]
        return self._heads[length] + packed + self._tails[length]


@functools.lru_cache(maxsize=4096)
def _route_keys(table: int, base_priority: int, reg2: int, width_bytes: int) -> RouteKeys:
    return RouteKeys(table, base_priority, reg2, width_bytes)


def ipv4_route_key(table: int, base_priority: int, reg2: int, packed: bytes, length: int) -> FlowKey:
    """Return the key of an IPv4 route flow; its priority is `base_priority` + `length`."""
    return _route_keys(table, base_priority, reg2, 4).key(packed, length)


def ipv6_route_key(table: int, base_priority: int, reg2: int, packed: bytes, length: int) -> FlowKey:
    """Return the key of an IPv6 route flow; its priority is `base_priority` + `length`."""
    return _route_keys(table, base_priority, reg2, 16).key(packed, length)

"""rtnetlink(7) in bytes: requests to the kernel, and its messages about links, addresses and neighbors.

Pure: bytes in, values out. Written against the kernel's uapi (linux/netlink.h, rtnetlink.h, if_link.h, neighbour.h),
which is fixed for good; routes, by far the most, have a decoder of their own (rtroute). What arrives comes from the
kernel, but is decoded as if it did not: any bytes give a list of values or MalformedError.
"""

from __future__ import annotations

import enum
import struct
import sys
from collections.abc import Iterator

from xenflow.errors import XenflowError
from xenflow_client.seen import (
    NLM_F_CREATE,
    NLM_F_DUMP_INTR,
    NLM_F_MULTI,
    NUD_NOARP,
    NUD_PROBE,
    AddressSeen,
    DumpEnd,
    LinkSeen,
    NeighborSeen,
    NexthopsChanged,
    Seen,
)

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port id."""
ATTRIBUTE = struct.Struct("=HH")
LINK = struct.Struct("=BxHIII")
ADDRESS = struct.Struct("=BBBBI")
NEIGHBOR = struct.Struct("=BxxxIHBB")
ROUTE = struct.Struct("=BBBBBBBBI")
NEXTHOP = struct.Struct("=BBBxI")

NLMSG_ERROR = 2
NLMSG_DONE = 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_DELNEXTHOP = 105
NLM_F_REQUEST = 0x01
NLM_F_DUMP = 0x300

AF_INET, AF_INET6 = 2, 10
RT_TABLE_MAIN = 254
_IFNAMSIZ = 16
IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS = 29, 1 << 3
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU = 1, 3, 4
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_OPTIMISTIC, IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x04, 0x08, 0x40
NDA_DST, NDA_LLADDR, NDA_FLAGS_EXT = 1, 2, 15
NTF_USE, NTF_PROXY, NTF_EXT_LEARNED = 0x01, 0x08, 0x10
NTF_EXT_MANAGED = 0x01
ADDRESS_BYTES = {AF_INET: 4, AF_INET6: 16}

GROUPS = (1, 3, 5, 7, 9, 11, 32)
"""RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE, _NEXTHOP."""


class MalformedError(XenflowError):
    """Bytes that are no netlink messages."""


class Table(enum.IntEnum):
    """A table that can be dumped, in the order in which a full dump asks for them."""

    LINKS = 0
    ADDRESSES = 1
    NEIGHBORS = 2
    ROUTES_IPV4 = 3
    ROUTES_IPV6 = 4


def dump_request(table: Table, seq: int) -> bytes:
    """Return the request for all of `table`; routes are filtered by the kernel to table main (strict checking)."""
    match table:
        case Table.LINKS:
            mask = ATTRIBUTE.pack(8, IFLA_EXT_MASK) + RTEXT_FILTER_SKIP_STATS.to_bytes(4, sys.byteorder)
            return _request(RTM_GETLINK, NLM_F_DUMP, seq, LINK.pack(0, 0, 0, 0, 0) + mask)
        case Table.ADDRESSES:
            return _request(RTM_GETADDR, NLM_F_DUMP, seq, ADDRESS.pack(0, 0, 0, 0, 0))
        case Table.NEIGHBORS:
            return _request(RTM_GETNEIGH, NLM_F_DUMP, seq, NEIGHBOR.pack(0, 0, 0, 0, 0))
    family = AF_INET if table is Table.ROUTES_IPV4 else AF_INET6
    return _request(RTM_GETROUTE, NLM_F_DUMP, seq, ROUTE.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0))


def probe_request(link: int, address: bytes, seq: int) -> bytes:
    """Return the request to verify a known neighbor now, by unicast (its state becomes PROBE)."""
    return _neighbor_request(link, address, NUD_PROBE, 0, 0, seq)


def resolve_request(link: int, address: bytes, seq: int) -> bytes:
    """Return the request to resolve a neighbor as if a packet were waiting for it (NTF_USE); creates the entry."""
    return _neighbor_request(link, address, 0, NTF_USE, NLM_F_CREATE, seq)


def _neighbor_request(link: int, address: bytes, state: int, flags: int, message_flags: int, seq: int) -> bytes:
    family = AF_INET if len(address) == 4 else AF_INET6
    attribute = ATTRIBUTE.pack(4 + len(address), NDA_DST) + address
    body = NEIGHBOR.pack(family, link, state, flags, 0) + attribute
    return _request(RTM_NEWNEIGH, message_flags, seq, body)


def _request(kind: int, flags: int, seq: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, seq, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (type, flags, seq, start, end) of each message; start and end enclose its body in `data`.

    Raises MalformedError where a length cannot be.
    """
    offset, size = 0, len(data)
    while offset + HEADER.size <= size:
        length, kind, flags, seq, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > size:
            raise MalformedError(f"a message of {length} bytes where {size - offset} are left")
        yield kind, flags, seq, offset + HEADER.size, offset + length
        offset += (length + 3) & ~3


def attributes(data: bytes, offset: int, end: int) -> dict[int, bytes]:
    """Return the attributes between `offset` and `end` by type (flags of the type removed)."""
    result = {}
    while offset + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            raise MalformedError(f"an attribute of {length} bytes where {end - offset} are left")
        result[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return result


def decode(data: bytes, kind: int, flags: int, seq: int, start: int, end: int) -> Seen | None:
    """Return what a message says; None for what does not matter here. Routes are not decoded here (rtroute)."""
    try:
        if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            return _neighbor(data, kind, start, end)
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            return _link(data, kind, start, end)
        if kind in (RTM_NEWADDR, RTM_DELADDR):
            return _address(data, kind, start, end)
        if kind in (NLMSG_DONE, NLMSG_ERROR):
            error = int.from_bytes(data[start : start + 4], sys.byteorder, signed=True) if end - start >= 4 else 0
            return DumpEnd(seq, -error, bool(flags & NLM_F_DUMP_INTR))
    except struct.error as error:
        raise MalformedError(f"message of type {kind}: {error}") from error
    return NexthopsChanged() if kind == RTM_DELNEXTHOP else None


def _link(data: bytes, kind: int, start: int, end: int) -> LinkSeen | None:
    family, _, index, flags, _ = LINK.unpack_from(data, start)
    if family != 0:  # AF_BRIDGE and others speak of a port, not of the interface
        return None
    found = attributes(data, start + LINK.size, end)
    name = found.get(IFLA_IFNAME, b"").rstrip(b"\0")[:_IFNAMSIZ].decode(errors="replace")
    name = "".join(one if one.isprintable() else "?" for one in name) or f"if{index}"
    mtu = int.from_bytes(found.get(IFLA_MTU, b"")[:4], sys.byteorder)
    return LinkSeen(index, name, found.get(IFLA_ADDRESS, b""), mtu, flags, kind == RTM_DELLINK)


def _address(data: bytes, kind: int, start: int, end: int) -> AddressSeen | None:
    family, length, flags, _, index = ADDRESS.unpack_from(data, start)
    found = attributes(data, start + ADDRESS.size, end)
    address = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
    if len(address) != ADDRESS_BYTES.get(family) or length > 8 * len(address):
        return None
    if IFA_FLAGS in found:
        flags = int.from_bytes(found[IFA_FLAGS], sys.byteorder)
    unique = not flags & IFA_F_DADFAILED and (flags & IFA_F_OPTIMISTIC or not flags & IFA_F_TENTATIVE)
    usable = family == AF_INET or bool(unique)
    return AddressSeen(index, address + bytes([length]), usable, kind == RTM_DELADDR)


def _neighbor(data: bytes, kind: int, start: int, end: int) -> NeighborSeen | None:
    family, index, state, flags, _ = NEIGHBOR.unpack_from(data, start)
    if family not in ADDRESS_BYTES or flags & NTF_PROXY:
        return None
    found = attributes(data, start + NEIGHBOR.size, end)
    address, mac = found.get(NDA_DST, b""), found.get(NDA_LLADDR, b"")
    if len(address) != ADDRESS_BYTES[family] or _group(address):
        return None
    if len(mac) != 6 or mac[0] & 1 or not any(mac):
        if state & NUD_NOARP:
            return None
        mac = b""
    more = int.from_bytes(found.get(NDA_FLAGS_EXT, b""), sys.byteorder)
    kept = bool(flags & NTF_EXT_LEARNED or more & NTF_EXT_MANAGED)
    return NeighborSeen(index, address, mac, state, kept, kind == RTM_DELNEIGH)


def _group(address: bytes) -> bool:
    """Return whether `address` is multicast, which is mapped and never resolved."""
    return address[0] & 0xF0 == 0xE0 if len(address) == 4 else address[0] == 0xFF


def is_dump_part(flags: int) -> bool:
    """Return whether a message belongs to a dump rather than being an event."""
    return bool(flags & NLM_F_MULTI)

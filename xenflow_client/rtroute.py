"""Route messages: from bytes to prefix and Candidate, fast enough for 100,000 of them in a fraction of a second.

Messages of a big table differ in little but the destination: what is around it is decoded once (`RouteDecoder`
remembers it by its bytes), and routes that are alike share one Candidate. What the table in docs/client.md says of a
route by itself is decided here; what depends on other routes or on links is decided in routes.
"""

from __future__ import annotations

import struct

from xenflow.model import Hop, Prefix, RouteKind
from xenflow.shape import MAX_HOPS, malformed_prefix
from xenflow_client.rtnetlink import ADDRESS_BYTES, RT_TABLE_MAIN, RTM_DELROUTE, MalformedError, attributes
from xenflow_client.seen import Candidate, RouteSeen

_ROUTE = struct.Struct("=BBBBBBBBI")
_HOP = struct.Struct("=HBBI")
_LEADER = struct.Struct("=HHIHH")
_WORD = struct.Struct("=I")

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE = 1, 4, 5, 6, 9, 15
RTA_VIA, RTA_NEWDST, RTA_ENCAP_TYPE, RTA_NH_ID = 18, 19, 21, 30
RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT, RTN_THROW = 1, 6, 7, 8, 9
RTM_F_CLONED = 0x200
RTPROT_RA = 9
AF_INET6 = 10
_MAX_REMEMBERED = 4096

_KINDS = {
    RTN_UNICAST: RouteKind.UNICAST,
    RTN_BLACKHOLE: RouteKind.BLACKHOLE,
    RTN_UNREACHABLE: RouteKind.SLOW,
    RTN_PROHIBIT: RouteKind.SLOW,
    RTN_THROW: RouteKind.SLOW,
}
"""What becomes of rtm_type; local, broadcast, anycast and multicast routes are none of the switch's business."""

_MAPPED = bytes(10) + b"\xff\xff"
_LOOPBACK = bytes(15) + b"\x01"


class RouteDecoder:
    """Decodes route messages of table main; bytes that were seen before are not decoded again."""

    def __init__(self) -> None:
        self._known: dict[bytes, Candidate | None] = {}

    @property
    def remembered(self) -> int:
        """How many different ones are remembered."""
        return len(self._known)

    def decode(self, data: bytes, kind: int, flags: int, start: int, end: int) -> RouteSeen | None:
        """Return the route in the message body data[start:end]; None for one that is not reported."""
        if end - start < _ROUTE.size:
            raise MalformedError(f"a route of {end - start} bytes")
        family, length = data[start], data[start + 1]
        size = ADDRESS_BYTES.get(family)
        if size is None:
            return None
        offset = start + _ROUTE.size
        if end >= offset + 12:
            first_size, first, _, next_size, second = _LEADER.unpack_from(data, offset)
            if first == RTA_TABLE and first_size == 8 and second == RTA_DST and next_size == 4 + size:
                address_end = offset + 12 + size
                around = data[start : start + 1] + data[start + 2 : offset + 8] + data[address_end:end]
                candidate = self._known.get(around, _UNKNOWN)
                if candidate is not _UNKNOWN and address_end <= end:
                    return _route(data[offset + 12 : address_end], length, candidate, flags, kind)
                return self._slowly(data, kind, flags, start, end, around)
        return self._slowly(data, kind, flags, start, end, b"")

    def _slowly(self, data: bytes, kind: int, flags: int, start: int, end: int, around: bytes) -> RouteSeen | None:
        size = ADDRESS_BYTES[data[start]]
        found = attributes(data, start + _ROUTE.size, end)
        try:
            candidate = parse_candidate(data, start, found)
        except struct.error as error:
            raise MalformedError(f"a route: {error}") from error
        address = found.get(RTA_DST, bytes(size))
        if len(address) != size:
            raise MalformedError(f"a destination of {len(address)} bytes")
        if around:
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            self._known[around] = candidate
        return _route(address, data[start + 1], candidate, flags, kind)


_UNKNOWN = Candidate((0, 0), RouteKind.SLOW)


def _route(address: bytes, length: int, candidate: Candidate | None, flags: int, kind: int) -> RouteSeen | None:
    if candidate is None or length > 8 * len(address):
        return None
    prefix = address + bytes((length,))
    if not reportable(prefix) or malformed_prefix(prefix):
        return None
    if len(address) == 16 and address.startswith(_MAPPED) and length >= 96:
        candidate = Candidate(candidate.order, RouteKind.SLOW, protocol=candidate.protocol)
    return RouteSeen(prefix, candidate, flags, kind == RTM_DELROUTE)


def reportable(prefix: Prefix) -> bool:
    """Return whether routes to `prefix` are reported: not multicast, loopback or link-local ones.

    Link-local is what a router may not forward: fe80::/10 (RFC 4291, 2.5.6). 169.254.0.0/16 stays: people route it.
    """
    length, first = prefix[-1], prefix[0]
    if len(prefix) == 5:
        return not ((first & 0xF0 == 0xE0 and length >= 4) or (first == 127 and length >= 8))
    if first == 0xFF and length >= 8:
        return False
    if first == 0xFE and prefix[1] & 0xC0 == 0x80 and length >= 10:
        return False
    return not (length == 128 and prefix.startswith(_LOOPBACK))


def parse_candidate(data: bytes, start: int, found: dict[int, bytes]) -> Candidate | None:
    """Return the route without its prefix; None for another table, a cached route, or a type that is not reported."""
    family, _, source_length, tos, table, protocol, _, kind, flags = _ROUTE.unpack_from(data, start)
    if RTA_TABLE in found:
        (table,) = _WORD.unpack(found[RTA_TABLE])
    if table != RT_TABLE_MAIN or flags & RTM_F_CLONED or kind not in _KINDS:
        return None
    metric = _WORD.unpack(found[RTA_PRIORITY])[0] if RTA_PRIORITY in found else 0
    order, selective = (-tos, metric), bool(tos or source_length)
    if _KINDS[kind] is not RouteKind.UNICAST:
        return Candidate(order, _KINDS[kind], (), protocol, selective)
    hops = _hops(found)
    if hops is None:
        return Candidate(order, RouteKind.SLOW, (), protocol, selective)
    joins = family == AF_INET6 and protocol != RTPROT_RA and RTA_NH_ID not in found and all(hop.gateway for hop in hops)
    return Candidate(order, RouteKind.UNICAST, hops, protocol, selective, joins)


def _hops(found: dict[int, bytes]) -> tuple[Hop, ...] | None:
    """Return the next hops, sorted; None if one is not for the switch (encapsulated), for none or too many of them.

    A nexthop object (RTA_NH_ID) shows its gateway and interface as long as net.ipv4.nexthop_compat_mode is 1.
    """
    if RTA_MULTIPATH not in found:
        if RTA_OIF not in found or RTA_ENCAP_TYPE in found or RTA_NEWDST in found:
            return None
        return (Hop(_WORD.unpack(found[RTA_OIF])[0], _gateway(found)),)
    block, offset, hops = found[RTA_MULTIPATH], 0, []
    while offset + _HOP.size <= len(block):
        length, _, weight, link = _HOP.unpack_from(block, offset)
        if length < _HOP.size or offset + length > len(block):
            raise MalformedError(f"a next hop of {length} bytes")
        nested = attributes(block, offset + _HOP.size, offset + length)
        if RTA_ENCAP_TYPE in nested or RTA_NEWDST in nested:
            return None
        hops.append(Hop(link, _gateway(nested), weight + 1))
        offset += (length + 3) & ~3
    return sort_hops(hops) if 0 < len(hops) <= MAX_HOPS else None


def _gateway(found: dict[int, bytes]) -> bytes:
    if RTA_VIA in found:  # struct rtvia: family, then the address
        gateway = found[RTA_VIA][2:]
    else:
        gateway = found.get(RTA_GATEWAY, b"")
    if len(gateway) not in (0, 4, 16):
        raise MalformedError(f"a gateway of {len(gateway)} bytes")
    return gateway if any(gateway) else b""


def sort_hops(hops: list[Hop]) -> tuple[Hop, ...]:
    """Return `hops` in their one order; the weights of equal ones are added."""
    weights: dict[tuple[int, bytes], int] = {}
    for hop in hops:
        key = (hop.link, hop.gateway)
        weights[key] = weights.get(key, 0) + hop.weight
    return tuple(Hop(link, gateway, weight) for (link, gateway), weight in sorted(weights.items()))

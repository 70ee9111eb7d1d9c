"""Ethernet frames as bytes: built for `inject`, taken apart for `capture`. Pure."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

TPID_8021Q = 0x8100
TPID_8021AD = 0x88A8
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
BROADCAST = b"\xff" * 6
_MIN_FRAME_BYTES = 60
_TPIDS = frozenset({TPID_8021Q, TPID_8021AD, 0x9100})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Tag:
    """A VLAN tag; `tci` is priority, DEI and VLAN id together."""

    tci: int
    tpid: int = TPID_8021Q

    @property
    def vid(self) -> int:
        """The VLAN id."""
        return self.tci & 0xFFF


@dataclass(frozen=True, slots=True)
class Frame:
    """The parts of a frame that predicates look at; addresses are None where it has none."""

    destination: bytes
    source: bytes
    tags: tuple[Tag, ...]
    ethertype: int
    sender: Address | None
    target: Address | None


def ethernet(destination: bytes, source: bytes, tags: Sequence[Tag], ethertype: int, payload: bytes) -> bytes:
    """Return a frame, padded to the smallest size, without FCS; the first tag is the outermost."""
    inside = b"".join(struct.pack("!HH", tag.tpid, tag.tci) for tag in tags) + struct.pack("!H", ethertype) + payload
    return (destination + source + inside).ljust(_MIN_FRAME_BYTES, b"\0")


def arp(operation: int, sender: tuple[bytes, Address], target: tuple[bytes, Address], trailer: bytes = b"") -> bytes:
    """Return an ARP packet (1 request, 2 reply; RFC 826), with `trailer` behind its 28 bytes."""
    header = struct.pack("!HHBBH", 1, ETHERTYPE_IPV4, 6, 4, operation)
    return header + sender[0] + sender[1].packed + target[0] + target[1].packed + trailer


def udp(source: tuple[Address, int], destination: tuple[Address, int], payload: bytes, hops: int = 64) -> bytes:
    """Return an IPv4 or IPv6 packet with a UDP datagram and correct checksums."""
    length = 8 + len(payload)
    header = struct.pack("!HHHH", source[1], destination[1], length, 0)
    pseudo = source[0].packed + destination[0].packed + struct.pack("!II", length, 17)
    total = checksum(pseudo + header + payload) or 0xFFFF
    datagram = header[:6] + struct.pack("!H", total) + payload
    return ip_packet(source[0], destination[0], 17, datagram, hops)


def ip_packet(source: Address, destination: Address, protocol: int, payload: bytes, hops: int = 64) -> bytes:
    """Return an IPv4 or IPv6 packet; the version is that of the addresses."""
    if source.version == 6:
        header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops)
        return header + source.packed + destination.packed + payload
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 0, 0x4000, hops, protocol)
    addresses = source.packed + destination.packed
    return start + struct.pack("!H", checksum(start + b"\0\0" + addresses)) + addresses + payload


def neighbor_solicitation(source: Address, destination: Address, target: Address, mac: bytes, more: bytes) -> bytes:
    """Return the question who has `target` (RFC 4861, section 4.3), with `more` options behind the asker's MAC."""
    body = struct.pack("!BBHI", 135, 0, 0, 0) + target.packed + b"\x01\x01" + mac + more
    return _discovery(source, destination, body)


def neighbor_advertisement(source: Address, destination: Address, target: Address, mac: bytes) -> bytes:
    """Return an unsolicited, overriding neighbor advertisement (RFC 4861, section 4.4) for `target` at `mac`."""
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + target.packed + b"\x02\x01" + mac
    return _discovery(source, destination, body)


def _discovery(source: Address, destination: Address, body: bytes) -> bytes:
    pseudo = source.packed + destination.packed + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return ip_packet(source, destination, 58, body, hops=255)


def checksum(content: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    content += b"\0" * (len(content) % 2)
    total: int = sum(struct.unpack(f"!{len(content) // 2}H", content))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(frame: bytes | memoryview, outer: Tag | None = None) -> Frame | None:
    """Take a frame apart; `outer` is a tag that the kernel has taken off already. None for one that is cut short."""
    tags = [outer] if outer else []
    at = 12
    while len(frame) >= at + 2:
        (ethertype,) = struct.unpack_from("!H", frame, at)
        if ethertype not in _TPIDS or len(frame) < at + 4:
            break
        tags.append(Tag(struct.unpack_from("!H", frame, at + 2)[0], ethertype))
        at += 4
    else:
        return None
    sender, target = _addresses(ethertype, bytes(frame[at + 2 : at + 42]))
    return Frame(bytes(frame[:6]), bytes(frame[6:12]), tuple(tags), ethertype, sender, target)


def _addresses(ethertype: int, packet: bytes) -> tuple[Address | None, Address | None]:
    if ethertype == ETHERTYPE_IPV4 and len(packet) >= 20:
        return ipaddress.IPv4Address(packet[12:16]), ipaddress.IPv4Address(packet[16:20])
    if ethertype == ETHERTYPE_ARP and len(packet) >= 28:
        return ipaddress.IPv4Address(packet[14:18]), ipaddress.IPv4Address(packet[24:28])
    if ethertype == ETHERTYPE_IPV6 and len(packet) >= 40:
        return ipaddress.IPv6Address(packet[8:24]), ipaddress.IPv6Address(packet[24:40])
    return None, None

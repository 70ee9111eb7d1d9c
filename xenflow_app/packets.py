"""What the controller needs to know of a frame that a switch sent it, and its answer to a question for a MAC (pure).

Sources: RFC 791, RFC 4861 (sections 4.3 and 4.4), RFC 8200, IEEE 802.1Q.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from xenflow_app.openflow.nxm import ETH_IP, ETH_IPV6, ETH_VLAN, ICMP6

_DSCP = 0xFC


@dataclass(frozen=True, slots=True)
class Datagram:
    """An IP packet in an Ethernet frame: MAC addresses, packed IP addresses, DSCP in the upper 6 bits of `tos`."""

    dl_src: bytes
    dl_dst: bytes
    source: bytes
    destination: bytes
    tos: int


def datagram(frame: bytes) -> Datagram | None:
    """Return the IP packet in a frame, with or without one VLAN tag; None for anything else, or for a cut one."""
    kind, at = _within(frame)
    if kind == ETH_IP and len(frame) >= at + 20:
        source, destination, tos = frame[at + 12 : at + 16], frame[at + 16 : at + 20], frame[at + 1]
    elif kind == ETH_IPV6 and len(frame) >= at + 40:
        source, destination = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
        tos = (frame[at] << 4 | frame[at + 1] >> 4) & 0xFF
    else:
        return None
    return Datagram(frame[6:12], frame[0:6], source, destination, tos & _DSCP)


_ASKS, _TELLS, _TARGET_OPTION = 135, 136, 2
_SHORTEST = 64
"""A solicitation with its IPv6 header and nothing else; its target is at the end."""
ROUTER_SOLICITED_OVERRIDE = 0xE0000000
"""Flags of an advertisement: from a router, because it was asked, and what was known before is void."""


def solicited(frame: bytes) -> bytes | None:
    """Return the packed address whose MAC a neighbor solicitation asks for; None for anything else, or a cut one."""
    kind, at = _within(frame)
    if kind != ETH_IPV6 or len(frame) < at + _SHORTEST or (frame[at + 6], frame[at + 40]) != (ICMP6, _ASKS):
        return None
    return frame[at + 48 : at + _SHORTEST]


def advertisement(solicitation: bytes, mac: bytes) -> bytes:
    """Return the frame that tells who sent a solicitation (`solicited`) that its target is at `mac`."""
    _, at = _within(solicitation)
    asker, target = solicitation[at + 8 : at + 24], solicitation[at + 48 : at + _SHORTEST]
    body = struct.pack(">I16sBB6s", ROUTER_SOLICITED_OVERRIDE, target, _TARGET_OPTION, 1, mac)
    length = 4 + len(body)
    said = struct.pack(">16s16sII", target, asker, length, ICMP6) + struct.pack(">I", _TELLS << 24) + body
    head = solicitation[6:12] + mac + solicitation[12:at]
    ip = struct.pack(">IHBB16s16s", 6 << 28, length, ICMP6, 255, target, asker)
    return head + ip + struct.pack(">BBH", _TELLS, 0, _checksum(said)) + body


def _within(frame: bytes) -> tuple[int, int]:
    """Return EtherType and offset of what is in a frame, with or without one VLAN tag."""
    kind = int.from_bytes(frame[12:14], "big")
    return (int.from_bytes(frame[16:18], "big"), 18) if kind == ETH_VLAN else (kind, 14)


def _checksum(content: bytes) -> int:
    """Return the Internet checksum of an even number of bytes (RFC 1071)."""
    total: int = sum(struct.unpack(f">{len(content) // 2}H", content))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

"""The announcement: by it a router that has moved says where it is from now on (paper, section II-C).

It is an ARP reply (RFC 826) to the reserved destination AA:AA:AA:AA:AA:AA, taken at the first switch and dropped there.
Anybody could send one, so behind the 28 bytes of ARP it carries a proof: the move's epoch, and a digest keyed with a
secret that only this router's session was told, over source, ARP and epoch.

    Ethernet (14) | ARP reply, sender = target = the router (28) | "XFA1" (4) | epoch (8) | digest (16)
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from xenflow.model import ANNOUNCEMENT_MAC

_ETHERNET = struct.Struct(">6s6sH")
_ARP = struct.Struct(">HHBBH6s4s6s4s")
_PROOF = struct.Struct(">4sQ16s")
_ETH_ARP, _ETH_IP, _REPLY = 0x0806, 0x0800, 2
_MAGIC = b"XFA1"
LENGTH_BYTES = _ETHERNET.size + _ARP.size + _PROOF.size
NO_ADDRESS = bytes(4)
"""The sender address of an interface without IPv4."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a frame says: the interface's MAC, its IPv4 address (packed; NO_ADDRESS without one), the move's epoch."""

    mac: bytes
    address: bytes
    epoch: int


def build(announcement: Announcement, key: bytes) -> bytes:
    """Return the frame."""
    mac, address = announcement.mac, announcement.address
    frame = _ETHERNET.pack(ANNOUNCEMENT_MAC, mac, _ETH_ARP)
    frame += _ARP.pack(1, _ETH_IP, 6, 4, _REPLY, mac, address, ANNOUNCEMENT_MAC, address)
    return frame + _PROOF.pack(_MAGIC, announcement.epoch, _digest(frame, announcement.epoch, key))


def parse(frame: bytes, key: bytes) -> Announcement | None:
    """Return what an untagged frame says; None unless it is an announcement that was signed with `key`."""
    if len(frame) < LENGTH_BYTES:
        return None
    content = frame[: _ETHERNET.size + _ARP.size]
    magic, epoch, digest = _PROOF.unpack_from(frame, len(content))
    if magic != _MAGIC or not hmac.compare_digest(digest, _digest(content, epoch, key)):
        return None
    mac, address = _ARP.unpack_from(frame, _ETHERNET.size)[5:7]
    announcement = Announcement(mac, address, epoch)
    return announcement if build(announcement, key)[: len(content)] == content else None


def claimed_epoch(frame: bytes) -> int | None:
    """Return the epoch that a frame claims, which nothing proves; None if it has no proof at all."""
    if len(frame) < LENGTH_BYTES:
        return None
    magic, epoch = _PROOF.unpack_from(frame, _ETHERNET.size + _ARP.size)[:2]
    return int(epoch) if magic == _MAGIC else None


def _digest(content: bytes, epoch: int, key: bytes) -> bytes:
    return hmac.new(key, content + epoch.to_bytes(8, "big"), hashlib.blake2s).digest()[:16]

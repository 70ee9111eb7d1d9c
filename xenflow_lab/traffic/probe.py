"""The payload of a measured packet, and the marker that says to which tenant a packet belongs.

    0       2       4               8                              16
    | magic | flow  | number        | sent at (CLOCK_MONOTONIC, ns) | marker, padding |

All fields in network order; 16 bytes, so that it fits the smallest Ethernet frame (18 bytes of UDP over IPv4). The
highest bit of `flow` makes a packet the end marker: its `number` says how many numbers the flow has used.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

HEADER = struct.Struct("!2sHIQ")
MAGIC = b"XP"
END_FLAG = 0x8000
MAX_FLOWS = END_FLAG

_MARKER = re.compile(rb"\{xf:([a-z0-9._-]{1,32})\}")


@dataclass(frozen=True, slots=True)
class Probe:
    """One decoded payload; `number` counts from 0, `sent_ns` is the sender's monotonic clock."""

    flow: int
    number: int
    sent_ns: int
    is_end: bool = False


def parse(payload: bytes | memoryview) -> Probe | None:
    """Return the probe in a UDP payload, or None for any other payload."""
    if len(payload) < HEADER.size:
        return None
    magic, flow, number, sent_ns = HEADER.unpack_from(payload)
    if magic != MAGIC:
        return None
    return Probe(flow & ~END_FLAG, number, sent_ns, bool(flow & END_FLAG))


def encode(probe: Probe) -> bytes:
    """Return the header of `probe`."""
    flow = probe.flow | (END_FLAG if probe.is_end else 0)
    return HEADER.pack(MAGIC, flow, probe.number, probe.sent_ns)


def marker(tenant: str) -> bytes:
    """Return the bytes that mark a payload as the tenant's. Raises ValueError for a name that is not [a-z0-9._-]."""
    text = b"{xf:" + tenant.encode() + b"}"
    if not _MARKER.fullmatch(text):
        raise ValueError(f"tenant {tenant!r}: 1 to 32 characters of a-z, 0-9, '.', '_' and '-'")
    return text


def markers(frame: bytes | memoryview) -> set[str]:
    """Return the tenants whose marker occurs anywhere in a frame."""
    return {found.decode() for found in _MARKER.findall(frame)}


def template(size_bytes: int, tenant: str | None) -> bytes:
    """Return a payload of `size_bytes` with room for the header and the tenant's marker behind it.

    Raises ValueError when the size is too small for both.
    """
    mark = marker(tenant) if tenant else b""
    needed = HEADER.size + len(mark)
    if size_bytes < needed:
        raise ValueError(f"size {size_bytes}: header and marker need {needed} bytes")
    return bytes(HEADER.size) + mark + bytes(size_bytes - needed)

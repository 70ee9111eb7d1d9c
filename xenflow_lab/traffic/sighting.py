"""What a capture counts, and which frames are foreign. Pure: frames in, counts out; memory bounded.

A frame is foreign when any of these holds, each only where it was asked for:
marker   it carries a marker, and not the expected tenant's
mac      its source or (unicast) destination is none of the expected MAC addresses
address  its IP or ARP sender or target is in none of the expected prefixes (group and unspecified addresses are)
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from xenflow_lab.traffic import probe
from xenflow_lab.traffic.frames import Address, Frame

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAX_SAMPLES = 16
_MAX_KEYS = 4096
_OTHER = "other"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What belongs here; an empty field is not checked."""

    tenant: str | None = None
    macs: frozenset[bytes] = frozenset()
    prefixes: tuple[Prefix, ...] = ()

    def foreign(self, frame: Frame, markers: set[str]) -> list[str]:
        """Return why the frame is foreign; empty for one that belongs here."""
        reasons = []
        if self.tenant is not None and markers - {self.tenant}:
            reasons.append("marker")
        if self.macs and not self._knows_macs(frame):
            reasons.append("mac")
        if self.prefixes and not (self._knows(frame.sender) and self._knows(frame.target)):
            reasons.append("address")
        return reasons

    def _knows_macs(self, frame: Frame) -> bool:
        is_group = bool(frame.destination[0] & 1)
        return frame.source in self.macs and (is_group or frame.destination in self.macs)

    def _knows(self, address: Address | None) -> bool:
        if address is None or address.is_multicast or address.is_unspecified or address.is_link_local:
            return True
        if address == ipaddress.IPv4Address("255.255.255.255"):
            return True
        return any(address in prefix for prefix in self.prefixes)


@dataclass(slots=True)
class Direction:
    """Counts of the frames that went one way."""

    frames: int = 0
    length_bytes: int = 0
    untagged: int = 0
    double_tagged: int = 0
    vlans: dict[str, int] = field(default_factory=dict)
    ethertypes: dict[str, int] = field(default_factory=dict)
    markers: dict[str, int] = field(default_factory=dict)
    foreign: dict[str, int] = field(default_factory=dict)
    foreign_frames: int = 0


@dataclass(slots=True)
class Sightings:
    """Everything seen on one interface, and the first foreign frames in hexadecimal."""

    expected: Expectation
    received: Direction = field(default_factory=Direction)
    sent: Direction = field(default_factory=Direction)
    samples: list[str] = field(default_factory=list)

    def add(self, frame: Frame, content: memoryview, length_bytes: int, is_sent: bool) -> None:
        """Count a frame of `length_bytes`, of which `content` was captured; only received frames can be foreign."""
        way = self.sent if is_sent else self.received
        way.frames += 1
        way.length_bytes += length_bytes
        _count(way.ethertypes, f"0x{frame.ethertype:04x}")
        if frame.tags:
            _count(way.vlans, str(frame.tags[0].vid))
            way.double_tagged += len(frame.tags) > 1
        else:
            way.untagged += 1
        markers = probe.markers(content)
        for tenant in markers:
            _count(way.markers, tenant)
        reasons = [] if is_sent else self.expected.foreign(frame, markers)
        if reasons:
            way.foreign_frames += 1
            for reason in reasons:
                _count(way.foreign, reason)
            if len(self.samples) < _MAX_SAMPLES:
                self.samples.append(content[:128].hex())


def _count(counts: dict[str, int], key: str) -> None:
    if key not in counts and len(counts) >= _MAX_KEYS:
        key = _OTHER
    counts[key] = counts.get(key, 0) + 1

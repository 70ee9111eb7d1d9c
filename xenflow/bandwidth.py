"""Bandwidth as values: what is hired, which packets belong to a class, which queues a port has (design/qos.md).

Place in the flow: definitions -> `Machine`, `Network`, `Port` facts -> app -> *PortQueues* -> server -> qos_controller.

Rates are in bit/s of the line as HTB counts it: Ethernet frames with header and tag, without preamble and checksum.
"""

from __future__ import annotations

import math
import re
from typing import ClassVar

import msgspec

DEFAULT_CLASS = 0
"""The class of what no rule of a router names, and of a network's bridged traffic; also its priority code point."""
MAX_CLASSES = 6
"""Classes that a router may define: the priority code points between DEFAULT_CLASS and CONTROL_CLASS."""
CONTROL_CLASS = 7
"""Routing protocols, ARP and neighbor discovery; priority code point 7 is network control (IEEE 802.1Q, annex I)."""
LENGTH = 0x05FF
"""The Ethernet type of a frame that has a length in its place, as OpenFlow 1.0 says it (OFP_DL_TYPE_NOT_ETH_TYPE)."""
MAX_QUEUE = 0x7FFB
"""The largest queue id: one half of HTB's minor numbers is for queues, the other for classes above them."""
MAX_RATE = 1 << 43
"""More than 8 Tbit/s is a mistake."""

_RATE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]?)bit(?:/s)?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_rate(text: str) -> int:
    """Return the bit/s in a text such as ``20Mbit``, ``0.5 Mbit/s``. Raises ValueError for anything else, and for 0."""
    found = _RATE.fullmatch(text.strip())
    rate = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if not 0 < rate <= MAX_RATE:
        raise ValueError(f"not a rate such as 20Mbit: {text!r}")
    return rate


def rate_text(rate: float) -> str:
    """Return a rate in bit/s for a person: ``20 Mbit/s``, ``33.3 Mbit/s``."""
    if rate < 1000 or not math.isfinite(rate):
        return f"{rate:.3g} bit/s"
    unit, size = max(((unit, size) for unit, size in _UNITS.items() if size <= rate), key=lambda item: item[1])
    return f"{rate / size:.4g} {unit}bit/s"


class Match(msgspec.Struct, frozen=True, array_like=True):
    """Packets that have all of this: DSCP (-1: any), IP protocol (-1: any), prefixes (empty: any), port ranges.

    `sources` and `destinations` are prefixes (packed, with length); a range is (first, last), of ports of TCP or UDP,
    or of types of ICMPv6. With an Ethernet type (-1: IP) nothing else counts; LENGTH is that of frames that have a
    length instead (IEEE 802.3).
    """

    dscp: int = -1
    protocol: int = -1
    source: bytes = b""
    destination: bytes = b""
    source_ports: tuple[int, int] | None = None
    destination_ports: tuple[int, int] | None = None
    icmp6_types: tuple[int, int] | None = None
    ethertype: int = -1

    @property
    def needs_ports(self) -> bool:
        """Whether a fragment of a datagram cannot be told to match: only the first one has the ports."""
        return self.source_ports is not None or self.destination_ports is not None


class TrafficClass(msgspec.Struct, frozen=True, array_like=True):
    """A class of a router's traffic: what it hired, what it may reach at most (0: the link), who belongs to it.

    A packet belongs to the first class of which one match fits.
    """

    name: str
    rate: int
    ceiling: int = 0
    matches: tuple[Match, ...] = ()


class Selector(msgspec.Struct, frozen=True, array_like=True):
    """Frames on a port: VLAN id on its wire (0: untagged), source MAC (empty: any), priority code point (-1: any).

    Where frames have no tag, `match` says what the priority code point would have.
    """

    vid: int
    mac: bytes = b""
    pcp: int = -1
    match: Match | None = None


class Queue(msgspec.Struct, frozen=True, array_like=True):
    """A queue of a port. `id` is OpenFlow's; `owner` the router or network; `name` its class, empty for the only one.

    `hired` and `ceiling` (0: the link's capacity) are in bit/s. A `control` queue is not part of what is shared.
    On a datapath that ignores queue ids, frames are told by the first selector that fits, in the order of queues.
    """

    id: int
    owner: str
    name: str
    hired: int
    ceiling: int = 0
    control: bool = False
    selectors: tuple[Selector, ...] = ()


class PortQueues(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """The queues that a port of a node is to have; `capacity` is the link's in bit/s."""

    KIND: ClassVar[int] = 20
    port: str
    capacity: int
    queues: tuple[Queue, ...] = ()

    @property
    def key(self) -> bytes:
        """Key among ports' queues: the port's name."""
        return self.port.encode()


def malformed_match(match: Match) -> str:
    """Return why a match cannot be, empty if it can; prefixes are checked elsewhere."""
    if not -1 <= match.dscp <= 63:
        return "a DSCP is 0 to 63"
    if not -1 <= match.protocol <= 255:
        return "an IP protocol is 0 to 255"
    for ports in (match.source_ports, match.destination_ports):
        if ports is not None and not 0 <= ports[0] <= ports[1] <= 65535:
            return "a range of ports is out of range"
    if match.icmp6_types is not None and not 0 <= match.icmp6_types[0] <= match.icmp6_types[1] <= 255:
        return "a range of ICMPv6 types is out of range"
    if not -1 <= match.ethertype <= 0xFFFF:
        return "an Ethernet type is 0 to 65535"
    return ""


def malformed_class(item: TrafficClass) -> str:
    """Return why a class cannot be, empty if it can."""
    if not 0 < item.rate <= MAX_RATE or (item.ceiling and not item.rate <= item.ceiling <= MAX_RATE):
        return "a class with a rate or ceiling out of range"
    return next(filter(None, map(malformed_match, item.matches)), "")


def malformed_queues(fact: PortQueues) -> str:
    """Return why a port's queues cannot be, empty if they can."""
    if not 0 < fact.capacity <= MAX_RATE:
        return "a capacity out of range"
    if len({queue.id for queue in fact.queues}) != len(fact.queues):
        return "two queues with one id"
    return next(filter(None, map(_malformed_queue, fact.queues)), "")


def _malformed_queue(queue: Queue) -> str:
    if not 0 <= queue.id <= MAX_QUEUE:
        return f"a queue id is 0 to {MAX_QUEUE}"
    if not 0 < queue.hired <= MAX_RATE or (queue.ceiling and not queue.hired <= queue.ceiling <= MAX_RATE):
        return "a queue with a rate or ceiling out of range"
    for selector in queue.selectors:
        if not 0 <= selector.vid <= 4094 or len(selector.mac) not in (0, 6) or not -1 <= selector.pcp <= 7:
            return "a selector with a VLAN id, MAC or priority out of range"
        if selector.match is not None and (problem := malformed_match(selector.match)):
            return problem
    return ""

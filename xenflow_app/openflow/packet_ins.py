"""Packet-ins of one switch that wait for the core: urgent ones first, the others port by port (pure).

Place in the flow: session (whole messages) -> *lanes* -> Host, a slice of time at once -> core.

What it keeps true
- What is urgent, announcements and the probes of links, never waits behind others, however many there are; nor
  do these starve while somebody floods us with announcements: after URGENT_RUN of those one of the others has its turn.
- Ports take turns. A machine that makes its switch send us packets delays those of its own port only.
- It is bounded, in messages and in bytes; when it is full, a port with more than its share loses its newest. So reading
  from the switch never has to stop, and no other queue grows behind a flood.

Nothing is decoded here but port and destination: what waits may be dropped. The order between packet-ins and other
messages is not kept, and need not be: whatever a packet-in leads to is decided by what is true when its turn comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from xenflow.model import ANNOUNCEMENT_MAC
from xenflow_app.openflow.actions import VENDOR
from xenflow_app.openflow.encode import VERSION, Nicira, Type
from xenflow_app.openflow.fields import IN_PORT
from xenflow_app.pipeline import PROBE_MAC

MAX_MESSAGES = 16_384
MAX_BYTES = 1 << 24
MAX_URGENT = 64
"""Urgent ones of one port that may wait: a move needs one announcement."""
_URGENT = frozenset({ANNOUNCEMENT_MAC, PROBE_MAC})
URGENT_RUN = 8
_KIND = bytes([VERSION, Type.VENDOR])
_PACKET_IN = VENDOR.to_bytes(4, "big") + Nicira.PACKET_IN.to_bytes(4, "big")
_FLOW_REMOVED = VENDOR.to_bytes(4, "big") + Nicira.FLOW_REMOVED.to_bytes(4, "big")
_MATCH_LENGTH, _MATCH = slice(32, 34), 40
"""Where struct nx_packet_in has the length of its match, and the match (nicira-ext.h)."""
_PORT_ENTRY = IN_PORT.to_bytes(4, "big")


def is_packet_in(message: bytes) -> bool:
    """Tell whether a whole message is Nicira's packet-in."""
    return message[8:16] == _PACKET_IN and message[:2] == _KIND


def is_flow_removed(message: bytes) -> bool:
    """Tell whether a whole message is Nicira's word for a flow that has aged."""
    return message[8:16] == _FLOW_REMOVED and message[:2] == _KIND


def _is_urgent(message: bytes) -> bool:
    """Tell whether the packet is addressed as announcements or probes are; the switch lets no others come that are."""
    data = _MATCH + (int.from_bytes(message[_MATCH_LENGTH], "big") + 7) // 8 * 8 + 2
    return message[data : data + 6] in _URGENT


def _port(message: bytes) -> bytes:
    """Return the port that the packet came in by, packed; Open vSwitch puts it first (NXM's order). Else b""."""
    return message[_MATCH + 4 : _MATCH + 6] if message[_MATCH : _MATCH + 4] == _PORT_ENTRY else b""


class PacketIns:
    """See the module. `dropped` counts what there was no room for."""

    def __init__(self, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self.dropped = self._told = 0
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._urgent: dict[bytes, deque[bytes]] = {}
        self._lanes: dict[bytes, deque[bytes]] = {}
        self._count = self._bytes = self._run = 0

    def __bool__(self) -> bool:
        return bool(self._lanes or self._urgent)

    def __len__(self) -> int:
        return self._count + sum(map(len, self._urgent.values()))

    def put(self, message: bytes) -> None:
        """Take a packet-in (`is_packet_in`) to wait for its turn."""
        port = _port(message)
        if _is_urgent(message):
            lane = self._urgent.setdefault(port, deque())
            if len(lane) < MAX_URGENT:
                lane.append(message)
            else:
                self.dropped += 1
            return
        self._lanes.setdefault(port, deque()).append(message)
        self._count += 1
        self._bytes += len(message)
        while self._count > self._max_messages or self._bytes > self._max_bytes:
            self._drop(port)

    def take_dropped(self) -> int:
        """Return how many there was no room for since this was asked last."""
        dropped = self.dropped - self._told
        self._told = self.dropped
        return dropped

    @property
    def urgent(self) -> bool:
        """Whether an announcement or a probe waits."""
        return bool(self._urgent)

    def take(self, *, only_urgent: bool = False) -> bytes | None:
        """Return the packet-in whose turn it is; None if none waits."""
        if self._urgent and (self._run < URGENT_RUN or only_urgent or not self._lanes):
            self._run += 1
            return _next(self._urgent)
        self._run = 0
        if only_urgent or not self._lanes:
            return None
        message = _next(self._lanes)
        self._count -= 1
        self._bytes -= len(message)
        return message

    def _drop(self, port: bytes) -> None:
        """Make room: the port that came last pays if it has at least its share, else the one that has most."""
        if port not in self._lanes or len(self._lanes[port]) * len(self._lanes) < self._count:
            port = max(self._lanes, key=lambda other: len(self._lanes[other]))
        lane = self._lanes[port]
        self._count -= 1
        self._bytes -= len(lane.pop())
        self.dropped += 1
        if not lane:
            del self._lanes[port]

    def __iter__(self) -> Iterator[bytes]:
        """Take all, in turn."""
        while (message := self.take()) is not None:
            yield message


def _next(lanes: dict[bytes, deque[bytes]]) -> bytes:
    """Take the next of the first lane, which goes to the end."""
    port = next(iter(lanes))
    lane = lanes.pop(port)
    message = lane.popleft()
    if lane:
        lanes[port] = lane
    return message

"""Which trunk leads where: probes sent out of one end and heard at another (pure; time is an argument).

A probe is an Ethernet frame to a locally administered multicast address, so that it also passes ordinary bridges,
which keep LLDP's own address to themselves. It names the end that sent it and carries a MAC keyed with a secret of
this process: what a machine behind a trunk makes up, or what an older controller sent, is not believed. A link stands
once each end has heard the other. Carrier and BFD tell of its loss; a missing probe does so only after `timeout_s`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable

from xenflow_app.pipeline import PROBE_MAC, PROBE_TYPE
from xenflow_app.topology import Edge, End, edge

_HEAD = struct.Struct(">6s6sH4sQH")
_MAGIC = b"XFP1"
_DIGEST_BYTES = 16
FIRST_INTERVAL_S = 0.1
"""How often an end that has heard nothing yet sends probes."""


class Discovery:
    """See the module. `ends` are the trunk ports that are up."""

    def __init__(self, secret: bytes, interval_s: float = 1.0, timeout_s: float = 10.0) -> None:
        self._secret = secret
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._due: dict[End, float] = {}
        self._since: dict[End, float] = {}
        self._heard: dict[End, tuple[End, float]] = {}
        self._away: set[str] = set()
        self._checked = 0.0

    def node_away(self, node: str) -> None:
        """The node's switch is out of reach: its links stay as they are, since no probe can tell."""
        self._away.add(node)

    def node_back(self, node: str, now: float) -> None:
        """The node's switch is in reach again; its ends get the full time to be heard."""
        self._away.discard(node)
        for end in self.ends(node):
            self._due[end] = self._since[end] = now
        for end, (other, _) in self._heard.items():
            if node in (end.node, other.node):
                self._heard[end] = (other, now)

    def open(self, end: End, now: float) -> None:
        """A trunk's end is there and up."""
        if end not in self._due:
            self._due[end] = now
            self._since[end] = now

    def close(self, end: End) -> None:
        """A trunk's end is gone or down."""
        self._due.pop(end, None)
        self._since.pop(end, None)
        self._heard.pop(end, None)

    def ends(self, node: str) -> set[End]:
        """Return the ends at a node that are up."""
        return {end for end in self._due if end.node == node}

    def probes(self, now: float) -> list[End]:
        """Return the ends that shall send a probe now."""
        due = [end for end, when in self._due.items() if when <= now]
        for end in due:
            self._due[end] = now + (self._interval_s if end in self._heard else FIRST_INTERVAL_S)
        return due

    def frame(self, end: End, dpid: int) -> bytes:
        """Return the probe to send from `end`, at least 60 bytes."""
        body = _HEAD.pack(PROBE_MAC, b"\x02XFP\0\0", PROBE_TYPE, _MAGIC, dpid, end.port)
        return (body + self._digest(body)).ljust(60, b"\0")

    def hear(self, end: End, frame: bytes, node_of: Callable[[int], str | None], now: float) -> bool:
        """Take in a probe that arrived at `end`; True when the links have changed. What is not ours is ignored."""
        if len(frame) < _HEAD.size + _DIGEST_BYTES or end not in self._due:
            return False
        body = frame[: _HEAD.size]
        if not hmac.compare_digest(frame[_HEAD.size : _HEAD.size + _DIGEST_BYTES], self._digest(body)):
            return False
        node = node_of(_HEAD.unpack(body)[4])
        if node is None or node == end.node:
            return False
        sender = End(node, _HEAD.unpack(body)[5])
        before = self._heard.get(end)
        self._heard[end] = (sender, now)
        return before is None or before[0] != sender

    def expire(self, now: float) -> bool:
        """Forget ends that have heard nothing for `timeout_s`; True when there were any.

        After a pause of this process all that was not heard meanwhile gets another interval.
        """
        paused = now - self._checked > 2 * self._interval_s
        self._checked = now
        late = [
            end
            for end, (other, when) in self._heard.items()
            if now - when > self._timeout_s and not {end.node, other.node} & self._away
        ]
        for end in late:
            if paused:
                self._heard[end] = (self._heard[end][0], now - self._timeout_s + 2 * self._interval_s)
            else:
                del self._heard[end]
        return bool(late) and not paused

    def links(self) -> set[Edge]:
        """Return the links that both ends agree on."""
        return {
            edge(end, other)
            for end, (other, _) in self._heard.items()
            if (back := self._heard.get(other)) is not None and back[0] == end
        }

    def waiting(self, now: float, patience_s: float) -> bool:
        """Tell whether an end that came up less than `patience_s` ago has not been heard yet."""
        linked = {end for link in self.links() for end in (link.a, link.b)}
        return any(
            now - since < patience_s
            for end, since in self._since.items()
            if end not in linked and end.node not in self._away
        )

    def next_deadline(self) -> float:
        """Return when `probes` has something to do."""
        return min(self._due.values(), default=float("inf"))

    def _digest(self, body: bytes) -> bytes:
        return hmac.new(self._secret, body, hashlib.blake2s).digest()[:_DIGEST_BYTES]

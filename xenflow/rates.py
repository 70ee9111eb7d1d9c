"""How often each peer may do something: a token bucket for each, and nothing but arithmetic."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_PEERS: Final = 1024
"""Peers that are remembered; who has been quiet for longest is forgotten first, and starts with a full bucket."""


class PeerRates:
    """Up to `burst` at once, `rate_per_s` in the long run, for each peer by itself."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, at time

    def take(self, peer: str, now: float) -> bool:
        """Return whether `peer` may do it once more at `now` (seconds), and count it if so."""
        tokens, then = self._buckets.pop(peer, (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - then) * self.rate_per_s)
        allowed = tokens >= 1
        self._buckets[peer] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > MAX_PEERS:
            self._buckets.popitem(last=False)
        return allowed

"""Whether the other end of a connection can still be reached, by what the kernel says about it (tcp(7), TCP_INFO).

A machine that was moved holds connections to a server that hears it no longer, and nobody closes them. A server that
is merely busy does not answer our Pings for long either, but its kernel acknowledges what we send. So what counts is
data that nobody has acknowledged for a while: sent and lost, not sent and unread.
"""

from __future__ import annotations

import socket
import struct
from typing import Protocol

LOST_AFTER_S = 0.6
"""Two retransmissions (after 0.2 s and 0.4 s more) have not been acknowledged either."""
_INFO_BYTES = 60
_UNACKED = struct.Struct("=24xI28xI")
"""struct tcp_info of linux/tcp.h: tcpi_unacked (segments), tcpi_last_ack_recv (ms ago)."""


class Options(Protocol):
    """What is needed of a socket."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """Return an option's bytes."""


class Path:
    """Judges one connection; `lost` is asked again and again."""

    def __init__(self) -> None:
        self._since: float | None = None

    def lost(self, now: float, unacked: int, acked_ago_s: float) -> bool:
        """Return whether what we sent has not been acknowledged for LOST_AFTER_S, as far as we have looked."""
        if not unacked:
            self._since = None
        elif self._since is None or now - acked_ago_s > self._since:
            self._since = now
        return self._since is not None and now - self._since >= LOST_AFTER_S


def unacknowledged(connection: Options) -> tuple[int, float]:
    """Return how many segments are on their way, and how many seconds ago any was acknowledged. Raises OSError."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    unacked, acked_ago_ms = _UNACKED.unpack(info)
    return unacked, acked_ago_ms / 1000

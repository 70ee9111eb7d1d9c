"""What the other side of a session may take: sizes and deadlines."""

from __future__ import annotations

from dataclasses import dataclass

from xenflow.wire import MAX_FRAME_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes and deadlines in seconds of one session.

    `keepalive_s` of silence (either way) sends a Ping, `idle_s` without a byte from the other side ends the session.
    Before the handshake is complete frames are small and time is short: the other side is nobody yet.
    """

    frame_bytes: int = MAX_FRAME_BYTES
    handshake_frame_bytes: int = 4096
    handshake_s: float = 5.0
    frame_s: float = 10.0
    """From the first byte of a frame to its last."""
    keepalive_s: float = 2.0
    idle_s: float = 10.0
    stalled_s: float = 60.0
    """How long the other side may leave unread what we send; watched by the channel."""

"""Pure: what the app has installed, in the sequence numbers of the client.

    client seq 7 -> outbox seq 3 -> app: Ack(3) -> client: Ack(7)

Rules: acknowledgements are cumulative on both sides. A client's number is reached when everything that came with it
or before it is installed; numbers of a client's earlier session mean nothing to it.
"""

from __future__ import annotations

from collections import deque


class AckMap:
    """Which client number is contained in which outbox number."""

    def __init__(self) -> None:
        self._received = 0
        self._acked = 0
        self._installed = -1  # outbox number
        self._waiting: deque[tuple[int, int]] = deque()  # (outbox number, client number), both growing

    @property
    def acked(self) -> int:
        """The client's number that has been reached; 0 for none."""
        return self._acked

    def received(self, client_seq: int) -> None:
        """The client's messages up to this number are in the outbox."""
        self._received = client_seq

    def sent(self, seq: int) -> None:
        """The outbox has been emptied; `seq` is its last number."""
        if self._waiting and self._waiting[-1][0] == seq:
            self._waiting.pop()
        self._waiting.append((seq, self._received))

    def installed(self, seq: int) -> int | None:
        """The app has installed all up to `seq`: return the client's number that this reaches, None if no further."""
        reached = None
        self._installed = max(self._installed, seq)
        while self._waiting and self._waiting[0][0] <= seq:
            reached = self._waiting.popleft()[1]
        return self._advance(reached)

    def unchanged(self, seq: int) -> int | None:
        """What the client sent last changed nothing and `seq` is the outbox's last number; return as `installed`."""
        if self._installed >= seq:
            return self._advance(self._received)
        if self._waiting:
            self.sent(seq)
        return None

    def disconnected(self) -> None:
        """The app is away: what was sent to it will be sent again under new numbers."""
        self._waiting.clear()
        self._installed = -1

    def restart(self) -> None:
        """A new session of the client: its numbers start anew."""
        self._received = self._acked = 0
        self._waiting = deque((seq, 0) for seq, _ in self._waiting)

    def _advance(self, reached: int | None) -> int | None:
        if reached is None or reached <= self._acked:
            return None
        self._acked = reached
        return reached

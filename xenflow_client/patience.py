"""How long an attempt to connect may take: pure, seconds in, seconds out.

A host that is out of reach is soon tried again. A VM that gets little of the processor must be given the time that a
handshake takes it: each attempt that was given up doubles the limit, up to the server's own patience, and what the last
handshake took counts for the first attempt at the next server, too, which may be no faster.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_S = 1.5
MOST_S = 5.0
_MARGIN = 4.0
"""The next host is new to the machine: no cache knows it yet, and it has just come."""


@dataclass(slots=True)
class Patience:
    """`limit_s` counts for the next attempt."""

    limit_s: float = LEAST_S
    _took_s: float = 0.0

    def gave_up(self) -> None:
        """An attempt has not come to its end in time."""
        self.limit_s = min(2 * self.limit_s, MOST_S)

    def succeeded(self, took_s: float) -> None:
        """An attempt has taken so long and made a connection."""
        self._took_s = took_s

    def steady(self) -> None:
        """The connection lasts: the next failure is a new one."""
        self.limit_s = min(max(_MARGIN * self._took_s, LEAST_S), MOST_S)

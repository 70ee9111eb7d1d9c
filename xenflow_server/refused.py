"""What this node has refused, for the app to show: connections at its listener, facts of routers at their door.

Place in the flow: listener, doors -> *counts, once a second at the most* -> Uplink -> app (`xenflow status`).

They are logged where they are refused: by the listener, by the router's session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xenflow.errors import Fault
from xenflow.wire import Refused

EVERY_S = 1.0


class RefusedCounts:
    """Compares counts with what the app knows. `facts` returns those of each router, by reason."""

    def __init__(self, facts: Callable[[], Mapping[str, Mapping[str, int]]]) -> None:
        self.doors: dict[str, Mapping[Fault, int]] = {}
        """Refused peers by fault, of each listener; they go on counting."""
        self._facts = facts
        self._told: dict[str, int] = {}

    def forget(self) -> None:
        """The app knows nothing yet."""
        self._told = {}

    def news(self) -> Refused | None:
        """Return all counts if the app does not know them yet."""
        counts = {f"{where}: {fault}": count for where, door in self.doors.items() for fault, count in door.items()}
        for router, reasons in self._facts().items():
            counts |= {f"router {router}: {why}": count for why, count in reasons.items()}
        if counts == self._told:
            return None
        self._told = counts
        return Refused(counts)

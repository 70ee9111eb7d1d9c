"""What this node has refused, for the app to show: connections at its listener, facts of routers at their door.

Place in the flow: listener, doors -> *counts, once a second at the most* -> Uplink -> app (`xenflow status`).

Facts that are refused are also logged here, now and then; connections are by the listener itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xenflow.errors import Fault
from xenflow.tally import Tally
from xenflow.wire import Refused

EVERY_S = 1.0


class RefusedCounts:
    """Compares counts with what the app knows. `facts` returns those of each router, by reason."""

    def __init__(self, facts: Callable[[], Mapping[str, Mapping[str, int]]]) -> None:
        self.doors: dict[str, Mapping[Fault, int]] = {}
        """Refused peers by fault, of each listener; they go on counting."""
        self._facts = facts
        self._told: dict[str, int] = {}
        self._seen: dict[tuple[str, str], int] = {}
        self._tally = Tally("refused")

    def forget(self) -> None:
        """The app knows nothing yet."""
        self._told = {}

    def news(self, now: float) -> Refused | None:
        """Return all counts if the app does not know them yet; `now` in seconds."""
        facts = {(router, why): count for router, reasons in self._facts().items() for why, count in reasons.items()}
        for (router, why), count in facts.items():
            more = count - self._seen.get((router, why), 0)
            if more:
                self._tally.add(f"router {router}", why, now, more if more > 0 else count)
        self._seen = facts
        peers = {f"{where}: {fault}": count for where, door in self.doors.items() for fault, count in door.items()}
        counts = peers | {f"router {router}: {why}": count for (router, why), count in facts.items()}
        if counts == self._told:
            return None
        self._told = counts
        return Refused(counts)

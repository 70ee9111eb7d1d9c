"""What is reported to the server: the facts, as many routes of them as the cap allows.

    Kernel -put, drop-> Report -CappedRoutes-> Outbox -take-> messages

Rules: above the cap the shortest prefixes are kept back (see xenflow.capped for why), `ShedRoutes` says how many, and
they return when there is room. Without a cap a route costs nothing here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from xenflow.capped import CappedRoutes, Move
from xenflow.model import Fact, Route, ShedRoutes
from xenflow.replica import Outbox

logger = logging.getLogger(__name__)


class Report:
    """The sink that feeds an Outbox; `changed` is called when there may be something to send."""

    def __init__(self, outbox: Outbox, changed: Callable[[], None] = lambda: None) -> None:
        self.outbox = outbox
        self.changed = changed
        self._capped: CappedRoutes[Route] | None = None

    @property
    def shed(self) -> int:
        """How many routes are kept back."""
        return self._capped.shed if self._capped is not None else 0

    def put(self, fact: Fact) -> None:
        """Add or replace a fact."""
        if self._capped is None or not isinstance(fact, Route):
            self.outbox.put(fact)
        else:
            self._apply(self._capped.put(fact.prefix, fact))

    def drop(self, kind: int, key: bytes) -> None:
        """Remove a fact."""
        if self._capped is None or kind != Route.KIND:
            self.outbox.drop(kind, key)
        else:
            self._apply(self._capped.drop(key))

    def set_cap(self, cap: int) -> None:
        """Report `cap` routes at the most from now on; 0 is no cap."""
        if self._capped is not None:
            self._apply(self._capped.set_cap(cap))
            if not cap:
                self._capped = None
        elif cap:
            self._capped = CappedRoutes(0)
            for route in self.outbox.facts.of(Route.KIND).values():
                if isinstance(route, Route):
                    self._capped.put(route.prefix, route)
            self._apply(self._capped.set_cap(cap))

    def _apply(self, moves: Iterable[Move]) -> None:
        capped = self._capped
        if capped is None:
            return
        for move in moves:
            if move.shown:
                self.outbox.put(capped[move.prefix])
            else:
                self.outbox.drop(Route.KIND, move.prefix)
        if capped.shed:
            if not self.outbox.facts.of(ShedRoutes.KIND):
                logger.warning("too many routes: the shortest prefixes are not reported (cap=%d)", capped.cap)
            self.outbox.put(ShedRoutes(capped.shed))
        elif self.outbox.facts.of(ShedRoutes.KIND):
            logger.info("all routes are reported again (cap=%d)", capped.cap)
            self.outbox.drop(ShedRoutes.KIND, b"")


def lower_cap(ours: int, theirs: int) -> int:
    """Return the lower of two caps, of which 0 is none."""
    return min(ours, theirs) if ours and theirs else ours or theirs

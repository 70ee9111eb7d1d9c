"""Counts what happens again and again, by place and reason, and logs it now and then: no flood becomes one of lines.

Rules: all is counted; each place and reason has one line in REPEAT_S, with the number of times since its last one. What
is told apart is bounded, so that nobody who makes up places or reasons can fill the memory.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

log = logging.getLogger(__name__)

REPEAT_S = 60.0
MAX_KEPT = 1024
"""Places and reasons that are told apart; the others are counted together."""
_ELSEWHERE = ("elsewhere", "too many different ones")


class Tally:
    """See the module. `what` is the first word of its lines in the log."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._counts: Counter[tuple[str, str]] = Counter()
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    @property
    def total(self) -> int:
        """How often in all."""
        return self._counts.total()

    def lines(self) -> Iterable[tuple[str, int]]:
        """Return each place and reason in words, and how often, sorted."""
        return sorted((f"{where}: {why}", count) for (where, why), count in self._counts.items())

    def add(self, where: str, why: str, now: float, times: int = 1) -> None:
        """Count, at time `now` in seconds, and log unless that has been done recently."""
        kind = (where, why)
        if kind not in self._counts and len(self._counts) >= MAX_KEPT:
            kind = _ELSEWHERE
        self._counts[kind] += times
        when, count = self._logged.get(kind, (float("-inf"), 0))
        if now - when >= REPEAT_S:
            self._logged[kind] = (now, self._counts[kind])
            log.warning("%s at=%s why=%s times=%d", self._what, *kind, self._counts[kind] - count)

"""Counts whom we refuse, and says so once: a flood of refusals must not become a flood of log lines."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from xenflow.errors import Fault, RemoteProtocolError

_log = logging.getLogger(__name__)

REPEAT_S: Final = 60.0
"""The same peer is named again for the same fault after this time at the earliest, with the count in between."""
_MAX_REMEMBERED: Final = 1024
_MAX_LINES: Final = 20
"""Lines in REPEAT_S over all peers; many peers at once are a flood too."""


class Refusals:
    """Refused peers by fault. `counts` counts all of them; the log gets one line for each (peer, fault)."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._counts: Counter[Fault] = Counter()
        self._logged: OrderedDict[tuple[str, Fault], float] = OrderedDict()
        self._silent: Counter[tuple[str, Fault]] = Counter()
        self._lines, self._window = 0, float("-inf")

    @property
    def counts(self) -> Mapping[Fault, int]:
        """How often each fault was refused; a live view."""
        return MappingProxyType(self._counts)

    def add(self, peer: str, error: RemoteProtocolError, now: float) -> None:
        """Count a refusal at time `now` (seconds) and log it, if this peer has not been named for it recently."""
        key = (peer, error.fault)
        self._counts[error.fault] += 1
        if now - self._logged.get(key, float("-inf")) < REPEAT_S or not self._line_left(now):
            if key in self._silent or len(self._silent) < _MAX_REMEMBERED:
                self._silent[key] += 1
            return
        self._logged[key] = now
        self._logged.move_to_end(key)
        while len(self._logged) > _MAX_REMEMBERED:
            self._silent.pop(self._logged.popitem(last=False)[0], None)
        repeated = self._silent.pop(key, 0)
        _log.warning(
            "refused at=%s peer=%s fault=%s unlogged=%d why=%s", self.where, peer, error.fault, repeated, error
        )

    def _line_left(self, now: float) -> bool:
        if now - self._window >= REPEAT_S:
            self._lines, self._window = 0, now
        self._lines += 1
        return self._lines <= _MAX_LINES

"""How long to wait before the next attempt: exponential, bounded, with jitter, and nothing but arithmetic."""

from __future__ import annotations

import random
from collections.abc import Callable

from xenflow.errors import ConfigError

_FACTOR = 2.0
_JITTER = 0.5
"""A wait is between (1 - _JITTER) and 1 times its nominal length, so that many clients do not come at once."""


class Backoff:
    """Waits that double from `initial_s` to `maximum_s`; `reset` after a success.

    `maximum_s` is never exceeded: it bounds how late an attempt can be once the other side is reachable.
    """

    def __init__(
        self, initial_s: float = 0.1, maximum_s: float = 0.5, uniform: Callable[[], float] = random.random
    ) -> None:
        if not 0 < initial_s <= maximum_s:
            raise ConfigError([f"back-off from {initial_s:g} s to {maximum_s:g} s: must be above 0 and not decrease"])
        self.initial_s = initial_s
        self.maximum_s = maximum_s
        self.attempts = 0
        self._uniform = uniform
        self._nominal_s = initial_s

    def next(self) -> float:
        """Return how many seconds to wait now."""
        self.attempts += 1
        nominal_s = self._nominal_s
        self._nominal_s = min(nominal_s * _FACTOR, self.maximum_s)
        return nominal_s * (1 - _JITTER * self._uniform())

    def reset(self) -> None:
        """Begin anew: the last attempt succeeded."""
        self.attempts = 0
        self._nominal_s = self.initial_s

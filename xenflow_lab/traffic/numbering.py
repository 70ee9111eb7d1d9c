"""The numbers that a sender gives to a flow's packets, and the test mode that spoils them in a known way.

The faults exist to prove the receiver: what it reports must be what was done here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """Every so many-th number (0: never) is left out, sent twice, or held back behind `extent` later numbers."""

    skip_every: int = 0
    duplicate_every: int = 0
    delay_every: int = 0
    extent: int = 3


class Numbering:
    """Hands out one flow's numbers in the order of sending; `total` numbers have been used so far."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._again: int | None = None
        self._held: deque[int] = deque()
        self.total = 0
        self.skipped = 0
        self.duplicated = 0
        self.delayed = 0

    def take(self) -> int:
        """Return the number of the next packet to send."""
        while True:
            if self._again is not None:
                number, self._again = self._again, None
                return number
            if self._held and self.total > self._held[0] + self._faults.extent:
                return self._held.popleft()
            number = self.total
            self.total += 1
            if _is_nth(number, self._faults.skip_every):
                self.skipped += 1
            elif _is_nth(number, self._faults.delay_every):
                self._held.append(number)
                self.delayed += 1
            else:
                if _is_nth(number, self._faults.duplicate_every):
                    self._again = number
                    self.duplicated += 1
                return number

    def rest(self) -> list[int]:
        """Return the numbers that are still to be sent when no more is taken."""
        rest = [] if self._again is None else [self._again]
        rest.extend(self._held)
        self._again = None
        self._held.clear()
        return rest


def _is_nth(number: int, every: int) -> bool:
    return every > 0 and number % every == every - 1

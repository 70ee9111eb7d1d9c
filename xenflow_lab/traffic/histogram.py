"""Percentiles of many values in little memory: exponential buckets with 128 linear steps each (error below 1 %)."""

from __future__ import annotations

from collections import Counter

_STEP_BITS = 7


class Histogram:
    """Counts non-negative integers; keeps at most a few thousand buckets whatever is put in, and the exact maximum."""

    __slots__ = ("_buckets", "count", "maximum")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.maximum = 0

    def add(self, value: int) -> None:
        """Count `value`; a negative one counts as 0."""
        value = max(value, 0)
        self.count += 1
        if value > self.maximum:
            self.maximum = value
        shift = max(value.bit_length() - _STEP_BITS - 1, 0)
        self._buckets[(shift << _STEP_BITS) + (value >> shift)] += 1

    def include(self, other: Histogram) -> None:
        """Count all that `other` has counted."""
        self._buckets.update(other._buckets)
        self.count += other.count
        self.maximum = max(self.maximum, other.maximum)

    def percentile(self, percent: float) -> int | None:
        """Return a value that `percent` of the counted ones do not exceed (by less than 1 %), None when empty."""
        if not self.count:
            return None
        wanted = self.count * percent / 100
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(_upper_edge(bucket), self.maximum)
        return self.maximum

    def summary(self) -> dict[str, int | None]:
        """Return the percentiles that the reports show."""
        return {
            "p50": self.percentile(50),
            "p99": self.percentile(99),
            "p99.99": self.percentile(99.99),
            "max": self.maximum if self.count else None,
        }


def _upper_edge(bucket: int) -> int:
    shift = max((bucket >> _STEP_BITS) - 1, 0)
    return ((bucket - (shift << _STEP_BITS) + 1) << shift) - 1

"""What a receiver knows of one flow. Pure: arrivals in, figures out; memory bounded by one bit for each number."""

from __future__ import annotations

from dataclasses import dataclass, field

from xenflow_lab.traffic.histogram import Histogram

MAX_NUMBER = 1 << 27
"""Numbers from here on are not counted (the bitmap of a flow stays below 16 MiB)."""
MAX_WINDOWS = 32
MAX_INTERVALS = 100_000


@dataclass(slots=True)
class Window:
    """A stretch of arrivals with late packets; `extent` is by how many numbers the latest of them was late."""

    at_ns: int
    packets: int = 0
    extent: int = 0


@dataclass(slots=True)
class FlowCount:
    """Counts one flow.

    A number seen again is a duplicate. A number seen for the first time after a higher one is reordered (RFC 4737,
    section 3.3); reordered packets without an in-order one between them form a window. A number that never came is
    lost; how many were sent is known from the end marker, without one from the highest number.
    """

    interval_ns: int = 0
    received: int = 0
    duplicated: int = 0
    reordered: int = 0
    windows: int = 0
    extent_max: int = 0
    uncounted: int = 0
    payload_bytes: int = 0
    total: int | None = None
    first_ns: int = 0
    last_ns: int = 0
    longest_gap_at_ns: int = 0
    gaps: Histogram = field(default_factory=Histogram)
    delays: Histogram = field(default_factory=Histogram)
    first_windows: list[Window] = field(default_factory=list)
    intervals: dict[int, int] = field(default_factory=dict)
    _highest: int = -1
    _in_window: bool = False
    _seen: bytearray = field(default_factory=bytearray)

    def arrive(self, number: int, sent_ns: int, now_ns: int, size_bytes: int) -> None:
        """Count a packet that arrived at `now_ns` (monotonic, never going back by more than the clock's noise)."""
        if number >= MAX_NUMBER:
            self.uncounted += 1
            return
        self._count_time(sent_ns, now_ns, size_bytes)
        seen = self._seen
        index, bit = number >> 3, 1 << (number & 7)
        if index >= len(seen):
            seen.extend(bytes(max(index + 1 - len(seen), 1024)))
        if seen[index] & bit:
            self.duplicated += 1
            return
        seen[index] |= bit
        self.received += 1
        if number > self._highest:
            self._highest = number
            self._in_window = False
        else:
            self._count_late(self._highest - number, now_ns)

    def end(self, total: int) -> None:
        """Note the end marker: the sender has used `total` numbers."""
        self.total = max(total, self.total or 0)

    @property
    def expected(self) -> int:
        """How many numbers the sender has used, as far as it is known."""
        return max(self.total or 0, self._highest + 1)

    @property
    def lost(self) -> int:
        """How many numbers never came."""
        return self.expected - self.received

    def longest_loss(self) -> int:
        """Return the length of the longest run of consecutive numbers that never came."""
        if not self.lost:
            return 0
        seen = format(int.from_bytes(self._seen, "little"), "b")[::-1][: self.expected]
        return max(map(len, seen.ljust(self.expected, "0").split("1")))

    def rates_bps(self) -> list[float]:
        """Return the payload rate in each interval since the first arrival; empty without `interval_ns`."""
        if not self.intervals:
            return []
        seconds = self.interval_ns / 1e9
        return [self.intervals.get(i, 0) * 8 / seconds for i in range(max(self.intervals) + 1)]

    def _count_time(self, sent_ns: int, now_ns: int, size_bytes: int) -> None:
        if not self.first_ns:
            self.first_ns = now_ns
        else:
            gap = now_ns - self.last_ns
            if gap > self.gaps.maximum:
                self.longest_gap_at_ns = self.last_ns
            self.gaps.add(gap)
        self.last_ns = max(now_ns, self.last_ns)
        self.delays.add(now_ns - sent_ns)
        self.payload_bytes += size_bytes
        if self.interval_ns:
            interval = (now_ns - self.first_ns) // self.interval_ns
            if 0 <= interval < MAX_INTERVALS:
                self.intervals[interval] = self.intervals.get(interval, 0) + size_bytes

    def _count_late(self, extent: int, now_ns: int) -> None:
        self.reordered += 1
        self.extent_max = max(self.extent_max, extent)
        if not self._in_window:
            self._in_window = True
            self.windows += 1
            if self.windows <= MAX_WINDOWS:
                self.first_windows.append(Window(now_ns))
        if self.windows <= MAX_WINDOWS:
            window = self.first_windows[-1]
            window.packets += 1
            window.extent = max(window.extent, extent)

"""What classes have used: samples of counters become rates, of which the last few are kept (pure; time is an argument).

Place in the flow: HTB's class statistics -> `Sample` -> `History` -> `Load` -> `policy.decide`.

Rules: a rate is bytes between two samples over the time between them. An interval in which a counter ran backwards
(the class was made anew) or in which the clock did not go forward is dropped, and the later sample counts from there.
A class that was not sampled is forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

NEARLY_ALL: Final = 0.99
"""A class that uses this part of its ceiling uses nearly all that it may."""
MAX_GAP: Final = 10.0
"""An interval longer than this many times `t_med_s` says nothing of now: the clock stepped, or we stood still."""


class Sample(msgspec.Struct, frozen=True, gc=False):
    """The counters of a class at a time of a clock that never runs backwards by itself (seconds).

    `bytes`, `packets` and `drops` count up from when the class was made, `backlog_bytes` wait now. `ceiling_bps` is
    the class's ceiling in the interval before (0: not known).
    """

    time_s: float
    bytes: int
    packets: int = 0
    drops: int = 0
    backlog_bytes: int = 0
    ceiling_bps: int = 0


class Load(msgspec.Struct, frozen=True, gc=False):
    """What a class has used: the mean of its last `k_med` rates.

    `backlogged`: in the latest interval and in more than half of `k_med` it wanted more than it got. So a burst of one
    interval is no standing backlog, unless `k_med` is 1, and the end of one shows at once.
    """

    rate_bps: float = 0.0
    backlogged: bool = False
    last_bps: float = 0.0
    """The latest rate alone."""
    backlog_bytes: int = 0
    drops: int = 0
    """Packets dropped in the intervals that count."""
    is_known: bool = True
    """False as long as nothing has been measured."""


IDLE: Final = Load(is_known=False)


class _Interval(msgspec.Struct, frozen=True, gc=False):
    rate_bps: float
    is_busy: bool
    drops: int


class History:
    """The last `k_med` intervals of each class of a link, by queue id."""

    def __init__(self, k_med: int, t_med_s: float) -> None:
        self._k_med = k_med
        self._max_gap_s = MAX_GAP * t_med_s
        self._last: dict[int, Sample] = {}
        self._intervals: dict[int, deque[_Interval]] = {}

    def observe(self, samples: Mapping[int, Sample]) -> None:
        """Take in one sample of each class of the link."""
        for queue in self._last.keys() - samples.keys():
            del self._last[queue]
            del self._intervals[queue]
        for queue, sample in samples.items():
            kept = self._intervals.setdefault(queue, deque(maxlen=self._k_med))
            before = self._last.get(queue)
            if before is not None and (interval := _interval(before, sample, self._max_gap_s)) is not None:
                kept.append(interval)
            self._last[queue] = sample

    def loads(self) -> dict[int, Load]:
        """Return what each class uses; idle as long as nothing is known."""
        return {
            queue: _load(intervals, self._k_med, self._last[queue].backlog_bytes)
            for queue, intervals in self._intervals.items()
        }

    def forget(self, queues: Iterable[int]) -> None:
        """Begin anew with these classes, as after a change of what they are."""
        for queue in queues:
            self._last.pop(queue, None)
            self._intervals.pop(queue, None)


def _interval(before: Sample, after: Sample, max_gap_s: float) -> _Interval | None:
    """Return what happened between two samples; None if they do not tell."""
    seconds = after.time_s - before.time_s
    if not 0 < seconds <= max_gap_s:
        return None
    if after.bytes < before.bytes or after.packets < before.packets or after.drops < before.drops:
        return None
    rate_bps = (after.bytes - before.bytes) * 8 / seconds
    drops = after.drops - before.drops
    at_ceiling = after.ceiling_bps > 0 and rate_bps >= NEARLY_ALL * after.ceiling_bps
    standing = before.backlog_bytes > 0 and after.backlog_bytes > 0
    return _Interval(rate_bps, drops > 0 or standing or at_ceiling, drops)


def _load(intervals: deque[_Interval], k_med: int, backlog_bytes: int) -> Load:
    if not intervals:
        return IDLE
    return Load(
        rate_bps=sum(interval.rate_bps for interval in intervals) / len(intervals),
        backlogged=intervals[-1].is_busy and 2 * sum(interval.is_busy for interval in intervals) > k_med,
        last_bps=intervals[-1].rate_bps,
        backlog_bytes=backlog_bytes,
        drops=sum(interval.drops for interval in intervals),
    )

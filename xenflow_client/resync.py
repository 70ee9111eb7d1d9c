"""When to dump which of the kernel's tables. Pure, time is an argument.

    IDLE --due--> DUMPING(table) --end, trusted--> next table, or IDLE
                     |  ^                |
             overrun |  | (drained)      | not trusted: the same table again, after a pause
                     v  |
                  SPOILED: the kernel still sends the old dump; it is drained, then all starts again

Events get lost when the kernel produces more than the socket's buffer holds (ENOBUFS), and some changes make no event
at all (see Kernel.recheck). So: everything at the start, after an overrun, and every `interval_s` without a reason.
Dumps keep a distance that grows with what they cost, so that they never take more than a fraction of a core.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from xenflow_client.rtnetlink import Table

_PAUSE_S = 0.02
_COST_FACTOR = 3.0
_SILENCE_S = 30.0
"""So long may the kernel say nothing of a dump before it is given up (its answer, an error, was lost)."""
_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 60.0


@dataclass(slots=True)
class Resync:
    """`ready` turns true when every table has been dumped once; `why` says what the running dump is for."""

    interval_s: float = 300.0
    ready: bool = False
    why: str = ""
    dumping: Table | None = None
    seq: int = 0
    _missing: set[Table] = field(default_factory=lambda: set(Table))
    _wanted: set[Table] = field(default_factory=set)
    _due_s: float = 0.0
    _full_due_s: float = 0.0
    _started_s: float = 0.0
    _progress_s: float = 0.0
    _free_s: float = 0.0
    _retry_s: float = _FIRST_RETRY_S
    _spoiled: bool = False

    def want(self, tables: Collection[Table], why: str, now: float) -> None:
        """Ask for dumps of `tables`; they start together with what is wanted already."""
        if not self._wanted:
            self._due_s = max(now + _PAUSE_S, self._free_s)
            self.why = why
        elif self.ready:
            self._due_s = max(self._due_s, self._free_s)
        self._wanted.update(tables)

    def overrun(self, now: float) -> None:
        """Events were lost: nothing that the running dump has listed can be trusted either."""
        self._spoiled = self.dumping is not None
        self.want(set(Table), "overrun", now)

    def next_deadline(self) -> float:
        """Return when `start` may have something to do."""
        if self.dumping is not None:
            return self._progress_s + _SILENCE_S
        return min(self._due_s, self._full_due_s) if self._wanted else self._full_due_s

    def start(self, now: float) -> tuple[Table, int] | None:
        """Return the table to dump now and the request's number, or None."""
        if self.dumping is not None:
            return None
        if now >= self._full_due_s:
            self.want(set(Table), "periodic" if self.ready else "start", now)
            self._due_s = now if not self.ready else self._due_s
            self._full_due_s = now + self.interval_s
        if not self._wanted or now < self._due_s:
            return None
        self.dumping = min(self._wanted)
        self._wanted.discard(self.dumping)
        self.seq += 1
        self._started_s = self._progress_s = now
        self._spoiled = False
        return self.dumping, self.seq

    def progress(self, now: float) -> None:
        """A part of the running dump arrived."""
        self._progress_s = now

    def silent(self, now: float) -> bool:
        """Return whether the running dump must be given up."""
        return self.dumping is not None and now >= self._progress_s + _SILENCE_S

    @property
    def complete(self) -> bool:
        """Whether the dump that runs counts (nothing was lost since it started)."""
        return not self._spoiled

    def end(self, trusted: bool, now: float) -> None:
        """The dump is over."""
        table, self.dumping = self.dumping, None
        if table is None:
            return
        self._free_s = now + _COST_FACTOR * (now - self._started_s)
        if trusted:
            self._retry_s = _FIRST_RETRY_S
            self._missing.discard(table)
            self.ready = self.ready or not self._missing
            return
        self._wanted.add(table)
        self._due_s = now + (_PAUSE_S if self._spoiled else self._retry_s)
        if not self._spoiled:
            self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)

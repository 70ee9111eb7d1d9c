"""A loop whose clock stands while something happens, and jumps over waits when nothing does.

For both ends of a conversation in one loop: seconds of patience pass in milliseconds, and a slow machine, which is busy
and does not wait, uses up nobody's patience. Not for what another process or the kernel's own clock decides.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")

_SETTLE_S = 0.001
"""How long nothing may happen, in real time, before the clock jumps: what was sent on loopback has arrived by then."""


class _Jumping(selectors.DefaultSelector):
    """Waits for files for a moment only; `now_s` is what the clock shows."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        events = super().select(min(timeout, _SETTLE_S))
        if not events:
            self.now_s += timeout
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop by that clock."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the seconds since the loop was made, jumps included."""
        return self._jumping.now_s


def run(story: Coroutine[object, object, T]) -> T:
    """Run a coroutine as `asyncio.run` does, by a clock that jumps."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(story)

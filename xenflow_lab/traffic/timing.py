"""Pacing, kernel arrival times, and how a tool ends: the only module here that knows about clocks and signals."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
import time
from types import FrameType

from xenflow_lab.traffic import mmsg

SO_TIMESTAMPNS = 35
"""socket(7); the value is also the type of the control message."""
_SPIN_NS = 20_000
_SPIN_FROM_NS = 50_000
_COARSE_SLEEP_NS = 100_000
_PR_SET_TIMERSLACK = 29


def prefer_realtime(priority: int = 10) -> bool:
    """Ask for SCHED_FIFO and exact timers; return False where the former is not permitted (the latter always is)."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        return False
    return True


class Pacer:
    """The moments at which packets are due: the k-th at `start_ns` + k / `rate_pps`.

    Between packets it sleeps, and spins only the last 20 us; above 20,000 packets/s it does not spin, so that packets
    go out in small bursts and a real-time sender never starves what it measures.
    """

    def __init__(self, rate_pps: float, start_ns: int) -> None:
        self._interval_ns = 1e9 / rate_pps
        self._start_ns = start_ns
        self._spins = self._interval_ns >= _SPIN_FROM_NS

    def due_ns(self, index: int) -> int:
        """Return when packet `index` is due."""
        return self._start_ns + int(index * self._interval_ns)

    def count_due(self, now_ns: int) -> int:
        """Return how many packets are due by `now_ns`."""
        return int((now_ns - self._start_ns) / self._interval_ns) + 1 if now_ns >= self._start_ns else 0

    def wait(self, index: int) -> None:
        """Return when packet `index` is due, or shortly after a signal."""
        due_ns = self.due_ns(index)
        left_ns = due_ns - time.monotonic_ns()
        if not self._spins:
            time.sleep(max(left_ns, _COARSE_SLEEP_NS) / 1e9)
            return
        if left_ns > _SPIN_NS:
            time.sleep(min(left_ns - _SPIN_NS, 100_000_000) / 1e9)
            if left_ns > 100_000_000:
                return
        while time.monotonic_ns() < due_ns:
            pass


class KernelClock:
    """Turns the kernel's arrival times (CLOCK_REALTIME) into CLOCK_MONOTONIC; the offset is measured every second."""

    def __init__(self) -> None:
        self._offset_ns = 0
        self._measured_ns = 0

    def monotonic_ns(self, control: memoryview) -> int:
        """Return the arrival time in a packet's control messages; the time now where there is none."""
        now_ns = time.monotonic_ns()
        if now_ns - self._measured_ns > 1_000_000_000:
            self._measure()
        for level, kind, body in mmsg.control_messages(control):
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("@qq", body)
                return int(seconds * 1_000_000_000 + nanoseconds - self._offset_ns)
        return now_ns

    def _measure(self) -> None:
        best_ns = 1 << 62
        for _ in range(5):
            before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            if after_ns - before_ns < best_ns:
                best_ns = after_ns - before_ns
                self._offset_ns = wall_ns - (before_ns + after_ns) // 2
        self._measured_ns = after_ns


class Stop:
    """True once SIGTERM or SIGINT came, or `timeout_s` has passed (0: never)."""

    def __init__(self, timeout_s: float = 0) -> None:
        self._asked = False
        self._deadline_s = time.monotonic() + timeout_s if timeout_s else float("inf")
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def __bool__(self) -> bool:
        return self._asked or time.monotonic() >= self._deadline_s

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True


def announce_ready() -> None:
    """Tell whoever started the tool that it listens."""
    print("ready", file=sys.stderr, flush=True)


def enlarge_buffer(sock: socket.socket, size_bytes: int = 32 << 20) -> None:
    """Give the socket a large receive buffer, beyond net.core.rmem_max where permitted."""
    so_rcvbufforce = 33
    try:
        sock.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, size_bytes)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)

"""Runs the observed client in a router of the lab, in place of the lab's own, and follows what it says."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from xenflow_lab.lab import Lab

TIMEOUT_S = 120.0


@dataclass(slots=True)
class Heard:
    """What the client has said so far; times in ns of CLOCK_MONOTONIC."""

    acked_seq: int = 0
    acked_ns: int = 0
    last_seq: int = -1
    """The last one taken from the outbox when `acked_seq` came; -1 if there was more to take."""
    routes: int = 0
    end_seq: int = 0
    carried: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Key of a fact (hexadecimal) -> number and time of the last small update that had it."""

    @property
    def all_acked(self) -> bool:
        """Whether everything that there was to report is acknowledged."""
        return self.acked_seq == self.last_seq

    def take_in(self, line: str) -> None:
        """Note one line."""
        what, at_ns, *words = line.split()
        if what == "ack":
            self.acked_ns = int(at_ns)
            self.acked_seq, self.last_seq, self.routes = map(int, words)
        elif what == "end":
            self.end_seq = int(words[0])
        elif what == "sent" and words[1] != "-":
            for key in words[1].split(","):
                self.carried[key] = (int(words[0]), int(at_ns))


class ObservedRouter:
    """The client of a router, and what it has said: `until` waits for something."""

    def __init__(self, lab: Lab, router: str) -> None:
        self.heard = Heard()
        replaced = lab.process("client", router)
        replaced.kill(15)
        config = replaced.command.argv[replaced.command.argv.index("--config") + 1]
        argv = [sys.executable, "-m", "bench.observed_client", "--config", config]
        self._log = replaced.command.log
        with open(self._log, "a", encoding="utf-8") as log:
            self._process = lab.popen(router, argv, stderr=log)
        if self._process.stdout is None:
            raise RuntimeError("the client has no standard output")
        self._fd = self._process.stdout.fileno()
        self._rest = ""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._fd, selectors.EVENT_READ)

    @property
    def pid(self) -> int:
        """The client's process."""
        return self._process.pid

    def until(self, condition: Callable[[Heard], bool], what: str, timeout_s: float = TIMEOUT_S) -> Heard:
        """Return once `condition` holds for what was heard; looked at after each line. Raises TimeoutError."""
        end = time.monotonic() + timeout_s
        while not condition(self.heard):
            while "\n" not in self._rest:
                self._read(end - time.monotonic(), what)
            line, _, self._rest = self._rest.partition("\n")
            self.heard.take_in(line)
        return self.heard

    def _read(self, timeout_s: float, what: str) -> None:
        if timeout_s <= 0 or not self._selector.select(timeout_s):
            raise TimeoutError(f"{what}: the client did not say so in time ({self.heard})")
        data = os.read(self._fd, 1 << 16)
        if not data:
            last = Path(self._log).read_text(encoding="utf-8").splitlines()[-3:]
            raise RuntimeError(f"the client has ended: {' / '.join(last)}")
        self._rest += data.decode("ascii")

    def __enter__(self) -> ObservedRouter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._selector.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process (proc(5), VmRSS)."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory")

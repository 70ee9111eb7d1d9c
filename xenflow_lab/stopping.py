"""Stopping all processes of a machine, and letting them go on, as a hypervisor does to a machine that it moves.

A process is signalled only while it is inside the machine's network namespace. What its kernel does of itself is not
stopped by this (see `move`).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

from xenflow.errors import ConfigError
from xenflow_lab.command import wait_until
from xenflow_lab.teardown import Namespace, inside, namespace_of, signal_inside

STOP_TIMEOUT_S: Final = 5.0
STOPPED: Final = ("T", "t", "Z", "X")
"""States of a process (proc(5)) in which it executes nothing."""


def namespace_of_machine(holder_pid: int) -> Namespace:
    """Return a machine's network namespace. Raises ConfigError if there is none, or if it is this process's own."""
    space = namespace_of(holder_pid)
    if space is None or space == namespace_of(os.getpid()):
        raise ConfigError(["a machine cannot be stopped from inside, or after its end"])
    return space


def stop(space: Namespace) -> list[int]:
    """Stop every process inside `space`; return those that were not stopped before. Raises LabError if one goes on."""
    sent: set[int] = set()

    def all_stopped() -> bool:
        running = [pid for pid in inside([space]) if not _is_stopped(pid)]
        for pid in running:
            if pid not in sent:
                signal_inside(pid, [space], signal.SIGSTOP)
                sent.add(pid)
        return not running

    wait_until(all_stopped, STOP_TIMEOUT_S, "stop of a machine's processes", 0.001)
    return sorted(sent)


def resume(space: Namespace, pids: list[int] | None = None) -> None:
    """Let processes inside `space` go on (default: all)."""
    for pid in inside([space]) if pids is None else pids:
        signal_inside(pid, [space], signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    try:
        return all(_state(task) in STOPPED for task in Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return True


def _state(task: Path) -> str:
    try:
        text = (task / "stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return text.rpartition(")")[2].split()[0]

"""The processes of a lab: each in its own session, with its log, and on record before it starts.

A process is told by its pid *and* the time of its start (proc(5), field 22), so that a pid in use again is never
mistaken for ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from xenflow_lab.command import LabError, environment, wait_until
from xenflow_lab.spaces import enter_argv

STOP_TIMEOUT_S: Final = 10.0


class Started(msgspec.Struct, frozen=True):
    """A process that was started: `ticks` is the time of its start since boot."""

    pid: int
    ticks: int


class Command(msgspec.Struct, frozen=True):
    """What is started: `role` of the process on the machine `who`."""

    role: str
    who: str
    argv: tuple[str, ...]
    log: str
    environment: dict[str, str] = {}


def start_ticks(pid: int) -> int | None:
    """Return when the process `pid` started; None if there is none, or all of it has ended.

    One that is killed is a zombie as soon as its first thread has ended; others may still hold what it has locked.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    ended = fields[0] in ("Z", "X") and int(fields[17]) <= 1
    return None if ended else int(fields[19])


def is_alive(started: Started | None) -> bool:
    """Return whether exactly this process still runs."""
    if started is None:
        return False
    with contextlib.suppress(ChildProcessError):
        os.waitpid(started.pid, os.WNOHANG)
    return start_ticks(started.pid) == started.ticks


def send_signal(started: Started, number: int) -> bool:
    """Send a signal to exactly this process; False if it is gone."""
    try:
        descriptor = os.pidfd_open(started.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(started):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


@dataclass(frozen=True, slots=True)
class Record:
    """What processes ask of the lab: the pid of a machine's holder, and where starts are written down."""

    holder_pid: Callable[[str], int]
    started: Callable[[Command, Started | None], None]


class Process:
    """One process of a lab, which can be killed and started again."""

    def __init__(self, command: Command, record: Record, started: Started | None = None) -> None:
        self.command = command
        self.started = started
        self._record = record

    @property
    def pid(self) -> int | None:
        """Its pid, if it runs."""
        return self.started.pid if self.started and self.alive else None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return is_alive(self.started)

    def start(self) -> None:
        """Start it. Raises LabError if it runs already, or cannot be started."""
        command = self.command
        if self.alive:
            raise LabError(f"{command.role} of {command.who} runs already")
        self._record.started(command, None)
        with open(command.log, "ab") as log:
            try:
                process = subprocess.Popen(
                    enter_argv(self._record.holder_pid(command.who), command.argv),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env={**_environment(), **command.environment},
                    cwd="/",
                )
            except OSError as error:
                raise LabError(f"{command.role} of {command.who}: {error.strerror}") from error
        process.returncode = 0  # reaped in is_alive(), by whoever is the parent: not this object's to wait for
        self.started = Started(process.pid, start_ticks(process.pid) or 0)
        self._record.started(command, self.started)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait until the process is gone. Raises LabError if it stays."""
        if self.started is None or not send_signal(self.started, number):
            return
        self.wait_gone()

    def signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP or SIGHUP, and do not wait."""
        if self.started is not None:
            send_signal(self.started, number)

    def wait_gone(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Return once it does not run any more. Raises LabError after `timeout_s`."""
        wait_until(lambda: not self.alive, timeout_s, f"end of {self.command.role} of {self.command.who}")

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines of its log."""
        try:
            text = Path(self.command.log).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _environment() -> dict[str, str]:
    keep = ("LANG", "LC_ALL", "HOME", "VIRTUAL_ENV", "PYTHONPATH", "COVERAGE_PROCESS_START")
    kept = {name: os.environ[name] for name in keep if name in os.environ}
    return {**kept, "PATH": environment()["PATH"], "PYTHONUNBUFFERED": "1"}

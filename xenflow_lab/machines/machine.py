"""A machine that QEMU emulates: start, wait until it is up, run commands in it, stop.

All that there is of it is in its directory, so that any process finds it again by `Machine(directory)`:
    machine.json   what it is made of, and the QEMU process (pid and time of its start)
    console.log    what it printed          qemu.log   what QEMU said
    diskN.qcow2    what it has written      *.sock     agent and monitor
QEMU goes on when its starter ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from xenflow_lab.command import LabError, environment, run, wait_until
from xenflow_lab.machines import monitor, qemu
from xenflow_lab.machines.agent import PING_S, Agent, Done, NoAnswer
from xenflow_lab.processes import Started, is_alive, send_signal, start_ticks

UP_TIMEOUT_S: Final = 300.0
STOP_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.2
MOST_PATIENCE_S: Final = 60.0
ANSWER_S: Final = 30.0
"""So long a machine that has just been ordered to reboot may take to say that it is there."""
LEAVE_S: Final = 2
LONGEST_PATH: Final = 80
"""Of a directory: sockets' paths have 107 bytes."""


class _Record(msgspec.Struct, frozen=True):
    made_of: qemu.Machine
    process: Started | None = None


class Machine:
    """The machine whose files are in `directory`; `create` makes one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.agent = Agent(directory)
        self._record = _read(directory / "machine.json")

    @classmethod
    def create(cls, made_of: qemu.Machine, directory: Path) -> Machine:
        """Make files for a machine, which then can be started. Raises LabError if there is one already."""
        if len(str(directory)) > LONGEST_PATH:
            raise LabError(f"{directory}: too long a path for sockets in it (at most {LONGEST_PATH})")
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / "machine.json").exists():
            raise LabError(f"{directory} has a machine already")
        for number, disk in enumerate(made_of.disks):
            if disk.overlay:
                backing = ["-b", str(Path(disk.path).resolve()), "-F", disk.format]
                run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, qemu.overlay(directory, number)])
        _write(directory / "machine.json", _Record(made_of))
        return cls(directory)

    @property
    def made_of(self) -> qemu.Machine:
        """What it is made of."""
        return self._record.made_of

    @property
    def alive(self) -> bool:
        """Whether its QEMU runs."""
        return is_alive(self._record.process)

    @property
    def pid(self) -> int | None:
        """The QEMU process, if it runs."""
        return self._record.process.pid if self._record.process and self.alive else None

    def start(self, snapshot: str = "", niceness: int = 0, prefix: Sequence[str] = ()) -> None:
        """Start QEMU, from `snapshot` (see `save`) if one is named; `prefix`: a command that becomes it, as nsenter.

        Raises LabError if it runs, or QEMU refuses.
        """
        if self.alive:
            raise LabError(f"{self.made_of.name} runs already")
        self._forget_sockets()
        with (self.directory / "qemu.log").open("ab") as log:
            process = subprocess.Popen(
                [*prefix, "nice", "-n", str(niceness), *qemu.argv(self.made_of, self.directory, snapshot)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment(),
            )
        process.returncode = 0  # reaped in is_alive(), by whoever is the parent
        self._remember(Started(process.pid, start_ticks(process.pid) or 0))
        wait_until(self._has_begun, STOP_TIMEOUT_S, f"start of {self.made_of.name}", POLL_S)

    def _has_begun(self) -> bool:
        if not self.alive:
            raise LabError(f"{self.made_of.name}: QEMU ended: {_tail(self.directory / 'qemu.log')}")
        return qemu.monitor_socket(self.directory).exists() and qemu.agent_socket(self.directory, 0).exists()

    def wait_up(self, timeout_s: float = UP_TIMEOUT_S) -> float:
        """Return once its agent answers: the seconds waited. Raises LabError with the end of its console."""
        began = time.monotonic()
        patience_s = PING_S
        while not self.agent.ping(patience_s):
            patience_s = min(2 * patience_s, MOST_PATIENCE_S)  # a machine that is starved answers late
            waited_s = time.monotonic() - began
            if not self.alive or waited_s > timeout_s:
                why = f"not up within {timeout_s:g} s" if self.alive else "QEMU ended"
                raise LabError(f"{self.made_of.name}: {why}; {qemu.console_log(self.directory)}:\n{self.console()}")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def wait_booted(self, timeout_s: float = UP_TIMEOUT_S) -> str:
        """Return once systemd has started everything: `running`, or `degraded` (units have failed)."""
        self.wait_up(timeout_s)
        return self.run(["systemctl", "is-system-running", "--wait"], timeout_s=timeout_s).out.strip()

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 60) -> Done:
        """Run a command in it, as root, to its end."""
        return self.agent.run(argv, stdin=stdin.encode(), timeout_s=timeout_s)

    def check(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 60) -> str:
        """Run a command in it and return its output. Raises LabError if it fails."""
        done = self.run(argv, stdin=stdin, timeout_s=timeout_s)
        if done.code:
            said = done.err.strip() or done.out.strip()
            raise LabError(f"{self.made_of.name}: {' '.join(argv)[:200]}: exit code {done.code}: {said[-2000:]}")
        return done.out

    def shell(self, script: str, *, timeout_s: float = 60) -> str:
        """Run a shell script (sh -e) in it and return its output. Raises LabError if it fails."""
        return self.check(["sh", "-ec", script], timeout_s=timeout_s)

    def save(self, snapshot: str) -> None:
        """Keep its state (memory, devices and disks; all disks need overlays) under a name, while it goes on."""
        monitor.ask_human(qemu.monitor_socket(self.directory), f"savevm {snapshot}")

    def console(self, lines: int = 20) -> str:
        """Return the last lines that it has printed."""
        return _tail(qemu.console_log(self.directory), lines)

    def power_down(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Shut it down as its administrator would. Raises LabError if it does not end in time."""
        self._leave("poweroff")
        wait_until(lambda: not self.alive, timeout_s, f"end of {self.made_of.name}", POLL_S)

    def reboot(self, timeout_s: float = UP_TIMEOUT_S) -> str:
        """Reboot it as its administrator would, and return what `wait_booted` does. Raises LabError."""
        before = self._boot_id()
        self._leave("reboot")

        def is_back() -> bool:
            try:
                return self.agent.ping(ANSWER_S) and self._boot_id() != before
            except LabError:
                return False  # asked while it went down

        wait_until(is_back, timeout_s, f"{self.made_of.name} after its reboot", POLL_S)
        return self.wait_booted(timeout_s)

    def _boot_id(self) -> str:
        return self.check(["cat", "/proc/sys/kernel/random/boot_id"], timeout_s=ANSWER_S)

    def _leave(self, how: str) -> None:
        """Have systemd reboot or power off a little later: its agent, which is among the first to go, answers before.

        On a machine that is too busy for that, it may have gone without an answer.
        """
        timer = ["systemd-run", "-q", f"--on-active={LEAVE_S}", "--timer-property=AccuracySec=100ms"]
        with contextlib.suppress(NoAnswer):
            self.check([*timer, "systemctl", "--no-block", how], timeout_s=ANSWER_S)

    def kill(self) -> None:
        """End it at once, as if its power were cut; what is on its disks stays."""
        if self._record.process and send_signal(self._record.process, signal.SIGKILL):
            wait_until(lambda: not self.alive, STOP_TIMEOUT_S, f"end of {self.made_of.name}", POLL_S)
        self._forget_sockets()

    def _forget_sockets(self) -> None:
        for path in self.directory.glob("*.sock"):
            path.unlink(missing_ok=True)

    def _remember(self, process: Started) -> None:
        self._record = msgspec.structs.replace(self._record, process=process)
        _write(self.directory / "machine.json", self._record)


def _read(path: Path) -> _Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except FileNotFoundError as error:
        raise LabError(f"{path.parent} has no machine") from error
    except msgspec.DecodeError as error:
        raise LabError(f"{path}: cannot be read: {error}") from error


def _write(path: Path, record: _Record) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(record))
    os.replace(new, path)


def _tail(path: Path, lines: int = 20) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])

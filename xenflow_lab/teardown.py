"""Taking a lab down by its name alone, whatever state it is in: half built, killed, or its record lost.

What belongs to a lab: the network namespaces that carry its name, every process inside one of them, and its
directory. All of it goes; nothing else is touched: a process is killed only while it is inside one of those
namespaces, told by a descriptor, so that a pid in use again cannot be hit.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from xenflow.errors import ConfigError
from xenflow_lab import host
from xenflow_lab.command import LabError, run, wait_until
from xenflow_lab.paths import Paths, lab_namespaces
from xenflow_lab.processes import start_ticks

GONE_TIMEOUT_S: Final = 15.0

Namespace = tuple[int, int]
"""Device and inode of a namespace."""


def down(name: str, say: Callable[[str], None]) -> bool:
    """Remove everything of the lab `name`; False if there was nothing.

    Raises LabError if something stays, ConfigError when called from inside the lab.
    """
    paths = Paths(name)
    files = lab_namespaces(name)
    existed = bool(files) or paths.state.exists()
    spaces = _namespaces(files)
    if namespace_of(os.getpid()) in spaces:
        raise ConfigError([f"this shell is inside the lab {name!r}: leave it first"])
    _check_nobody_builds(paths)
    kill_inside(spaces)
    _remove(files)
    shutil.rmtree(paths.state, ignore_errors=True)
    host.restore_settings(name, say)
    host.forget_root()
    return existed


def _check_nobody_builds(paths: Paths) -> None:
    """Raise ConfigError while another process is in the middle of `up`."""
    try:
        with open(paths.lock, "r+", encoding="ascii") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return
    except BlockingIOError as error:
        raise ConfigError([f"lab {paths.name!r} is being built right now: wait, or stop that command"]) from error


def _remove(files: Sequence[Path]) -> None:
    """Remove namespaces; one that somebody else removes at the same moment is as good."""
    batch = "".join(f"netns del {file.name}\n" for file in files)
    if not batch:
        return
    try:
        run(["ip", "-force", "-batch", "-"], stdin=batch)
    except LabError:
        if any(file.exists() for file in files):
            raise


def inside(spaces: Iterable[Namespace]) -> list[int]:
    """Return the processes whose network namespace is one of `spaces`, zombies left out."""
    wanted = set(spaces)
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    return [pid for pid in pids if namespace_of(pid) in wanted and start_ticks(pid) is not None]


def kill_inside(spaces: set[Namespace], spare: int = 0) -> None:
    """Kill every process inside `spaces` but `spare`, and wait until none is left: they may start others meanwhile."""

    def none_left() -> bool:
        pids = [pid for pid in inside(spaces) if pid != spare]
        for pid in pids:
            _kill(pid, spaces)
        return not pids

    if spaces:
        wait_until(none_left, GONE_TIMEOUT_S, "end of the processes in the lab")


def signal_inside(pid: int, spaces: Collection[Namespace], number: int) -> None:
    """Send a signal to a process if it is inside one of `spaces`, and to nobody else."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if namespace_of(pid) in spaces:  # asked again, now that the descriptor pins the process
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _kill(pid: int, spaces: set[Namespace]) -> None:
    signal_inside(pid, spaces, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _namespaces(files: Iterable[Path]) -> set[Namespace]:
    """Return the namespaces behind `files`; a file that was made but never mounted on is no namespace."""
    own = namespace_of(os.getpid())
    host_namespace = namespace_of(1)
    found = {(status.st_dev, status.st_ino) for status in map(os.stat, files)}
    return {space for space in found if space[0] == (own or space)[0] and space not in (own, host_namespace)}


def namespace_of(pid: int) -> Namespace | None:
    """Return the network namespace of a process; None if it is gone or not ours to look at."""
    try:
        status = os.stat(f"/proc/{pid}/ns/net")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return status.st_dev, status.st_ino

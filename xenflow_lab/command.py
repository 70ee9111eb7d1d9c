"""Running the tools that a lab is built with (ip, tc, ovs-vsctl, …); a failure is a `LabError` that says of what."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from xenflow.errors import XenflowError

POLL_INTERVAL_S = 0.02
PATIENCE = float(os.environ.get("XENFLOW_PATIENCE", "1"))
"""All limits are this much longer: for emulated machines."""


class LabError(XenflowError):
    """The lab cannot be built or used; the message names the cause and, where there is one, the way out."""


def environment() -> dict[str, str]:
    """Return this process's environment, with the directories of system programs in PATH (su leaves them out)."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"}


def run(argv: Sequence[str | Path], *, stdin: str = "", timeout_s: float = 60) -> str:
    """Run a command and return its standard output. Raises LabError with its standard error if it fails."""
    return finish(start(argv), argv, stdin, timeout_s)


def start(argv: Sequence[str | Path]) -> subprocess.Popen[str]:
    """Start a command whose end `finish` waits for. Raises LabError if there is no such program."""
    try:
        return subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
    except OSError as error:
        raise LabError(f"{argv[0]}: {error.strerror}") from error


def finish(process: subprocess.Popen[str], argv: Sequence[str | Path], stdin: str = "", timeout_s: float = 60) -> str:
    """Wait for a started command and return its standard output. Raises LabError as `run` does."""
    try:
        output, errors = process.communicate(stdin, timeout=timeout_s * PATIENCE)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise LabError(f"{_shown(argv)}: no end after {timeout_s * PATIENCE:g} s") from error
    if process.returncode:
        raise LabError(f"{_shown(argv)}: {errors.strip() or f'exit code {process.returncode}'}")
    return output


def run_all(commands: Iterable[tuple[Sequence[str | Path], str]], timeout_s: float = 60) -> None:
    """Run commands (argv and standard input) at the same time. Raises LabError for the first one that fails."""
    started = [(start(argv), argv, stdin) for argv, stdin in commands]
    failed: LabError | None = None
    for process, argv, stdin in started:
        try:
            finish(process, argv, stdin, timeout_s)
        except LabError as error:
            failed = failed or error
    if failed:
        raise failed


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str, interval_s: float = POLL_INTERVAL_S) -> None:
    """Return once `condition` is true; asks every `interval_s`. Raises LabError, naming `what`, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout_s * PATIENCE:g} s")
        time.sleep(interval_s)


def _shown(argv: Sequence[str | Path]) -> str:
    text = " ".join(str(word) for word in argv)
    return text if len(text) <= 200 else f"{text[:200]}…"

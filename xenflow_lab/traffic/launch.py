"""Starts a tool in a network namespace and collects its report; what the lab's tests and benches call."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


class ToolError(Exception):
    """A tool did not start, ended with an error or not at all; the message has its own words."""


class Tool:
    """A running tool. Leaving the `with` block ends it, whatever happened."""

    def __init__(self, name: str, arguments: Sequence[str], prefix: Sequence[str]) -> None:
        command = [*prefix, sys.executable, "-m", f"xenflow_lab.traffic.{name}", *arguments]
        self._name = " ".join([name, *arguments])
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=_ROOT
        )

    def wait_ready(self, timeout_s: float = 10) -> None:
        """Return when the tool listens. Raises ToolError when it ends or stays silent instead."""
        stderr = self._process.stderr
        if stderr is None:
            raise ToolError(f"{self._name}: no standard error")
        deadline_s = time.monotonic() + timeout_s
        seen = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stderr, selectors.EVENT_READ)
            while b"ready\n" not in seen:
                if not selector.select(max(deadline_s - time.monotonic(), 0)):
                    raise ToolError(f"{self._name}: not ready after {timeout_s} s")
                chunk = os.read(stderr.fileno(), 4096)
                if not chunk:
                    raise ToolError(f"{self._name}: {seen.decode(errors='replace').strip()}")
                seen += chunk

    def stop(self, timeout_s: float = 10) -> dict[str, Any]:
        """Ask the tool to end now; return its report. Raises ToolError."""
        self._process.send_signal(signal.SIGTERM)
        return self.result(timeout_s)

    def result(self, timeout_s: float = 60) -> dict[str, Any]:
        """Wait for the tool's own end; return its report. Raises ToolError."""
        try:
            output, errors = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise ToolError(f"{self._name}: still running after {timeout_s} s") from error
        return self._report(output, errors)

    def end(self, patience_s: float) -> dict[str, Any]:
        """Wait so long for the tool's own end, then ask it to end; return its report. Raises ToolError."""
        try:
            output, errors = self._process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            return self.stop()
        return self._report(output, errors)

    def _report(self, output: bytes, errors: bytes) -> dict[str, Any]:
        if self._process.returncode:
            raise ToolError(f"{self._name}: {errors.decode(errors='replace').strip()}")
        report: dict[str, Any] = json.loads(output)
        return report

    def kill(self) -> None:
        """End the tool without a report; harmless when it has ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Tool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.poll() is None:
            self.kill()


def in_namespace(name: str) -> tuple[str, ...]:
    """Return the command prefix that enters a named network namespace (ip-netns(8))."""
    return ("ip", "netns", "exec", name)


def start(name: str, *arguments: str, prefix: Sequence[str] = (), ready: bool = True) -> Tool:
    """Start the tool `name` behind the command `prefix`; with `ready`, return once it listens (send does not listen).

    Raises ToolError.
    """
    tool = Tool(name, arguments, prefix)
    if ready:
        try:
            tool.wait_ready()
        except ToolError:
            tool.kill()
            raise
    return tool


def run(name: str, *arguments: str, prefix: Sequence[str] = (), timeout_s: float = 60) -> dict[str, Any]:
    """Run the tool `name` to its end; return its report. Raises ToolError."""
    with Tool(name, arguments, prefix) as tool:
        return tool.result(timeout_s)

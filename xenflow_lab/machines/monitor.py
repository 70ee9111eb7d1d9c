"""QEMU's monitor (QMP): one command, one answer, on a connection of its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TextIO

from xenflow_lab.command import LabError

TIMEOUT_S: Final = 120.0


def ask(path: Path, command: str, arguments: Mapping[str, object] | None = None) -> object:
    """Return what QEMU answers to `command`. Raises LabError if it refuses, or does not run."""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(TIMEOUT_S)
            link.connect(str(path))
            with link.makefile("rw", encoding="utf-8") as stream:
                stream.readline()  # its greeting
                _exchange(stream, {"execute": "qmp_capabilities"})
                return _exchange(stream, {"execute": command, "arguments": dict(arguments or {})})
    except (OSError, ValueError) as error:
        raise LabError(f"{path}: QEMU does not answer to {command}: {error}") from error


def ask_human(path: Path, line: str) -> None:
    """Have a line of the human monitor done. Raises LabError with what it says, if it says anything."""
    said = ask(path, "human-monitor-command", {"command-line": line})
    if said:
        raise LabError(f"QEMU, {line}: {str(said).strip()}")


def _exchange(stream: TextIO, request: Mapping[str, object]) -> object:
    stream.write(json.dumps(request) + "\n")
    stream.flush()
    while line := stream.readline():
        answer = json.loads(line)
        if "error" in answer:
            raise LabError(f"QEMU refuses {request['execute']}: {answer['error'].get('desc')}")
        if "return" in answer:
            return answer["return"]
    raise LabError("QEMU has closed its monitor")

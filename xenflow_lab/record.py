"""What a lab has started, on disk before it happens: `lab.json`, read by `status`, `exec` and whoever attaches.

`down` does not depend on it (see `teardown`): names and namespaces say what belongs to a lab.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from xenflow.errors import ConfigError
from xenflow_lab.processes import Command, Started


class Entry(msgspec.Struct):
    """A process; `started` is None between the decision to start it and its pid."""

    command: Command
    started: Started | None = None


class LabRecord(msgspec.Struct):
    """The file: `ready` once everything is up. `hosts`: node -> directory of its machine, where nodes are emulated."""

    name: str
    ready: bool = False
    with_xenflow: bool = True
    vms: bool = False
    hosts: dict[str, str] = {}
    holders: dict[str, Started] = {}
    processes: dict[str, Entry] = {}

    def note(self, command: Command, started: Started | None) -> None:
        """Keep what became of a process."""
        self.processes[key(command.role, command.who)] = Entry(command, started)


def key(role: str, who: str) -> str:
    """Return the name of a process in the record."""
    return f"{role}@{who}"


def write(path: Path, record: LabRecord) -> None:
    """Replace the file at once: a reader sees the old state or the new one."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(record))
    temporary.replace(path)


def read(path: Path) -> LabRecord:
    """Return the record. Raises ConfigError if there is none or it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=LabRecord)
    except FileNotFoundError as error:
        raise ConfigError([f"{path}: no such lab is up; `xenflow lab list` shows those that are"]) from error
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError([f"{path}: cannot be read ({error}); `xenflow lab down` removes what is left"]) from error

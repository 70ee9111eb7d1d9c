"""Adapter: definitions that the app handed over, kept in the state directory so that a restart does not lose them.

    STATE/routers/NAME.json    {"epoch": 7, "router": {"name": "r1", "interface": [{"mac": ..., "network": ...}], ...}}

One file a router, readable by a person, with the same keys as a definitions file; replaced as a whole or not at all.
It decides nothing: `book` says which definition counts.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from xenflow.errors import ConfigError
from xenflow.model import Machine, MachineKind, address_text, mac_text
from xenflow.resources import RANGES
from xenflow.shape import malformed
from xenflow_server.hires import as_rate, as_tables
from xenflow_server.tables import InterfaceTable, RouterTable

_SUFFIX = ".json"


class Handed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A definition that was handed over; the higher `epoch` is the newer one, files of the owner have 0."""

    epoch: int
    router: RouterTable


class Store:
    """The files. `save` and `remove` raise OSError."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "routers"

    def path(self, name: str) -> Path:
        """Return where the definition of a router is kept."""
        return self._directory / f"{name}{_SUFFIX}"

    def load(self) -> tuple[dict[str, Handed], dict[str, str]]:
        """Return what is kept, by name, and a problem for each file that cannot be used."""
        handed: dict[str, Handed] = {}
        problems: dict[str, str] = {}
        try:
            paths = sorted(self._directory.glob(f"*{_SUFFIX}"))
        except OSError as error:
            return {}, {"": f"{self._directory}: cannot be read: {error.strerror}"}
        for path in paths:
            try:
                one = msgspec.json.decode(path.read_bytes(), type=Handed)
            except OSError as error:
                problems[path.stem] = f"{path}: cannot be read: {error.strerror}"
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                problems[path.stem] = f"{path}: {error}; remove it, and the app hands over what is needed"
            else:
                if one.router.name == path.stem:
                    handed[path.stem] = one
                else:
                    problems[path.stem] = f"{path}: is that of router {one.router.name!r}"
        return handed, problems

    def save(self, handed: Handed) -> None:
        """Keep a definition: on the disk when this returns."""
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self.path(handed.router.name)
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(handed), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        self._sync()

    def remove(self, name: str) -> None:
        """Forget a definition; none is fine."""
        self.path(name).unlink(missing_ok=True)
        if self._directory.is_dir():
            self._sync()

    def _sync(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def as_table(machine: Machine, max_routes: int) -> RouterTable:
    """Return a definition as a file has it. Raises ConfigError for what no file could say."""
    if reason := malformed(machine):
        raise ConfigError([f"definition handed over: {reason}"])
    where = f"router {machine.name!r}, handed over"
    if machine.kind is not MachineKind.ROUTER:
        raise ConfigError([f"{where}: is a {machine.kind}; only routers move"])
    if [interface.number for interface in machine.interfaces] != list(range(1, len(machine.interfaces) + 1)):
        raise ConfigError([f"{where}: interfaces must be numbered from 1, in order"])
    interfaces = [
        InterfaceTable(
            mac_text(one.mac), one.network, [address_text(address) for address in one.addresses], as_rate(one.capacity)
        )
        for one in machine.interfaces
    ]
    rate, ceiling = as_rate(machine.rate), as_rate(machine.ceiling)
    classes = as_tables(machine.classes)
    own = (getattr(machine.resources, key) for key in RANGES)
    return RouterTable(machine.name, interfaces, max_routes, machine.max_flows, rate, ceiling, classes, *own)

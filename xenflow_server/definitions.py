"""What the node's owner decided: networks, ports, routers and hosts (definitions.d/*.toml), checked as a whole.

Place in the flow: files -> `Definitions` -> inventory. The server, never a machine, decides which network an
interface is in (law 6). All files are read together; all problems are reported at once, each with file, key and
value; nothing is taken from a set of files that has one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from xenflow.errors import ConfigError
from xenflow.model import Machine
from xenflow.settings import load
from xenflow_server.checking import Checker, PortDefinition
from xenflow_server.tables import DefinitionsFile


@dataclasses.dataclass(frozen=True, slots=True)
class Definitions:
    """All definitions of a node, free of contradictions.

    `networks` name -> VLAN id; `max_routes` only has routers with a cap of their own; `rates` network -> bit/s that are
    hired for what it bridges (0: none); `handed` router -> epoch of what the app handed over (0: it cannot be used);
    `vifs` MAC address -> (machine, number of its interface).
    """

    networks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    ports: Mapping[str, PortDefinition] = dataclasses.field(default_factory=dict)
    machines: Mapping[str, Machine] = dataclasses.field(default_factory=dict)
    max_routes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rates: Mapping[str, int] = dataclasses.field(default_factory=dict)
    handed: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def vifs(self) -> dict[bytes, tuple[str, int]]:
        """Who a MAC address belongs to."""
        return {
            interface.mac: (machine.name, interface.number)
            for machine in self.machines.values()
            for interface in machine.interfaces
        }


def read(directory: Path) -> Definitions:
    """Return the definitions in the ``*.toml`` files of `directory`.

    Raises ConfigError with all problems of all files.
    """
    return check(read_files(directory))


def read_files(directory: Path) -> list[tuple[str, DefinitionsFile]]:
    """Return the files of `directory`, each with its name, not checked together yet.

    Raises ConfigError with all problems; if a file cannot be read, those of the others together are among them.
    """
    if not directory.is_dir():
        raise ConfigError([f"{directory}: definitions: no such directory; create it, or correct `definitions`"])
    problems: list[str] = []
    files: list[tuple[str, DefinitionsFile]] = []
    for path in sorted(directory.glob("*.toml")):
        try:
            files.append((str(path), load(path, DefinitionsFile)))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError([*problems, *combine(files)[1]])
    return files


def check(files: list[tuple[str, DefinitionsFile]]) -> Definitions:
    """Return the definitions of the named files together. Raises ConfigError with every problem in them."""
    definitions, problems = combine(files)
    if problems:
        raise ConfigError(problems)
    return definitions


def combine(files: list[tuple[str, DefinitionsFile]]) -> tuple[Definitions, list[str]]:
    """Return the definitions of the named files together, and every problem in them."""
    checker = Checker()
    for name, file in files:
        for network in file.network:
            checker.network(name, network)
    ports: dict[str, PortDefinition] = {}
    machines: dict[str, Machine] = {}
    max_routes: dict[str, int] = {}
    for name, file in files:
        for port in file.port:
            ports[port.name] = checker.port(name, port)
        for router in file.router:
            machines[router.name] = checker.router(name, router)
            if router.max_routes is not None:
                max_routes[router.name] = router.max_routes
        for host in file.host:
            machines[host.name] = checker.host(name, host)
    return Definitions(dict(checker.networks), ports, machines, max_routes, checker.rates), checker.problems

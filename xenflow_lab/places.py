"""Where the machines of a lab are that are not (or not only) where its topology file puts them.

One small file for each machine that has ever moved, replaced at once: a move is done at the instant in which `node`
changes in it. Whoever dies in the middle of a move leaves a file with `other`, and whoever comes next finishes from it.
Pure but for the files: `placed` gives the plan of the lab as it is now.
"""

from __future__ import annotations

import dataclasses
import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from xenflow.errors import ConfigError
from xenflow_lab.paths import Paths
from xenflow_lab.plan import ControlLink, Kind, Plan, Vif


class Place(msgspec.Struct, frozen=True):
    """A machine's place: `node` is where it runs (empty: destroyed); `other` has ports of it that are to go."""

    node: str
    other: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """What a machine has on one node: its ports, and the ends of their wires."""

    machine: str
    node: str
    vifs: tuple[Vif, ...]
    controls: tuple[ControlLink, ...]

    @property
    def wires(self) -> list[tuple[str, str]]:
        """The pairs of interfaces in the wires namespace: the guest's end, the port's end."""
        return [
            *((vif.interface.peer, vif.wire) for vif in self.vifs),
            *((control.peer, control.wire) for control in self.controls),
        ]


def side(built: Plan, machine: str, node: str) -> Side:
    """Return what `machine` has on `node` when it runs there, or would have. `built` is the plan of the file.

    Names and numbers are the lab's own everywhere; only the wire's end needs another name on another node, since both
    ends exist at the same time.
    """
    number = built.machines[node].number

    def wire(name: str, home: str) -> str:
        return name if node == home else f"{name}.{number}"

    vifs = (vif for vif in built.vifs if vif.machine == machine)
    controls = (control for control in built.controls if control.router == machine)
    return Side(
        machine,
        node,
        tuple(dataclasses.replace(vif, node=node, wire=wire(vif.wire, vif.node)) for vif in vifs),
        tuple(dataclasses.replace(link, node=node, wire=wire(link.wire, link.node)) for link in controls),
    )


def placed(built: Plan, places: Mapping[str, Place]) -> Plan:
    """Return the plan of a lab whose machines are at `places`; a destroyed one has neither node nor ports."""
    if not places:
        return built
    machines = {
        name: dataclasses.replace(machine, node=places[name].node) if name in places else machine
        for name, machine in built.machines.items()
    }
    sides = {name: side(built, name, place.node) for name, place in places.items() if place.node}
    vifs = {(vif.machine, vif.number): vif for found in sides.values() for vif in found.vifs}
    controls = {link.router: link for found in sides.values() for link in found.controls}
    return dataclasses.replace(
        built,
        machines=machines,
        vifs=tuple(vifs.get((vif.machine, vif.number), vif) for vif in built.vifs if machines[vif.machine].node),
        controls=tuple(controls.get(link.router, link) for link in built.controls if machines[link.router].node),
    )


def home(built: Plan, machine: str) -> Place:
    """Return where the topology file puts a machine. Raises ConfigError if it is none that a node hosts."""
    found = built.machines.get(machine)
    if found is None or found.kind not in (Kind.ROUTER, Kind.HOST):
        known = ", ".join(guest.name for guest in built.of_kind(Kind.ROUTER, Kind.HOST))
        raise ConfigError([f"lab {built.name!r} has no virtual machine {machine!r}; it has: {known}"])
    return Place(found.node)


def read(paths: Paths) -> dict[str, Place]:
    """Return the places of all machines that have moved or been destroyed. Raises ConfigError for a damaged file."""
    found = {}
    for path in sorted(paths.places.glob("*.json")):
        try:
            found[path.stem] = msgspec.json.decode(path.read_bytes(), type=Place)
        except FileNotFoundError:  # the lab goes down at this moment
            continue
        except msgspec.DecodeError as error:
            raise ConfigError([f"{path}: cannot be read ({error}); `xenflow lab down` removes what is left"]) from error
    return found


def write(paths: Paths, machine: str, place: Place) -> None:
    """Replace the file of `machine` at once."""
    temporary = paths.places / f"{machine}.new"
    temporary.write_bytes(msgspec.json.encode(place))
    temporary.replace(paths.places / f"{machine}.json")


@contextmanager
def locked(paths: Paths, machine: str) -> Iterator[None]:
    """Keep everybody else from moving `machine`. Raises ConfigError while somebody else does."""
    paths.places.mkdir(exist_ok=True)
    with open(paths.places / f"{machine}.lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError([f"{machine!r} is being moved already"]) from error
        yield

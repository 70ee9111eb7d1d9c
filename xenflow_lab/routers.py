"""What a lab's virtual routers are made of: namespaces (here), or virtual machines (`vms.machines`).

Everything else of a lab, nodes, hosts and outside machines, is the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from xenflow_lab import move, places, programs, spaces
from xenflow_lab.places import Place
from xenflow_lab.plan import Plan

if TYPE_CHECKING:
    from xenflow_lab.lab import Lab


class Routers(Protocol):
    """Makes, enters and moves the virtual routers of one lab. Everything raises ConfigError or LabError."""

    def problems(self) -> list[str]:
        """Return why they cannot be made on this machine; empty if they can."""

    def prepare(self) -> None:
        """Make what they need before there is anything of the lab."""

    def cabled(self, plan: Plan) -> Plan:
        """Return the part of the plan that is made of namespaces and wires."""

    def start_hypervisors(self) -> None:
        """Have the nodes, whose switches run, ready for them."""

    def hypervisor(self, node: str) -> programs.Settings:
        """Return `[hypervisor]` of a node's server."""

    def start(self) -> None:
        """Start those that are not in the cabled part; on return they have come up."""

    def places(self) -> Mapping[str, Place]:
        """Return where those run that are not (only) where the topology file puts them."""

    def enter_argv(self, who: str, argv: Sequence[str | Path], directory: str = "") -> list[str]:
        """Return the command that runs `argv` inside one."""

    def move(self, machine: str, target: str, way: move.Way) -> move.Moved:
        """Move one by the hypervisor's own means, of which XenFlow is not told."""

    def destroy(self, machine: str) -> None:
        """Destroy one."""


class Namespaces:
    """Routers as namespaces: part of the cables, and built with them."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def problems(self) -> list[str]:
        """Return nothing: what every lab needs is enough."""
        return []

    def prepare(self) -> None:
        """Nothing is needed."""

    def cabled(self, plan: Plan) -> Plan:
        """Return the whole plan."""
        return plan

    def start_hypervisors(self) -> None:
        """The lab itself is the hypervisor."""

    def hypervisor(self, _node: str) -> programs.Settings:
        """Return the lab's own command, by which a server moves a machine."""
        return {"move": programs.move_argv(self._lab.name)}

    def start(self) -> None:
        """All of them have been started with the cabled part."""

    def places(self) -> Mapping[str, Place]:
        """Return what moves have written down."""
        return places.read(self._lab.paths)

    def enter_argv(self, who: str, argv: Sequence[str | Path], directory: str = "") -> list[str]:
        """Return the command that joins the machine's namespaces."""
        return spaces.enter_argv(self._lab.holder_pid(who), argv, directory)

    def move(self, machine: str, target: str, way: move.Way) -> move.Moved:
        """Stop it, join its wires to the target, let it go on (`move`)."""
        return move.move(self._lab, machine, target, way)

    def destroy(self, machine: str) -> None:
        """Kill its processes and remove its ports."""
        move.destroy(self._lab, machine)

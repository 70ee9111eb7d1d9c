"""A lab whose nodes are emulated Xen hosts and whose routers are guests of Xen; otherwise a lab like others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from xenflow_lab import operator
from xenflow_lab.command import LabError
from xenflow_lab.lab import Lab
from xenflow_lab.machines.machine import Machine as Emulated
from xenflow_lab.plan import Kind
from xenflow_lab.xen import build
from xenflow_lab.xen.guests import Guests


class XenLab(Lab):
    """A node's namespace has its QEMU and nothing else: what is run on a node is run in its Dom0, by an agent."""

    routers: Guests

    def _routers(self, vms: bool) -> Guests:
        return Guests(self)

    def _build(self) -> None:
        build.build(self)

    @property
    def hosts(self) -> dict[str, Emulated]:
        """The machine of each node, by its name; empty before they are made."""
        return {name: Emulated(Path(directory)) for name, directory in self.record.hosts.items()}

    def note_hosts(self, directories: dict[str, Path]) -> None:
        """Keep where the hosts' machines are."""
        self.record.hosts = {name: str(directory) for name, directory in directories.items()}
        self._save()

    def enter_argv(self, who: str, argv: Sequence[str | Path], directory: str = "") -> list[str]:
        """Return the command that runs `argv` inside a machine."""
        found = self.built.machines.get(who)
        if found is None or found.kind not in (Kind.NODE, Kind.ROUTER):
            return super().enter_argv(who, argv, directory)
        if found.kind is Kind.ROUTER:
            return self.routers.enter_argv(who, argv, directory)
        words = [str(word) for word in argv]
        return [sys.executable, "-m", "xenflow_lab.xen.enter", self.record.hosts[who], "--", *words]

    def is_up(self, who: str) -> bool:
        """Whether a machine is there."""
        host = self.hosts.get(who)
        return super().is_up(who) if host is None else host.alive

    def awaited(self) -> list[str]:
        """Return what keeps the lab from having settled; empty if every flow of every router is installed."""
        ended = [f"{name} does not run" for name, host in self.hosts.items() if not host.alive]
        nodes, routers = (len(self.built.of_kind(kind)) for kind in (Kind.NODE, Kind.ROUTER))
        try:
            return ended + operator.missing(self.app_status(), nodes, routers)
        except LabError as error:
            return [*ended, str(error)]

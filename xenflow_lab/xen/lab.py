"""A lab whose nodes are emulated Xen hosts and whose routers are guests of Xen; otherwise a lab like others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from xenflow_lab import operator
from xenflow_lab.command import LabError, wait_until
from xenflow_lab.lab import Lab
from xenflow_lab.machines.machine import Machine as Emulated
from xenflow_lab.plan import BRIDGE, Kind
from xenflow_lab.xen import build, logs
from xenflow_lab.xen.guests import Guests
from xenflow_lab.xen.keep import Kept

SETTLE_S: Final = 1200.0
"""Emulated hosts are slow, above all on a machine that does other things beside."""
ANSWER_S: Final = 300.0
POLL_S: Final = 1.0


class XenLab(Lab):
    """A node's namespace has its QEMU and nothing else: what is run on a node is run in its Dom0, by an agent."""

    routers: Guests

    def _routers(self, vms: bool) -> Guests:
        return Guests(self)

    def _build(self) -> None:
        build.build(self)

    def _failed(self) -> None:
        """Write what was logged beside the hosts: the lab goes down, their directories stay until the next start."""
        for host in self.hosts.values():
            if host.alive:
                logs.write(host)
            if (self.paths.state / "log").is_dir():
                shutil.copytree(self.paths.state / "log", host.directory.parent / "log", dirs_exist_ok=True)
            self.say(f"log: {host.directory}")
        super()._failed()

    @property
    def hosts(self) -> dict[str, Emulated]:
        """The machine of each node, by its name; empty before they are made."""
        return {name: Emulated(Path(directory)) for name, directory in self.record.hosts.items()}

    def note_hosts(self, kept: Kept) -> None:
        """Keep where the hosts' machines are."""
        nodes = self.built.of_kind(Kind.NODE)
        self.record.hosts = {machine.name: str(kept.host(machine.name)) for machine in nodes}
        self._save()

    def enter_argv(self, who: str, argv: Sequence[str | Path], directory: str = "") -> list[str]:
        """Return the command that runs `argv` inside a machine."""
        found = self.built.machines.get(who)
        if found is None or found.kind not in (Kind.NODE, Kind.ROUTER):
            return super().enter_argv(who, argv, directory)
        if found.kind is Kind.ROUTER:
            return self.routers.enter_argv(who, argv, directory)
        if who not in self.record.hosts:
            raise LabError(f"{who} is not made yet")
        words = [str(word) for word in argv]
        return [sys.executable, "-m", "xenflow_lab.xen.enter", self.record.hosts[who], "--", *words]

    def run(
        self,
        who: str,
        argv: Sequence[str | Path],
        *,
        timeout_s: float = ANSWER_S,
        check: bool = False,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine and return its result; it reads nothing of what this process could read."""
        return super().run(who, argv, timeout_s=timeout_s, check=check, stdin=stdin or "")

    def is_up(self, who: str) -> bool:
        """Whether a machine is there."""
        host = self.hosts.get(who)
        return super().is_up(who) if host is None else host.alive

    def ask(self, what: str, arguments: dict[str, str] | None = None) -> bytes:
        """Return the app's answer, for which it may have to ask busy hosts. Raises LabError if it has none."""
        return operator.ask(self.app_socket, what, arguments, ANSWER_S)

    def awaited(self) -> list[str]:
        """Return what keeps the lab from having settled; empty if every flow of every router is installed."""
        ended = [f"{name} does not run" for name, host in self.hosts.items() if not host.alive]
        ended += [f"{process.command.role} on {process.command.who} does not run" for process in self._ended()]
        nodes, routers = (len(self.built.of_kind(kind)) for kind in (Kind.NODE, Kind.ROUTER))
        try:
            return ended + operator.missing(self.app_status(), nodes, routers)
        except LabError as error:
            return [*ended, str(error)]

    def wait_until(
        self, condition: Callable[[], bool], timeout_s: float = ANSWER_S, what: str = "the condition"
    ) -> None:
        """Return once `condition` is true: asked seldom, to leave the processors to the hosts. Raises LabError."""
        wait_until(condition, timeout_s, what, POLL_S)

    def wait_settled(self, timeout_s: float = SETTLE_S) -> None:
        """Return once the app has everything that it knows installed. Raises LabError, saying what is missing."""
        super().wait_settled(timeout_s)

    def ofctl(self, node: str, command: str, *words: str) -> str:
        """Run ovs-ofctl on the bridge of a node's Dom0 and return its output. Raises LabError."""
        return self.hosts[node].check(["ovs-ofctl", "-O", "OpenFlow10", command, BRIDGE, *words], timeout_s=ANSWER_S)

    def appctl(self, node: str, *words: str) -> str:
        """Run ovs-appctl in a node's Dom0 and return its output. Raises LabError."""
        return self.hosts[node].check(["ovs-appctl", *words], timeout_s=ANSWER_S)

    def vsctl(self, node: str, *words: str, wait: bool = True) -> str:
        """Run one ovs-vsctl transaction in a node's Dom0 and return its output. Raises LabError."""
        options = ["--timeout=240"] if wait else ["--timeout=240", "--no-wait"]
        return self.hosts[node].check(["ovs-vsctl", *options, *words], timeout_s=ANSWER_S)

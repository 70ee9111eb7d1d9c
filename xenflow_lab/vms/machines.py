"""The virtual routers of a lab as machines of libvirt: where they are, how they start, are entered, move and end.

The second implementation of `routers.Routers`; the first makes them of namespaces.

    image -> disk of each -> `virsh define`, `start` on its node -> agent answers
    commands: virsh qemu-agent-command -> qemu-ga (`command`)
    moves: virsh migrate, of which XenFlow is not told; xenflow-server asks libvirt itself (`[hypervisor] uri`)

Where a machine is, is what libvirt's own files say, which are there when no libvirtd runs.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xenflow.errors import ConfigError
from xenflow_lab.command import LabError, run, start, wait_until
from xenflow_lab.machines import accelerator
from xenflow_lab.machines.image import Image
from xenflow_lab.move import Moved, Way
from xenflow_lab.places import Place
from xenflow_lab.plan import Kind, Machine, Plan
from xenflow_lab.vms import domain, guest, image, libvirtd
from xenflow_lab.vms.libvirtd import Libvirtd

if TYPE_CHECKING:
    from xenflow_lab.lab import Lab
    from xenflow_lab.programs import Settings

BOOT_S: Final = 480.0
"""Software emulation on a machine with other things to do."""
MOVE_S: Final = 120.0
LIBVIRTD: Final = "libvirtd"
"""Role of the process on a node."""


def planned(plan: Plan) -> Plan:
    """Return the plan of a lab with virtual machines: its hosts are none, and no hypervisor knows them."""
    routers = {router.name for router in plan.of_kind(Kind.ROUTER)}
    vifs = (vif if vif.machine in routers else dataclasses.replace(vif, vm_id="") for vif in plan.vifs)
    return dataclasses.replace(plan, vifs=tuple(vifs))


class Machines:
    """The routers of one lab. Without XenFlow their ports have the tags of their networks, for plain switches."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._image: Image | None = None

    def problems(self) -> list[str]:
        """Return why they cannot be made on this machine, or of this topology."""
        limited = {vif.machine for vif in self._lab.built.vifs if vif.rate_mbps and self._is_router(vif.machine)}
        found = [f"router {name!r}: rate_mbps: not with --vms; use capacity" for name in sorted(limited)]
        return libvirtd.lacks() + found

    def prepare(self) -> None:
        """Have the image ready: minutes the first time. Raises ConfigError, LabError."""
        self._lab.say("guest image (minutes, the first time)")
        self._image = image.build()

    def cabled(self, plan: Plan) -> Plan:
        """Return what is left of the plan for namespaces and wires: everything but the routers."""
        routers = {router.name for router in plan.of_kind(Kind.ROUTER)}
        return plan.without(routers)

    def start_hypervisors(self) -> None:
        """Start a libvirtd on every node; on return all of them answer."""
        self._lab.say("libvirtd")
        for node in self._nodes():
            daemon = self.libvirtd(node)
            daemon.prepare()
            self._lab.launch(LIBVIRTD, node, daemon.argv())
        for node in self._nodes():
            self.await_libvirtd(node)

    def await_libvirtd(self, node: str) -> None:
        """Return once the libvirtd of a node answers. Raises LabError."""
        process = self._lab.process(LIBVIRTD, node)

        def answers() -> bool:
            asked = start(["virsh", "--quiet", "--connect", self.libvirtd(node).uri, "uri"])
            asked.communicate()
            return asked.returncode == 0 or not process.alive

        wait_until(answers, 30.0, f"start of libvirtd on {node} (log: {process.command.log})", 0.1)
        if not process.alive:
            raise LabError(f"libvirtd on {node} has ended:\n{process.log_tail()}")

    def hypervisor(self, node: str) -> Settings:
        """Return `[hypervisor]` of a node's server."""
        others = [other for other in self._nodes() if other != node]
        return {
            "uri": self.libvirtd(node).uri,
            "peers": {other: self.libvirtd(other).uri for other in others},
            "streams": {other: self.stream(other) for other in others},
        }

    def start(self) -> None:
        """Start all routers, as many at a time as there are; on return each has come up. Raises LabError."""
        routers = self._lab.built.of_kind(Kind.ROUTER)
        self._lab.say(f"machines of {len(routers)} routers")
        for router in routers:
            self._define(router)
            self.virsh(router.node, "start", router.name)
        with ThreadPoolExecutor(max(1, len(routers))) as pool:
            list(pool.map(lambda router: self.await_up(router.name), routers))

    def await_up(self, router: str, timeout_s: float = BOOT_S) -> None:
        """Return once a router's machine has come up: all of `sysinit`, so its addresses are there.

        Raises LabError with the end of its console's text.
        """
        try:
            wait_until(lambda: self._answers(router), timeout_s, f"boot of {router}", 0.5)
        except LabError as error:
            tail = "\n".join(self.console(router).read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
            raise LabError(f"{error} (console: {self.console(router)})\n{tail}") from error

    def places(self) -> dict[str, Place]:
        """Return where each router's machine runs; the node is empty if nowhere."""
        found = {}
        for router in self._lab.built.of_kind(Kind.ROUTER):
            states = {node: self._state(node, router.name) for node in self._nodes()}
            running = [node for node, state in states.items() if state == "running"]
            present = [node for node, state in states.items() if state]
            found[router.name] = Place((running or present or [""])[0])
        return found

    def enter_argv(self, who: str, argv: Sequence[str | Path], directory: str = "") -> list[str]:
        """Return the command that runs `argv` inside a router's machine, wherever it is then, in its own root.

        `directory` is one of this machine, and means nothing there.
        """
        return [*self._command(who), *(str(word) for word in argv)]

    def move(self, machine: str, target: str, way: Way) -> Moved:
        """Move a router by libvirt's own command, as a person does; how long it stands still, QEMU decides.

        When it stood still is known but for the time that the command takes to end. Raises ConfigError, LabError.
        """
        here = self.node_of(machine)
        if target not in self._nodes():
            raise ConfigError([f"lab {self._lab.name!r} has no node {target!r}; it has: {', '.join(self._nodes())}"])
        if here == target:
            raise ConfigError([f"{machine!r} is on node {target!r} already"])
        words = ["migrate", "--live", "--persistent", "--undefinesource", machine, self.libvirtd(target).uri]
        self.virsh(here, *words, "--migrateuri", self.stream(target), timeout_s=MOVE_S)
        joined_at_s = time.monotonic()
        way.on_progress(100)
        return Moved(machine, here, target, joined_at_s - self.downtime_s(target, machine), joined_at_s)

    def downtime_s(self, node: str, machine: str) -> float:
        """Return how long a machine that has come to this node was stopped for that. Raises LabError."""
        text = self.virsh(node, "domjobinfo", machine, "--completed", "--keep-completed", "--rawstats")
        found = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        return int(found.get("downtime", "0")) / 1e3

    def destroy(self, machine: str) -> None:
        """Destroy a router's machine, and forget it. Raises ConfigError, LabError."""
        here = self.node_of(machine)
        self.virsh(here, "destroy", machine)
        self.virsh(here, "undefine", machine)

    def node_of(self, router: str) -> str:
        """Return the node that a router's machine is on. Raises ConfigError if none."""
        place = self.places().get(router)
        if place is None or not place.node:
            raise ConfigError([f"{router!r} is no machine that runs in lab {self._lab.name!r}"])
        return place.node

    def libvirtd(self, node: str) -> Libvirtd:
        """Return the libvirtd of a node."""
        return Libvirtd(self._lab.paths.machine(node) / "libvirt")

    def stream(self, node: str) -> str:
        """Return where machines that come to a node are taken."""
        return f"tcp://{self._lab.built.management[node]}"

    def virsh(self, node: str, *words: str, timeout_s: float = 60.0) -> str:
        """Run a command of virsh on a node, and return its output. Raises LabError."""
        argv = ["virsh", "--quiet", "--connect", self.libvirtd(node).uri, *words]
        return run(self._lab.enter_argv(node, argv), timeout_s=timeout_s)

    def console(self, router: str) -> Path:
        """Return the file with what a router's machine has said on its console."""
        return self._lab.paths.log(router, "console")

    def document(self, router: Machine) -> str:
        """Return libvirt's description of a router's machine; its second disk is written."""
        lab = self._lab
        found = self._image or image.build()
        disk = lab.paths.machine(router.name) / "disk.tar"
        disk.parent.mkdir(parents=True, exist_ok=True)
        disk.write_bytes(guest.disk(lab.built, lab.paths, router, with_client=lab.with_xenflow))
        link = next(link for link in lab.built.controls if link.router == router.name)
        return domain.document(
            domain.Wanted(
                name=router.name,
                image=found,
                disk=disk,
                console=self.console(router.name),
                accelerator=accelerator.best(found),
                vifs=tuple(vif for vif in lab.built.vifs if vif.machine == router.name),
                control=(link.port, link.mac),
                tags={} if lab.with_xenflow else {network.name: network.vid for network in lab.built.topology.network},
                resources=router.resources,
            )
        )

    def _define(self, router: Machine) -> None:
        path = self._lab.paths.machine(router.name) / "domain.xml"
        text = self.document(router)
        path.write_text(text, encoding="utf-8")
        self.virsh(router.node, "define", str(path))

    def _answers(self, router: str) -> bool:
        asked = start([*self._command(router), "test", "-e", "/run/xenflow-vm.up"])
        asked.communicate()
        return asked.returncode == 0

    def _command(self, router: str) -> list[str]:
        return [sys.executable, "-m", "xenflow_lab.vms.command", self._lab.name, router, "--"]

    def _state(self, node: str, router: str) -> str:
        """Return the state of a machine by the file that libvirt keeps of one that is there; empty if it is not."""
        path = self.libvirtd(node).directory / "run" / "qemu" / f"{router}.xml"
        for _ in range(3):
            try:
                return ElementTree.fromstring(path.read_bytes()).get("state", "")
            except FileNotFoundError:
                return ""
            except ElementTree.ParseError:  # it is being replaced
                time.sleep(0.01)
        return ""

    def _nodes(self) -> list[str]:
        return [node.name for node in self._lab.built.of_kind(Kind.NODE)]

    def _is_router(self, name: str) -> bool:
        return self._lab.built.machines[name].kind is Kind.ROUTER

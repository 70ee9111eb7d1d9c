"""A lab's routers as guests of Xen (`routers.Routers`): where they are, how to get into them, how xl moves them."""

from __future__ import annotations

import ipaddress
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xenflow.errors import ConfigError
from xenflow.model import link_local_of, pack_mac
from xenflow_lab import programs
from xenflow_lab.command import LabError, environment
from xenflow_lab.machines.image import Image
from xenflow_lab.move import Moved, Way
from xenflow_lab.places import Place
from xenflow_lab.plan import CONTROL_BRIDGE, Kind, Plan
from xenflow_lab.xen import guest, images
from xenflow_lab.xen.images import MIGRATION_PORT

if TYPE_CHECKING:
    from xenflow_lab.xen.lab import XenLab

MOVE_TIMEOUT_S: Final = 3600.0
_TOOLS: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "ssh-keygen": "openssh-client",
}


class Guests:
    """Routers as guests of Xen."""

    def __init__(self, lab: XenLab) -> None:
        self._lab = lab
        self.images: tuple[Image, Image] | None = None
        """Those of hosts and routers, once they are there."""

    def problems(self) -> list[str]:
        """Return why they cannot be made on this machine; empty if they can."""
        topology = self._lab.built.topology
        found = [
            f"{tool} is missing: apt-get install {package}"
            for tool, package in _TOOLS.items()
            if shutil.which(tool, path=environment()["PATH"]) is None
        ]
        found += [f"host {host.name!r}: not on Xen hosts: make it an [[outside]] machine" for host in topology.host]
        limited = {vif.machine for vif in self._lab.built.vifs if vif.rate_mbps}
        return found + [f"router {name!r}: rate_mbps: not with --xen; use capacity" for name in sorted(limited)]

    def prepare(self) -> None:
        """Build the images, or find them in the cache."""
        self._lab.say("packages and images (minutes, the first time)")
        self.images = images.build()

    def cabled(self, plan: Plan) -> Plan:
        """Return the plan without the routers."""
        return plan.without([router.name for router in plan.of_kind(Kind.ROUTER)])

    def start_hypervisors(self) -> None:
        """They run when the hosts do."""

    def hypervisor(self, node: str) -> programs.Settings:
        """Return `[hypervisor]` of a node's server: Xen's own tool, and where it finds the others' receivers."""
        addresses = self._lab.built.management
        peers = {name: f"tcp://{at}:{MIGRATION_PORT}" for name, at in addresses.items() if name != node}
        return {"uri": "xl:", "peers": peers}

    def start(self) -> None:
        """They are created when the hosts run."""

    def places(self) -> Mapping[str, Place]:
        """Return where those run that are not where the topology file puts them: as the app knows it, else Xen."""
        homes = {router.name: router.node for router in self._lab.built.of_kind(Kind.ROUTER)}
        found = self._known_to_app() if self._lab.with_xenflow else self._known_to_xen(homes)
        return {name: Place(node) for name, node in found.items() if homes.get(name, node) != node}

    def _known_to_app(self) -> dict[str, str]:
        try:
            return {router.name: router.node for router in self._lab.app_status().routers}
        except LabError:
            return {}

    def _known_to_xen(self, names: Iterable[str]) -> dict[str, str]:
        asked = [(name, node, host) for name in names for node, host in self._lab.hosts.items() if host.alive]
        return {name: node for name, node, host in asked if host.run(["xl", "domid", name]).code == 0}

    def enter_argv(self, who: str, argv: Sequence[str | Path], directory: str = "") -> list[str]:
        """Return the command that runs `argv` inside one, by ssh from the host that it is on."""
        address = ipaddress.IPv6Address(link_local_of(pack_mac(guest.control_of(self._lab.built, who).mac)))
        words = [sys.executable, "-m", "xenflow_lab.xen.enter", "--router", who, f"{address}%{CONTROL_BRIDGE}"]
        return [*words, *self._lab.record.hosts.values(), "--", *(str(word) for word in argv)]

    def move(self, machine: str, target: str, way: Way) -> Moved:
        """Have xl migrate one, live, as who types it on its host; how long it stood still is not known."""
        if target not in self._lab.hosts:
            raise ConfigError([f"there is no node {target!r}"])
        source = self._lab.plan.machines[machine].node
        if source == target:
            raise ConfigError([f"{machine!r} is on {target} already"])
        began = time.monotonic()
        self.migrate(machine, source, target)
        way.on_progress(100)
        return Moved(machine, source, target, began, time.monotonic())

    def migrate(self, machine: str, source: str, target: str) -> None:
        """Run `xl migrate` on the host `source`. Raises LabError."""
        receiver = f"socat - TCP:{self._lab.built.management[target]}:{MIGRATION_PORT}"
        self._lab.hosts[source].check(["xl", "migrate", "-s", "", machine, receiver], timeout_s=MOVE_TIMEOUT_S)

    def destroy(self, machine: str) -> None:
        """Destroy one."""
        node = self._lab.plan.machines[machine].node
        self._lab.hosts[node].check(["xl", "destroy", machine])

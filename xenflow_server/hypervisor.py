"""Which machines run on this node: the seam to the hypervisor, and what Open vSwitch's own database says.

    hypervisor (`libvirt_adapter`, `xl`) -- Saying --+
    Open vSwitch's database (`ovsdb`) -- BridgeView -+--> inventory

Xen's vif-openvswitch and libvirt both write the MAC address of a machine's interface into the vif's external_ids when
the machine starts, and remove the vif when it is gone. That alone says who runs here, unless the hypervisor is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from xenflow.model import mac_text
from xenflow_server.domains import Domains, Phase, Saying
from xenflow_server.view import MOVED_MARK, BridgeView, PortView


class Hypervisor(Protocol):
    """Knows what runs here."""

    def observe(self, view: BridgeView) -> None:
        """Take the bridge as it is now."""

    def running(self) -> frozenset[bytes]:
        """Return the MAC addresses of the interfaces of all machines that run on this node."""

    def moved(self) -> frozenset[bytes]:
        """Return those of machines that have left for another node, and have not come back."""

    def admits(self, port: PortView) -> bool:
        """Whether a vif is that of the machine whose MAC address it has, and that machine runs here."""


class Watcher(Protocol):
    """Asks a hypervisor; `LibvirtWatcher` and `XlWatcher` are real ones."""

    async def run(self, on_saying: Callable[[Saying], None]) -> None:
        """Call `on_saying` with what it says, for ever."""


class AttachedMacs:
    """A hypervisor as the database shows it: what has an active vif runs here."""

    def __init__(self) -> None:
        self._running: frozenset[bytes] = frozenset()
        self._moved: frozenset[bytes] = frozenset()
        self._view: BridgeView | None = None

    def observe(self, view: BridgeView) -> None:
        """Take the bridge as it is now.

        What left is known by the last row that was seen of it: with the mark it moved, without one it was destroyed.
        """
        running = frozenset(port.attached_mac for port in view.ports if port.attached_mac)
        before = self._view.ports if self._view is not None else ()
        left = {port.mac: MOVED_MARK in port.external_ids for port in (*before, *view.departed, *view.ports)}
        moved = (self._moved - left.keys()) | {mac for mac, marked in left.items() if mac and marked}
        self._running, self._moved, self._view = running, frozenset(moved - running), view

    def running(self) -> frozenset[bytes]:
        """Return the MAC addresses behind the bridge's vifs."""
        return self._running

    def moved(self) -> frozenset[bytes]:
        """Return the MAC addresses behind vifs that had the mark when they went."""
        return self._moved

    def admits(self, port: PortView) -> bool:
        """Return True: the row is all that is known."""
        return True


class Asked:
    """A hypervisor that is asked itself; the database counts for what is no machine of its own.

    A vif with a machine's uuid belongs to that machine: it counts if the machine runs here and has the MAC address. A
    vif without one is a host's that the hypervisor knows nothing of. A machine whose only vif is unplugged still runs
    here, and one that leaves is gone when the hypervisor says so, moved or destroyed: whichever of vif and machine goes
    first. As long as the hypervisor has never answered, the database alone counts, once it is known not to (`ready`).
    """

    def __init__(self) -> None:
        self.domains = Domains()
        self._rows = AttachedMacs()
        self._vifs: tuple[PortView, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether anything is known."""
        return self.domains.known or bool(self.domains.lost)

    def take(self, saying: Saying) -> None:
        """Take what the hypervisor says."""
        self.domains.take(saying)

    def observe(self, view: BridgeView) -> None:
        """Take the bridge as it is now."""
        self._rows.observe(view)
        self._vifs = tuple(port for port in view.ports if port.attached_mac)

    def running(self) -> frozenset[bytes]:
        """Return the MAC addresses of machines, and of vifs that belong to none."""
        if not self.domains.known:
            return self._rows.running()
        return frozenset(self.domains.owners) | {port.attached_mac for port in self._vifs if not port.machine}

    def moved(self) -> frozenset[bytes]:
        """Return what the hypervisor, or the mark of a vif that has gone, says to have moved."""
        return (self.domains.moved | self._rows.moved()) - self.running()

    def admits(self, port: PortView) -> bool:
        """Whether the vif's machine is the one that has its MAC address here."""
        if not self.domains.known:
            return True
        owner = self.domains.owners.get(port.attached_mac, "")
        return owner == port.machine

    def machine_of(self, macs: frozenset[bytes]) -> str:
        """Return the uuid of the machine that runs here and has these MAC addresses; empty if there is not just one."""
        owners = {self.domains.owners.get(mac, "") for mac in macs}
        return owners.pop() if len(owners) == 1 else ""

    def stays(self, uuid: str) -> bool:
        """Whether a machine runs here and is not about to leave."""
        return self.domains.phase(uuid) is Phase.RUNNING

    def problems(self, known: frozenset[bytes]) -> list[str]:
        """Return what is wrong with the machines that have MAC addresses among `known`."""
        found = [f"hypervisor: {self.domains.lost}; what was known stays"] if self.domains.lost else []
        for mac, refused in self.domains.conflicts().items():
            if mac in known:
                names = ", ".join(f"{self.domains.name(uuid)} ({uuid})" for uuid in refused)
                owner = self.domains.owners.get(mac)
                whose = (
                    f"belongs to machine {self.domains.name(owner)}" if owner else "has no owner that was here first"
                )
                found.append(f"MAC address {mac_text(mac)} {whose}: refused to {names}")
        for port in self._vifs:
            owner = self.domains.owners.get(port.attached_mac)
            if port.attached_mac in known and owner and not self.admits(port):
                whose = f"machine {self.domains.name(owner)} ({owner})"
                found.append(f"port {port.name}: has the MAC address of {whose}, but is not that machine's: left out")
        return found

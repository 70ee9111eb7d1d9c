"""What the server knows of its bridge, as values: the only thing that passes from `ovsdb` to the pure part.

Rules: every field is already the right type; nothing here knows the `ovs` library. Whether a trunk's far end is
there and what must be written for BFD are decided here, so that both can be tested without a database.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

from xenflow.model import pack_mac

BFD_MARK = "xenflow-bfd"
"""Key in an Interface's external_ids: its BFD settings are ours, and ours to remove (law 3)."""
MOVED_MARK = "xenflow-moved"
"""Key in a vif's external_ids: the hypervisor is about to take it away because its machine moves; the value is free."""
DRAINED_MARK = "xenflow-drained"
"""Key in a trunk's external_ids: "true" if nothing shall use the trunk, by an operator's order."""
BFD_INTERVAL_MS = 300
BFD_MULTIPLIER = 5
"""So many lost control packets mean that the far end is gone: 1.5 s.

An Open vSwitch that was started anew speaks up within 1 s, the slowest that BFD has; then its links need not be left.
"""
BFD_SETTINGS = {
    "enable": "true",
    "min_tx": str(BFD_INTERVAL_MS),
    "min_rx": str(BFD_INTERVAL_MS),
    "mult": str(BFD_MULTIPLIER),
}

_STARTED_ANEW = {"diagnostic": "Neighbor Signaled Session Down", "remote_diagnostic": "No Diagnostic"}
"""What bfd_status says then (ovs-vswitchd.conf.db(5)); an end that has lost us gives its own diagnostic."""


@dataclasses.dataclass(frozen=True, slots=True)
class PortView:
    """One interface of the bridge. `number` is its OpenFlow port, 0 while it has none; `link_speed` is in bit/s."""

    name: str
    number: int = 0
    external_ids: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bfd: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bfd_status: Mapping[str, str] = dataclasses.field(default_factory=dict)
    link_state: str = ""
    error: str = ""
    link_speed: int = 0

    @property
    def attached_mac(self) -> bytes:
        """The MAC address of the machine's interface behind a vif (vif-openvswitch, libvirt); empty for others."""
        return self.mac if self.external_ids.get("iface-status", "active") == "active" else b""

    @property
    def mac(self) -> bytes:
        """As `attached_mac`, active or not."""
        try:
            return pack_mac(self.external_ids.get("attached-mac", ""))
        except ValueError:
            return b""

    @property
    def machine(self) -> str:
        """The uuid of the machine behind a vif (libvirt and vif-xenflow; Xen's vif-openvswitch); empty if not known."""
        return (self.external_ids.get("vm-id") or self.external_ids.get("xen-vm-uuid") or "").lower()

    @property
    def drained(self) -> bool:
        """Whether the port carries the mark of a drained trunk."""
        return self.external_ids.get(DRAINED_MARK) == "true"

    @property
    def alive(self) -> bool:
        """False once the far end was there and is not any more.

        A far end that never spoke BFD (`flap_count` 0, which counts from the start of Open vSwitch) or has switched
        it off on purpose is taken to be there. So is one whose Open vSwitch has been started anew: it says "down" but
        nothing of why, over a wire that works.
        """
        if self.link_state == "down":
            return False
        status = self.bfd_status
        if status.get("forwarding", "true") == "true" or status.get("remote_state") == "admin_down":
            return True
        if all(status.get(key) == value for key, value in _STARTED_ANEW.items()):
            return True
        return status.get("flap_count", "0") == "0"


@dataclasses.dataclass(frozen=True, slots=True)
class BridgeView:
    """The data bridge; `dpid` is 0 until ovs-vswitchd has made it. `exists` is False if the database lacks it.

    `departed` are interfaces, as they were last, that have gone since the view before.
    """

    name: str
    dpid: int = 0
    datapath_type: str = ""
    ports: tuple[PortView, ...] = ()
    exists: bool = True
    departed: tuple[PortView, ...] = ()


class Database(Protocol):
    """The seam to OVSDB; `ovsdb.Monitor` is the real one."""

    async def run(self, on_view: Callable[[BridgeView], None]) -> None:
        """Call `on_view` with the whole bridge when it is first known and after each change, for ever."""

    def want_bfd(self, trunks: frozenset[str]) -> None:
        """Make BFD run on exactly these ports, as far as it is ours to decide."""

    def mark_drained(self, port: str, *, drained: bool) -> None:
        """Write the mark of a drained trunk, or take it off; the view shows when that is done."""

    def close(self) -> None:
        """Free the connection."""


def plan_bfd(view: BridgeView, trunks: frozenset[str]) -> tuple[list[str], list[str]]:
    """Return the ports on which BFD must be set up, and those on which our settings must go.

    Settings that somebody else made are left alone.
    """
    enable, undo = [], []
    for port in view.ports:
        ours = BFD_MARK in port.external_ids
        complete = ours and all(port.bfd.get(key) == value for key, value in BFD_SETTINGS.items())
        if port.name in trunks:
            if not complete and (ours or not port.bfd.get("enable")):
                enable.append(port.name)
        elif ours:
            undo.append(port.name)
    return enable, undo


def plan_marks(view: BridgeView, wanted: Mapping[str, bool]) -> dict[str, bool]:
    """Return by port which marks of drained trunks are still to be written (True) or taken off."""
    return {port.name: wanted[port.name] for port in view.ports if wanted.get(port.name, port.drained) != port.drained}

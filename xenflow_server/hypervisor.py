"""Which machines run on this node: the seam to the hypervisor, and what Open vSwitch's own database says.

Place in the flow: hypervisor -> inventory. Xen's vif-openvswitch and libvirt both write the MAC address of a machine's
interface into the vif's external_ids when the machine starts, and remove the vif when it is gone.
"""

from __future__ import annotations

from typing import Protocol

from xenflow_server.view import MOVED_MARK, BridgeView


class Hypervisor(Protocol):
    """Knows what runs here."""

    def running(self) -> frozenset[bytes]:
        """Return the MAC addresses of the interfaces of all machines that run on this node."""

    def moved(self) -> frozenset[bytes]:
        """Return those of machines that have left for another node, and have not come back."""


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

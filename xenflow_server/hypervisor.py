"""Which machines run on this node: the seam to the hypervisor, and what Open vSwitch's own database says.

Place in the flow: hypervisor -> inventory. Xen's vif-openvswitch and libvirt both write the MAC address of a machine's
interface into the vif's external_ids when the machine starts, and remove the vif when it is gone.
"""

from __future__ import annotations

from typing import Protocol

from xenflow_server.view import BridgeView


class Hypervisor(Protocol):
    """Knows what runs here."""

    def running(self) -> frozenset[bytes]:
        """Return the MAC addresses of the interfaces of all machines that run on this node."""


class AttachedMacs:
    """A hypervisor as the database shows it: what has an active vif runs here."""

    def __init__(self) -> None:
        self._running: frozenset[bytes] = frozenset()

    def observe(self, view: BridgeView) -> None:
        """Take the bridge as it is now."""
        self._running = frozenset(port.attached_mac for port in view.ports if port.attached_mac)

    def running(self) -> frozenset[bytes]:
        """Return the MAC addresses behind the bridge's vifs."""
        return self._running

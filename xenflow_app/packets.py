"""What the controller needs to know of a frame that a switch sent it (pure; RFC 791, RFC 8200, IEEE 802.1Q)."""

from __future__ import annotations

from dataclasses import dataclass

from xenflow_app.openflow.nxm import ETH_IP, ETH_IPV6, ETH_VLAN

_DSCP = 0xFC


@dataclass(frozen=True, slots=True)
class Datagram:
    """An IP packet in an Ethernet frame: MAC addresses, packed IP addresses, DSCP in the upper 6 bits of `tos`."""

    dl_src: bytes
    dl_dst: bytes
    source: bytes
    destination: bytes
    tos: int


def datagram(frame: bytes) -> Datagram | None:
    """Return the IP packet in a frame, with or without one VLAN tag; None for anything else, or for a cut one."""
    at = 14
    kind = int.from_bytes(frame[12:14], "big")
    if kind == ETH_VLAN:
        kind = int.from_bytes(frame[16:18], "big")
        at = 18
    if kind == ETH_IP and len(frame) >= at + 20:
        source, destination, tos = frame[at + 12 : at + 16], frame[at + 16 : at + 20], frame[at + 1]
    elif kind == ETH_IPV6 and len(frame) >= at + 40:
        source, destination = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
        tos = (frame[at] << 4 | frame[at + 1] >> 4) & 0xFF
    else:
        return None
    return Datagram(frame[6:12], frame[0:6], source, destination, tos & _DSCP)

"""Ordinary bridges between nodes learn where a MAC address is; they must not learn it wrongly while it moves (pure).

Place in the flow: Homes -> *disguise flows on the two nodes that route*; Ways -> *lessons*, before a node turns.

A learning bridge drops a frame whose destination it believes to be where the frame comes from. While a router moves,
two nodes send in its name, from both sides of such a bridge. So

    disguise  frames of a router that moves leave both nodes with a source address to which nobody ever sends: no bridge
              learns anything from them. Nothing else looks at it: ARP and ND name the router's MAC inside.
    lesson    before a node turns to another way, the next node on that way sends it a frame with the router's MAC as
              source: the bridges between them turn, too. The node itself drops it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from xenflow_app import pipeline, switching
from xenflow_app.flowtable import Owner
from xenflow_app.openflow import actions
from xenflow_app.openflow.nxm import ETH_VLAN
from xenflow_app.pipeline import Kind, Sheet, Table
from xenflow_app.topology import End

_HEAD: Final = b"\x06X"
"""How the source addresses of disguised frames begin: locally administered."""
LESSON_TYPE: Final = 0x88B6
"""EtherType of lessons (IEEE 802, local experimental 2)."""
_FRAME_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the bridges in the cable at `end` are to learn: the MAC is where this comes from."""

    end: End
    vid: int
    mac: bytes

    def frame(self) -> bytes:
        """Return the frame that teaches it: tagged, to the probes' address, which bridges flood and nodes drop."""
        tag = ETH_VLAN.to_bytes(2, "big") + self.vid.to_bytes(2, "big")
        head = pipeline.PROBE_MAC + self.mac + tag + LESSON_TYPE.to_bytes(2, "big")
        return head.ljust(_FRAME_BYTES, b"\0")


def alias(router: Owner) -> bytes:
    """Return the source address of the router's frames while it moves: to it nobody ever sends."""
    return _HEAD + router.to_bytes(4, "big")


def disguise(vid: int, mac: bytes, router: Owner) -> pipeline.Flows:
    """Return the flow that takes the router's MAC off as source, of what its VM sends and of what is routed for it."""
    sheet = Sheet(Kind.LINK, router)
    sheet.add(Table.LINK, 200, actions.set_dl_src(alias(router)) + pipeline.goto(Table.LINK), reg0=vid, dl_src=mac)
    return sheet.flows


def to_machine_elsewhere(router: Owner, interface: int, trunk: int) -> pipeline.Flows:
    """Return the flow that sends a packet for the router's VM to the node that has it: by layer 2.

    It may pass a bridge that it has passed before, the other way.
    """
    sheet = Sheet(Kind.LOCAL, router)
    acts = actions.set_dl_src(alias(router)) + switching.leave_trunk(trunk)
    sheet.add(Table.MACHINE, 100, acts, reg1=interface, reg2=router)
    return sheet.flows

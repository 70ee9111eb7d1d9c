"""Announcements that do not count, and frames that misuse their address: judged, counted, at times logged (sans-IO).

    packet-in -> *why_not* -> Tally         counters of admission, every READ_S -> *ReservedFrames* -> Tally

Rules: what is ignored changes nothing else. Who sends thousands of frames causes one log line a minute for each port
and reason, with the number of those in between; all are counted, and `xenflow status` shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import partial

from xenflow.announcement import claimed_epoch, parse
from xenflow.model import ANNOUNCEMENT_MAC, mac_text
from xenflow.tally import Tally
from xenflow_app.flowtable import FABRIC, FlowKey, cookie
from xenflow_app.node import Node
from xenflow_app.openflow import nxm
from xenflow_app.openflow.values import Flow
from xenflow_app.pipeline import RESERVED_PRIORITY, Kind, Table

READ_S = 5.0
"""How often the switches are asked what they have dropped."""
_ALL = (1 << 64) - 1
_DROPPED: Mapping[FlowKey, str] = {
    nxm.flow_key(Table.ADMISSION, RESERVED_PRIORITY, dl_dst=ANNOUNCEMENT_MAC): (
        f"frames to {mac_text(ANNOUNCEMENT_MAC)}, dropped by the switch"
    ),
    nxm.flow_key(Table.ADMISSION, RESERVED_PRIORITY, dl_src=ANNOUNCEMENT_MAC): (
        f"frames from {mac_text(ANNOUNCEMENT_MAC)}, dropped by the switch"
    ),
}


class Reason(StrEnum):
    """Why an announcement is ignored."""

    NOT_AWAITED = "no move waits for an announcement from there"
    UNPROVEN = "an announcement without a proof"
    EPOCH = "an announcement of another move"
    WRONG = "an announcement with a wrong proof"


def why_not(frame: bytes, mac: bytes, key: bytes, epoch: int) -> Reason | None:
    """Return why a frame does not announce the interface `mac` in the move of that key and epoch; None if it does."""
    said = parse(frame, key)
    if said is not None and (said.mac, said.epoch) == (mac, epoch):
        return None
    claimed = claimed_epoch(frame)
    if claimed is None:
        return Reason.UNPROVEN
    return Reason.WRONG if claimed == epoch else Reason.EPOCH


class ReservedFrames:
    """What the switches have dropped because nobody may have the announcement's address; since we have seen them."""

    def __init__(self, nodes: Mapping[str, Node], ignored: Tally) -> None:
        self._nodes = nodes
        self._ignored = ignored
        self._next = 0.0
        self._asked: set[str] = set()
        self._last: dict[tuple[str, FlowKey], int] = {}

    def tick(self, now: float) -> None:
        """Ask, if it is time to; who has not answered yet is not asked again."""
        if now < self._next:
            return
        self._next = now + READ_S
        for node in self._nodes.values():
            if node.switch is not None and node.flows.ready and node.name not in self._asked:
                self._asked.add(node.name)
                node.datapath.ask(
                    partial(self._told, node.name, now), Table.ADMISSION, (cookie(Kind.STATIC, FABRIC), _ALL)
                )

    def _told(self, name: str, now: float, flows: list[Flow] | None) -> None:
        self._asked.discard(name)
        for flow in flows or ():
            why = _DROPPED.get(flow.key)
            if why is None:
                continue
            last = self._last.get((name, flow.key), flow.packets)
            self._last[name, flow.key] = flow.packets
            more = flow.packets - last if flow.packets >= last else flow.packets
            if more:
                self._ignored.add(name, why, now, more)

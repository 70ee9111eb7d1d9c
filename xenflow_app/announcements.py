"""Announcements that do not count, and frames that misuse their address: judged, counted, at times logged (sans-IO).

    packet-in -> *why_not* -> Ignored         counters of admission, every READ_S -> *ReservedFrames* -> Ignored

Rules: what is ignored changes nothing else. Who sends thousands of frames causes one log line a minute for each port
and reason, with the number of those in between; all are counted, and `xenflow status` shows them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import partial

from xenflow.announcement import claimed_epoch, parse
from xenflow.model import ANNOUNCEMENT_MAC, mac_text
from xenflow_app.flowtable import FABRIC, FlowKey, cookie
from xenflow_app.node import Node
from xenflow_app.openflow import nxm
from xenflow_app.openflow.values import Flow
from xenflow_app.pipeline import RESERVED_PRIORITY, Kind, Table

log = logging.getLogger(__name__)

REPEAT_S = 60.0
READ_S = 5.0
"""How often the switches are asked what they have dropped."""
MAX_KEPT = 1024
"""Places and reasons that are told apart; the others are counted together."""
_ELSEWHERE = ("elsewhere", "too many different ones")
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


class Ignored:
    """Counts by place and reason; the log gets one line for each of them in REPEAT_S."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    @property
    def total(self) -> int:
        """How many there were."""
        return self._counts.total()

    def lines(self) -> Iterable[tuple[str, int]]:
        """Return each kind in words, and how many there were, sorted."""
        return sorted((f"{where}: {why}", count) for (where, why), count in self._counts.items())

    def add(self, where: str, why: str, now: float, times: int = 1) -> None:
        """Count, and log unless that has been done recently."""
        kind = (where, why)
        if kind not in self._counts and len(self._counts) >= MAX_KEPT:
            kind = _ELSEWHERE
        self._counts[kind] += times
        when, count = self._logged.get(kind, (float("-inf"), 0))
        if now - when >= REPEAT_S:
            self._logged[kind] = (now, self._counts[kind])
            log.warning("ignored at=%s why=%s times=%d", *kind, self._counts[kind] - count)


class ReservedFrames:
    """What the switches have dropped because nobody may have the announcement's address; since we have seen them."""

    def __init__(self, nodes: Mapping[str, Node], ignored: Ignored) -> None:
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

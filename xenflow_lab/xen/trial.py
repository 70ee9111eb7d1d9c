"""Numbered packets through a router while something happens to it: what was lost, doubled, how long nothing came."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from xenflow_lab import stations
from xenflow_lab.lab import Lab

SIZE_BYTES: Final = 1472
RATE_PPS: Final = 510.0
"""The paper's flow: 510 packets/s of 1472 bytes."""
PORT: Final = 5000
INTERVAL_S: Final = 1.0
LONGEST_S: Final = 7200.0
AFTER_S: Final = 10.0
"""How long packets go on when the thing is done; as long they may take to arrive."""


@dataclass(frozen=True, slots=True)
class Flow:
    """From which machine to which address of which, and how fast."""

    source: str = "sender"
    target: str = "receiver"
    address: str = "10.0.2.10"
    rate_pps: float = RATE_PPS


@dataclass(frozen=True, slots=True)
class Count:
    """What became of the packets; `rates_bps` of payload in each INTERVAL_S, `took_s`: how long the thing took."""

    sent: int
    lost: int
    doubled: int
    longest_gap_s: float
    took_s: float
    rates_bps: tuple[float, ...]

    def __str__(self) -> str:
        gap = f"longest gap {self.longest_gap_s:.2f} s"
        return f"{self.sent} sent, {self.lost} lost, {self.doubled} doubled, {gap}; it took {self.took_s:.0f} s"


def count(lab: Lab, act: Callable[[], object], flow: Flow = Flow()) -> Count:
    """Return what became of a flow's packets from before `act` until after it. Raises ToolError and what `act` does."""
    receiving = ["--port", f"{PORT}", "--flows", "1", "--interval", f"{INTERVAL_S}"]
    sending = ["--to", f"{flow.address}:{PORT}", "--rate-pps", f"{flow.rate_pps}", "--size", f"{SIZE_BYTES}"]
    with stations.start(lab, flow.target, "receive", *receiving) as receiver:
        with stations.begin(lab, flow.source, "send", *sending, "--duration", f"{LONGEST_S}") as sender:
            time.sleep(AFTER_S)
            began_s = time.monotonic()
            act()
            took_s = time.monotonic() - began_s
            time.sleep(AFTER_S)
            sent = sender.stop()["sent"]
        report = receiver.end(AFTER_S)
    (counted,) = report["flows"]
    gap_s = report["longest_gap_ns"] / 1e9
    return Count(sent, sent - report["received"], report["duplicated"], gap_s, took_s, tuple(counted["rates_bps"]))

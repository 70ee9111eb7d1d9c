"""Numbered packets through a router while something happens to it: what was lost, doubled, how long nothing came.

What emulated hosts lose by themselves is not what a migration loses, so it is looked for first: `lossless`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from xenflow_lab import stations
from xenflow_lab.command import LabError
from xenflow_lab.lab import Lab
from xenflow_lab.xen import drops
from xenflow_lab.xen.lab import XenLab

SIZE_BYTES: Final = 1472
LEAST_PPS: Final = 510.0
"""The paper's flow: 510 packets/s of 1472 bytes."""
MOST_PPS: Final = 2040.0
"""One emulated processor is busy with about so many (xenflow_lab without Xen: 28 to 34 Mb/s)."""
PORT: Final = 5000
INTERVAL_S: Final = 0.5
LONGEST_S: Final = 7200.0
AROUND_S: Final = 10.0
"""How long packets flow before and after the thing."""
REST_S: Final = 40.0
"""How long nothing moves, to see whether packets get lost by themselves."""
LATE_S: Final = 30.0
"""How long the last packets may take to arrive."""
ANSWERS_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Flow:
    """From which machine to which address of which, and how fast."""

    source: str = "sender"
    target: str = "receiver"
    address: str = "10.0.2.10"
    rate_pps: float = LEAST_PPS


@dataclass(frozen=True, slots=True)
class Count:
    """What became of the packets; `rates_bps` of payload in each INTERVAL_S, `took_s`: how long the thing took.

    `overrun`: so many of the lost came to the receiver's full buffer. `late_s`: the longest that one was on its way.
    """

    sent: int
    lost: int
    doubled: int
    longest_gap_s: float
    took_s: float
    rates_bps: tuple[float, ...]
    overrun: int = 0
    late_s: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether each packet has come, once."""
        return self.sent > 0 and (self.lost, self.doubled) == (0, 0)

    @property
    def lost_share(self) -> float:
        """How much of it was lost, 0 to 1."""
        return self.lost / self.sent if self.sent else 0.0

    def __str__(self) -> str:
        times = f"longest gap {self.longest_gap_s:.2f} s, latest {self.late_s:.2f} s on its way"
        overrun = f" ({self.overrun} at the receiver's socket)" if self.overrun else ""
        lost = f"{self.lost} lost{overrun}, {self.doubled} doubled"
        return f"{self.sent} sent, {lost}, {times}; it took {self.took_s:.0f} s"


def count(lab: Lab, act: Callable[[], object], flow: Flow = Flow(), around_s: float = AROUND_S) -> Count:
    """Return what became of a flow's packets from before `act` until after it. Raises ToolError and what `act` does."""
    receiving = ["--port", f"{PORT}", "--flows", "1", "--interval", f"{INTERVAL_S}"]
    sending = ["--to", f"{flow.address}:{PORT}", "--rate-pps", f"{flow.rate_pps}", "--size", f"{SIZE_BYTES}"]
    with stations.start(lab, flow.target, "receive", *receiving) as receiver:
        with stations.begin(lab, flow.source, "send", *sending, "--duration", f"{LONGEST_S}") as sender:
            time.sleep(around_s)
            began_s = time.monotonic()
            act()
            took_s = time.monotonic() - began_s
            time.sleep(around_s)
            sent = sender.stop()["sent"]
        report = receiver.end(LATE_S)
    return counted(sent, took_s, report)


def counted(sent: int, took_s: float, report: Mapping[str, Any]) -> Count:
    """Return what a receiver's report says; packets of an earlier flow may have come late, and do not count."""
    if not report["flows"]:
        return Count(sent, sent, 0, took_s, took_s, ())
    flow = max(report["flows"], key=lambda flow: int(flow["last_ns"]))
    return Count(
        sent,
        sent - flow["received"],
        flow["duplicated"],
        flow["longest_gap_ns"] / 1e9,
        took_s,
        tuple(flow["rates_bps"]),
        report["dropped_by_socket"],
        (flow["delay_ns"]["max"] or 0) / 1e9,
    )


def await_traffic(lab: Lab, flow: Flow = Flow()) -> None:
    """Return once the flow's ends reach each other, all neighbors known and installed. Raises LabError.

    Packets that come before an address is resolved wait in short queues: they must not be counted.
    """

    def answers() -> bool:
        return all(stations.answers(lab, flow.source, [flow.address], "-W5").values())

    lab.wait_until(answers, ANSWERS_S, f"answers of {flow.address} to {flow.source}")
    if lab.with_xenflow:
        lab.wait_settled()
    lab.wait_until(answers, ANSWERS_S, f"answers of {flow.address} to {flow.source}")


@dataclass(frozen=True, slots=True)
class Rest:
    """A flow while nothing moves, and what became of it, also in words."""

    flow: Flow
    count: Count
    words: str


def lossless(lab: XenLab, most_pps: float = MOST_PPS, flow: Flow = Flow()) -> Flow:
    """Return the flow at the highest rate at which nothing is lost while nothing moves: most, a half, a quarter …

    Raises LabError if that is below LEAST_PPS, with where the packets were dropped.
    """
    rest = at_rest(lab, most_pps, flow)
    if not rest.count.is_whole:
        why = "these hosts lose packets even while nothing moves, so migrations cannot be judged here"
        raise LabError(f"{why}: {rest.words}")
    return rest.flow


def at_rest(lab: XenLab, most_pps: float = MOST_PPS, flow: Flow = Flow()) -> Rest:
    """Return the flow at the highest rate at which nothing is lost while nothing moves; if there is none, at the least.

    Raises LabError.
    """
    *higher, least = halves(most_pps)
    for rate_pps in higher:
        rest = _rest(lab, dataclasses.replace(flow, rate_pps=rate_pps))
        if rest.count.is_whole:
            return rest
    return _rest(lab, dataclasses.replace(flow, rate_pps=least))


def _rest(lab: XenLab, flow: Flow) -> Rest:
    """Return what becomes of a flow: tried shortly, and if nothing is lost then, for REST_S."""
    await_traffic(lab, flow)  # links may have been taken for dead under an earlier one
    before = drops.read(lab)
    found = count(lab, lambda: None, flow)
    if found.is_whole:
        found = count(lab, lambda: time.sleep(REST_S), flow)
    said = f"nothing moves, {flow.rate_pps:g} packets/s: {found}{dropped(lab, before, found)}"
    lab.say(said)
    return Rest(flow, found, said)


def dropped(lab: XenLab, before: drops.Drops, found: Count) -> str:
    """Return in words where packets were dropped since `before` was read, if some were lost."""
    return f"; dropped: {drops.words(before, drops.read(lab))}" if found.lost else ""


def halves(most_pps: float) -> Iterator[float]:
    """Yield `most_pps`, a half of it, and so on, down to LEAST_PPS and that at the end."""
    rate_pps = most_pps
    while rate_pps > LEAST_PPS:
        yield rate_pps
        rate_pps /= 2
    yield LEAST_PPS

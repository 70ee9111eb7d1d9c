"""Packets/s and TCP through the router's pipeline against one static output flow, interleaved on the same bridge.

The switch is kept saturated. The figure is of packets in a second by the clock, and needs a quiet machine; beside it
stands the same for a second of processor time of the forwarding thread, which leaves out what others take away.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import network
from bench.agent import Agent
from bench.figure import Figure, figure
from bench.network import LEFT, RIGHT, RIGHT_ADDRESS, Paths
from xenflow_lab.lab import Lab

PAIRS = 15
WINDOW_S, STEADY_S = 0.5, 0.25
"""How long is measured, and how long is waited before that."""
HEADERS_BYTES = 42
"""Ethernet, IPv4 and UDP in front of the payload."""
NODE = "n1"

Traffic = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Compared:
    """(Rate by the clock, rate by processor time) by the pipeline and by the static flow, in the order measured."""

    ours: list[tuple[float, float]]
    floor: list[tuple[float, float]]

    def ratios(self, by: int) -> list[float]:
        """Return the ratios of windows next to each other, by the clock (0) or by processor time (1)."""
        return [mine[by] / floor[by] for mine, floor in zip(self.ours, self.floor, strict=True)]


class _Rates:
    """What h2 gets in a second, and for a second of the switch's forwarding thread."""

    def __init__(self, lab: Lab, receiver: Agent) -> None:
        pid = lab.process("vswitchd", NODE).pid
        self._time = Path(f"/proc/{pid}/task/{pid}/schedstat")
        self._receiver = receiver

    def measure(self, of: int, traffic: Traffic) -> tuple[float, float]:
        """Return packets (`of` 0) or bytes (1) for a second, and for a second of processor time, under traffic."""
        with traffic():
            time.sleep(STEADY_S)
            clock, busy_ns, before = time.monotonic(), self._busy_ns(), self._receiver.ask("received")[of]
            time.sleep(WINDOW_S)
            clock_s, busy_s = time.monotonic() - clock, (self._busy_ns() - busy_ns) * 1e-9
            amount = self._receiver.ask("received")[of] - before
        return float(amount / clock_s), float(amount / busy_s)

    def _busy_ns(self) -> int:
        return int(self._time.read_text(encoding="ascii").split()[0])


def run() -> list[Figure]:
    """Return forwarding_ratio: the lowest of the three medians; its samples are ratios of neighboring windows."""
    with network.one_node() as lab, network.hosts(lab) as (left, right), _iperf_server(lab):
        paths, rates = Paths(lab), _Rates(lab, right)
        right.ask("sink")
        found = {
            f"{size} B": _both(paths, partial(rates.measure, 0, partial(_packets, left, size))) for size in (64, 1514)
        }
        found["TCP"] = _both(paths, partial(rates.measure, 1, partial(_tcp, lab)))
    for name, one in found.items():
        ours, floor = (statistics.median(rate for rate, _ in rates) for rates in (one.ours, one.floor))
        shown = (
            f"{ours * 8e-6:,.0f} and {floor * 8e-6:,.0f} Mb/s" if name == "TCP" else f"{ours:,.0f} and {floor:,.0f}/s"
        )
        clock, busy = (statistics.median(one.ratios(by)) for by in (0, 1))
        print(f"    {name}: {shown}, ratio {clock:.3f} (by processor time {busy:.3f})")
    lowest = min(found.values(), key=lambda one: statistics.median(one.ratios(0)))
    return [figure("forwarding_ratio", lowest.ratios(0))]


def _both(paths: Paths, measure: Callable[[], tuple[float, float]]) -> Compared:
    """Measure in the order pipeline, static, static, pipeline, …"""
    ours: list[tuple[float, float]] = []
    floor: list[tuple[float, float]] = []
    for pair in range(PAIRS):
        order = ((paths.pipeline, ours), (paths.static, floor))
        for choose, into in order if pair % 2 == 0 else order[::-1]:
            choose()
            into.append(measure())
    return Compared(ours, floor)


@contextmanager
def _packets(left: Agent, size_bytes: int) -> Iterator[None]:
    """Send frames of `size_bytes`, more than can be forwarded."""
    payload_bytes = size_bytes - HEADERS_BYTES
    left.tell("blast", to=RIGHT_ADDRESS, payload_bytes=payload_bytes, seconds=STEADY_S + WINDOW_S + 0.1)
    yield
    left.answer()


@contextmanager
def _tcp(lab: Lab) -> Iterator[None]:
    """Send by one TCP connection."""
    with lab.popen(LEFT, ["iperf3", "-c", RIGHT_ADDRESS, "-t", "30"]) as client:
        try:
            yield
        finally:
            client.terminate()
            client.communicate()


@contextmanager
def _iperf_server(lab: Lab) -> Iterator[None]:
    with lab.popen(RIGHT, ["iperf3", "-s", "--forceflush"]) as server:
        try:
            while server.stdout is not None and "listening" not in (line := server.stdout.readline()):
                if not line:
                    raise RuntimeError("iperf3 does not listen")
            yield
        finally:
            server.kill()
            server.communicate()

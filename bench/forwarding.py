"""Packets/s and TCP through the router's pipeline against one static output flow, interleaved on the same bridge."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench import network
from bench.agent import Agent
from bench.figure import Figure, figure, percentile
from bench.network import RIGHT, RIGHT_ADDRESS, Paths
from xenflow_lab.lab import Lab

PACKET_PAIRS, TCP_PAIRS = 20, 10
WINDOW_S, TCP_S = 0.4, 1.0
STEADY_S = 0.2
"""How long is waited before a window."""
HEADERS_BYTES = 42
"""Ethernet, IPv4 and UDP in front of the payload."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Rates by the pipeline and by the static flow, in the order in which they were measured."""

    ours: list[float]
    floor: list[float]

    @property
    def ratio(self) -> float:
        """That of the upper quartiles: whatever else the machine does can only make a window slower."""
        return percentile(self.ours, 0.75) / percentile(self.floor, 0.75)

    @property
    def pairs(self) -> list[float]:
        """The ratios of windows next to each other."""
        return [mine / floor for mine, floor in zip(self.ours, self.floor, strict=True)]


def run() -> list[Figure]:
    """Return forwarding_ratio: the lowest of the three; its samples are ratios of windows next to each other."""
    with network.one_node() as lab, network.hosts(lab) as (left, right):
        paths = Paths(lab)
        right.ask("sink")
        found = {f"{size} B": _both(paths, PACKET_PAIRS, partial(_packets, left, right, size)) for size in (64, 1514)}
        found["TCP"] = _both(paths, TCP_PAIRS, partial(_tcp, lab))
    for name, one in found.items():
        unit = "Mb/s" if name == "TCP" else "packets/s"
        ours, floor = statistics.median(one.ours), statistics.median(one.floor)
        print(f"    {name}: medians {ours:,.0f} and {floor:,.0f} {unit}, ratio {one.ratio:.3f}")
    lowest = min(found.values(), key=lambda one: one.ratio)
    return [figure("forwarding_ratio", lowest.pairs, lowest.ratio)]


def _both(paths: Paths, pairs: int, measure: Callable[[], float]) -> Compared:
    """Measure in the order pipeline, static, static, pipeline, …"""
    ours: list[float] = []
    floor: list[float] = []
    for pair in range(pairs):
        order = ((paths.pipeline, ours), (paths.static, floor))
        for choose, into in order if pair % 2 == 0 else order[::-1]:
            choose()
            into.append(measure())
    return Compared(ours, floor)


def _packets(left: Agent, right: Agent, size_bytes: int) -> float:
    """Return the packets/s that arrive of frames of `size_bytes` while more are sent than can be forwarded."""
    left.tell("blast", to=RIGHT_ADDRESS, payload_bytes=size_bytes - HEADERS_BYTES, seconds=STEADY_S + WINDOW_S + 0.1)
    right.ask("rates", devices=["eth0"], seconds=STEADY_S, interval_s=STEADY_S)
    ((rate,),) = right.ask("rates", devices=["eth0"], seconds=WINDOW_S, interval_s=WINDOW_S)
    left.answer()
    return float(rate)


def _tcp(lab: Lab) -> float:
    """Return the TCP goodput in Mb/s."""
    with lab.popen(RIGHT, ["iperf3", "-s", "-1", "--forceflush"], stderr=None) as server:
        assert server.stdout is not None
        while "listening" not in (line := server.stdout.readline()):
            if not line:
                raise RuntimeError("iperf3 does not listen")
        argv = ["iperf3", "-c", RIGHT_ADDRESS, "-t", f"{TCP_S:g}", "-O", "0.5", "-J"]
        done = lab.run("h1", argv, timeout_s=30)
        if done.returncode:
            server.kill()
            raise RuntimeError(f"iperf3: {done.stdout}{done.stderr}")
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6

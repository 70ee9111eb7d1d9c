"""How long a moved router's announcement takes, from its client to the controller's decision: idle, and under a flood.

    r1 moves n1 -> n2 -> n1 ...; h3, on n2, sends to ever new addresses behind r1 (reactive mode: each is a packet-in),
    more than n2's switch hands on; r1 itself fills its own vif, which has a rate as tenants' vifs are to have. As
    with a Xen vif, what is more waits in the machine's own queue, by priority (as pfifo_fast does).

Moves without and with the flood take turns; those to n2 are measured. The times are those in the logs of client
("announcing", just before the first frame) and controller ("every interface has announced itself"); they share a clock.
Of the slowest one under the flood it is told where it took its time (announced.py).
"""

from __future__ import annotations

import datetime as dt
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import network
from bench.announced import Trace, time_of, trace
from bench.figure import Figure, figure
from bench.moving import migrate
from xenflow_app.migration import Event
from xenflow_app.openflow.packet_ins import MAX_MESSAGES
from xenflow_lab import stations
from xenflow_lab.lab import Lab

ROUNDS = int(os.environ.get("MOVES", "6"))
FLOOD_PPS = 20_000
ADDRESSES = 1 << 16
"""New ones in each flood."""
_RANGE = 4096
VIF_RATE = "5mbit"
"""Half of what r1 sends."""
RESOLUTION_MS = 1.0
"""Of the times in both logs: what takes less counts as that much."""


def run() -> list[Figure]:
    """Return announce_ms (the longest under the flood) and announce_ratio (median under the flood / idle)."""
    with network.lab_of(network.topology("announcement")) as lab:
        lab.wait_settled()
        lab.wait_until(lambda: all(stations.answers(lab, "h3", ["10.0.2.10"]).values()), 60, "traffic")
        rate = ["tbf", "rate", VIF_RATE, "burst", "3000", "limit", "1000000"]
        lab.run("r1", ["tc", "qdisc", "replace", "dev", "eth1", "root", "handle", "1:", *rate], check=True)
        lab.run("r1", ["tc", "qdisc", "add", "dev", "eth1", "parent", "1:1", "handle", "10:", "pfifo_fast"], check=True)
        idle, loaded, flooded, slowest = [], [], [], None
        for turn in range(ROUNDS):
            idle.append(_announced_ms(lab))
            migrate(lab, "r1", "n1")
            with _flood(lab, turn) as rates, _departures(lab) as departures:
                loaded.append(_announced_ms(lab))
                sockets = lab.run("n2", ["ss", "-0", "-m"], check=True).stdout
            flooded.append(tuple(rates))
            if loaded[-1] == max(loaded):
                slowest = _trace(lab, departures, sockets)
            migrate(lab, "r1", "n1")
        dropped = [line for line in _log(lab, "controller", "controller") if "dropped at=" in line]
    new, own = (f"{min(rates):.0f}" for rates in zip(*flooded, strict=True))
    print(f"    idle {_shown(idle)} ms; under the flood {_shown(loaded)} ms")
    print(f"    the flood: at least {new} new addresses/s, and {own} frames/s of r1 that its own queue did not drop")
    if slowest is not None:
        print(f"    the slowest: {slowest.tell()}")
    for line in dropped:
        print(f"    more than {MAX_MESSAGES} waited: {line.partition('dropped ')[2]}")
    ratio = statistics.median(loaded) / statistics.median(idle)
    return [
        figure("announce_ms", loaded, max(loaded)),
        figure("announce_ratio", [under / floor for under, floor in zip(loaded, idle, strict=True)], ratio),
    ]


def _announced_ms(lab: Lab) -> float:
    """Move r1 to n2; return how long the announcement took."""
    migrate(lab, "r1", "n2")
    sent = _times(lab, "client", "r1", "announcing epoch")[-1]
    heard = _times(lab, "controller", "controller", f"why={Event.ANNOUNCED} ")[-1]
    return max((heard - sent) / dt.timedelta(milliseconds=1), RESOLUTION_MS)


def _times(lab: Lab, role: str, who: str, what: str) -> list[dt.datetime]:
    return [time_of(line) for line in _log(lab, role, who) if what in line]


def _log(lab: Lab, role: str, who: str) -> list[str]:
    return Path(lab.process(role, who).command.log).read_text(encoding="utf-8", errors="replace").splitlines()


def _trace(lab: Lab, departures: list[str], sockets: str) -> Trace:
    return trace(_log(lab, "client", "r1"), _log(lab, "controller", "controller"), departures, sockets)


@contextmanager
def _departures(lab: Lab) -> Iterator[list[str]]:
    """Note, in the list that is there after the block, when announcements leave r1."""
    said: list[str] = []
    process = lab.popen("r1", [sys.executable, "-m", "bench.departures", "eth0", "eth1"], stderr=None)
    try:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError("who notes departures has not begun")
        yield said
    finally:
        process.terminate()
        said += process.communicate()[0].splitlines()


@contextmanager
def _flood(lab: Lab, turn: int) -> Iterator[list[float]]:
    """Let h3 and r1 send until the block ends; a second passes first, so that packet-ins wait already.

    The packets/s of both are in the list then. They take no real time from the switch: other machines would not.
    """
    to = []
    for first in range(0, ADDRESSES, _RANGE):
        to += ["--to", f"{_address(turn, first)}-{_address(turn, first + _RANGE - 1)}:9"]
    rate = ["--rate-pps", str(FLOOD_PPS)]
    rates: list[float] = []
    with ExitStack() as stack:
        words = ["--no-realtime", "--spread", *to, *rate, "--size", "64"]
        tools = [stack.enter_context(stations.begin(lab, "h3", "send", *words))]
        frame = [
            "--destination-mac",
            stations.mac(lab, "h2"),
            "--source-ip",
            "10.0.2.1",
            "--destination-ip",
            "10.0.2.10",
        ]
        words = ["--interface", "eth1", *frame, "--count", "0", *rate]
        tools.append(stack.enter_context(stations.begin(lab, "r1", "inject", *words)))
        began = time.monotonic()
        lab.wait_until(lambda: time.monotonic() >= began + 1, 10, "the flood")
        yield rates
        rates += [tool.stop()["sent"] / (time.monotonic() - began) for tool in tools]


def _address(turn: int, index: int) -> str:
    return f"20.{turn % 16 << 4 | index >> 16}.{index >> 8 & 255}.{index & 255}"


def _shown(samples: list[float]) -> str:
    return ", ".join(f"{sample:.0f}" for sample in samples)

"""A router that hired a rate moves to and fro between two nodes whose links are overloaded: its rate all the while.

Nodes as in figure 3(c): source and target lead to the receiver's node by a trunk each, and on each of them another
router sends all it can over that trunk.
"""

from __future__ import annotations

import os

from bench import network
from bench.figure import Figure, figure
from bench.moving import migrate
from bench.tenants import HEADERS_BYTES, SIZE_BYTES
from xenflow_lab import shares, stations
from xenflow_lab.lab import Lab
from xenflow_lab.traffic.launch import Tool

MOVES = int(os.environ.get("QOS_MOVES", "6"))
HIRED_MBPS, OFFERED_MBPS, OTHERS_MBPS = 10.0, 25.0, 60.0
"""What r1 hired and is offered; what the others send, each over a link of 50."""
WINDOW_S = 0.5
PORT = "5000"
BETWEEN = ("target", "source")


def run() -> list[Figure]:
    """Return the least rate of all windows of 500 ms, as a part of what was hired."""
    with network.lab_of(network.topology("qos_migrate")) as lab:
        lab.wait_settled()
        for who, to in (("h1", "10.0.2.10"), ("sa", "10.1.2.10"), ("sb", "10.2.2.10")):
            lab.wait_until(lambda w=who, t=to: all(stations.answers(lab, w, [t]).values()), 60, "traffic")  # type: ignore[misc]
        for node in BETWEEN:
            lab.wait_until(lambda n=node: bool(shares.queue_ids(lab, n, "t-receiver")), 30, "queues")  # type: ignore[misc]
        rates, steps = _measure(lab)
    print(f"    {len(steps)} migrations, {len(rates)} windows: {min(rates):.2f} to {max(rates):.2f} Mb/s", flush=True)
    parts = [rate / HIRED_MBPS for rate in rates]
    return [figure("qos_migrate", parts, min(parts))]


def _measure(lab: Lab) -> tuple[list[float], list[str]]:
    receiving = ("--port", PORT, "--flows", "1", "--interval", str(WINDOW_S))
    with (
        stations.start(lab, "h2", "receive", *receiving) as receiver,
        _send(lab, "sa", "10.1.2.10", OTHERS_MBPS),
        _send(lab, "sb", "10.2.2.10", OTHERS_MBPS),
        _send(lab, "h1", "10.0.2.10", OFFERED_MBPS, realtime=True) as sender,
    ):
        lab.wait_until(lambda: _backlogged(lab), 20, "an overloaded link")
        steps = []
        for number in range(MOVES):
            migrate(lab, "r1", BETWEEN[number % 2])
            steps.append(BETWEEN[number % 2])
        sender.stop()
        report = receiver.end(5)
    (flow,) = report["flows"]
    rates = [rate * (1 + HEADERS_BYTES / SIZE_BYTES) / 1e6 for rate in flow["rates_bps"]]
    return rates[2:-2], steps


def _send(lab: Lab, who: str, to: str, mbps: float, *, realtime: bool = False) -> Tool:
    """Start a sender; one in real time is not late when the machine is busy, and what it misses is the network's."""
    bps = mbps * 1e6 * SIZE_BYTES / (SIZE_BYTES + HEADERS_BYTES)
    plan = ("--rate-bps", f"{bps}", "--size", str(SIZE_BYTES), *(() if realtime else ("--no-realtime",)))
    return stations.begin(lab, who, "send", "--to", f"{to}:{PORT}", *plan)


def _backlogged(lab: Lab) -> bool:
    reading = shares.read(lab, "source", "t-receiver")
    ids = shares.queue_ids(lab, "source", "t-receiver")
    return all(reading.queues[queue].waiting for (who, name), queue in ids.items() if (who, name) == ("ra", ""))

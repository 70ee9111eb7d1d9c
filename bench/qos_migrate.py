"""A router that hired a rate moves to and fro between two nodes whose links are overloaded: its rate all the while.

Nodes as in figure 3(c): source and target lead to the receiver's node by a trunk each, and on each of them another
router sends all it can over that trunk: it has packets waiting before each move, and its queue drops during each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

import msgspec

from bench import network
from bench.figure import Figure, figure
from bench.moving import migrate
from bench.tenants import HEADERS_BYTES, SIZE_BYTES
from xenflow.answers import MigrationStatus
from xenflow_lab import operator, shares, stations
from xenflow_lab.command import LabError
from xenflow_lab.lab import Lab
from xenflow_lab.traffic.launch import Tool

MOVES = int(os.environ.get("QOS_MOVES", "6"))
HIRED_MBPS, OFFERED_MBPS, OTHERS_MBPS = 10.0, 25.0, 60.0
"""What r1 hired and is offered; what the others send, each over a link of 50."""
WINDOW_S = 0.5
PORT = "5000"
BETWEEN = ("target", "source")
GREEDY = {"source": "ra", "target": "rb"}
"""Whose link is overloaded by whom."""


def run() -> list[Figure]:
    """Return the least rate of all windows of 500 ms, as a part of what was hired."""
    with network.lab_of(network.topology("qos_migrate")) as lab:
        lab.wait_settled()
        for who, to in (("h1", "10.0.2.10"), ("sa", "10.1.2.10"), ("sb", "10.2.2.10")):
            lab.wait_until(lambda w=who, t=to: all(stations.answers(lab, w, [t]).values()), 60, "traffic")  # type: ignore[misc]
        for node in BETWEEN:
            lab.wait_until(lambda n=node: bool(shares.queue_ids(lab, n, "t-receiver")), 30, "queues")  # type: ignore[misc]
        rates = _measure(lab)
    print(f"    {MOVES} migrations, {len(rates)} windows: {min(rates):.2f} to {max(rates):.2f} Mb/s", flush=True)
    parts = [rate / HIRED_MBPS for rate in rates]
    return [figure("qos_migrate", parts, min(parts))]


def _measure(lab: Lab) -> list[float]:
    receiving = ("--port", PORT, "--flows", "1", "--interval", str(WINDOW_S))
    with (
        stations.start(lab, "h2", "receive", *receiving) as receiver,
        _send(lab, "sa", "10.1.2.10", OTHERS_MBPS),
        _send(lab, "sb", "10.2.2.10", OTHERS_MBPS),
        _send(lab, "h1", "10.0.2.10", OFFERED_MBPS, realtime=True) as sender,
    ):
        reached = [step for number in range(MOVES) for step in _move(lab, BETWEEN[number % 2])]
        sent = sender.stop()
        report = receiver.end(5)
    (flow,) = report["flows"]
    rates = [rate * (1 + HEADERS_BYTES / SIZE_BYTES) / 1e6 for rate in flow["rates_bps"]]
    steps = steps_within(reached, flow["first_ns"], len(rates))
    for number, (rate, during) in enumerate(zip(rates, steps, strict=True)):
        print(f"    {number * WINDOW_S:5.1f} s: {rate:5.2f} Mb/s, {during}", flush=True)
    lost, gap_ms = sent["sent"] - report["received"], flow["longest_gap_ns"] / 1e6
    print(f"    lost {lost} of {sent['sent']}, {report['dropped_by_socket']} of them by the receiver's socket;", end="")
    print(f" longest loss {flow['longest_loss']} on end, longest gap {gap_ms:.1f} ms", end="")
    print(
        f" at {(flow['longest_gap_at_ns'] - flow['first_ns']) / 1e9:.2f} s; sender late {sent['late_ns']} ns",
        flush=True,
    )
    return rates[2:-2]


def _move(lab: Lab, to: str) -> list[tuple[int, str]]:
    """Move r1 between overloaded links; return when it reached which step (CLOCK_MONOTONIC, ns)."""
    before, began_ns = _overloaded(lab), time.monotonic_ns()
    migrate(lab, "r1", to)
    if idle := not_overloaded(before, _overloaded(lab)):
        raise LabError(f"during the move to {to} nothing was dropped on links of {idle}: they were not overloaded")
    answer = operator.ask(lab.app_socket, "migrations", {"router": "r1"})
    last = msgspec.json.decode(answer, type=list[MigrationStatus])[-1]
    return [(began_ns + round(step.after_s * 1e9), f"{step.state} to {to}") for step in last.reached]


def _overloaded(lab: Lab) -> dict[str, shares.Counters]:
    """Wait until both links have a backlog; return what the classes of their greedy routers have counted, by node."""
    found: dict[str, shares.Counters] = {}

    def are_overloaded() -> bool:
        for node, owner in GREEDY.items():
            queue = shares.queue_ids(lab, node, "t-receiver").get((owner, ""), -1)
            counters = shares.read(lab, node, "t-receiver").queues.get(queue)
            if counters is None or not counters.waiting:
                return False
            found[node] = counters
        return True

    lab.wait_until(are_overloaded, 20, f"packets that wait on the links of {list(GREEDY)}")
    return found


def not_overloaded(before: Mapping[str, shares.Counters], after: Mapping[str, shares.Counters]) -> list[str]:
    """Return the nodes whose greedy router has lost nothing since."""
    return [node for node, counters in after.items() if counters.dropped == before[node].dropped]


def steps_within(reached: Sequence[tuple[int, str]], first_ns: int, count: int) -> list[str]:
    """Return, for each window from `first_ns` on, the step that it begins in and those that begin in it."""
    texts = []
    for number in range(count):
        begin_ns, end_ns = (first_ns + int((number + more) * WINDOW_S * 1e9) for more in (0, 1))
        at_first = [name for at_ns, name in reached if at_ns <= begin_ns][-1:] or ["before the moves"]
        texts.append(", ".join(at_first + [name for at_ns, name in reached if begin_ns < at_ns < end_ns]))
    return texts


def _send(lab: Lab, who: str, to: str, mbps: float, *, realtime: bool = False) -> Tool:
    """Start a sender; one in real time is not late when the machine is busy, and what it misses is the network's."""
    bps = mbps * 1e6 * SIZE_BYTES / (SIZE_BYTES + HEADERS_BYTES)
    plan = ("--rate-bps", f"{bps}", "--size", str(SIZE_BYTES), *(() if realtime else ("--no-realtime",)))
    return stations.begin(lab, who, "send", "--to", f"{to}:{PORT}", *plan)

"""Receives what `send` sends and counts it: ``python -m xenflow_lab.traffic.receive --port 5000``.

It ends when each flow that it knows has sent its end marker (with ``--flows``: when so many have), after
``--idle`` seconds without a packet, after ``--duration``, or on SIGTERM; what it has counted is in the JSON.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from xenflow_lab.traffic import mmsg, probe
from xenflow_lab.traffic.command import main
from xenflow_lab.traffic.flowcount import FlowCount
from xenflow_lab.traffic.histogram import Histogram
from xenflow_lab.traffic.timing import SO_TIMESTAMPNS, KernelClock, Stop, announce_ready, enlarge_buffer

_MAX_FLOWS = 4096
_MAX_PAYLOAD_BYTES = 9216
_POLL_MS = 50
_LINGER_NS = 300_000_000
"""After the last end marker, for packets that come later than it."""


@dataclass(frozen=True, slots=True)
class ReceivePlan:
    """Where to listen, and when to end. `interval_s` asks for the rates over time."""

    port: int
    address: str = "::"
    flows: int = 0
    idle_s: float = 0
    interval_s: float = 0


@dataclass(slots=True)
class Received:
    """Everything that came: by source and flow, and how many packets were none of ours."""

    interval_ns: int = 0
    flows: dict[tuple[bytes, int], FlowCount] = field(default_factory=dict)
    foreign: int = 0
    last_ns: int = 0

    def add(self, payload: memoryview, source: bytes, now_ns: int) -> None:
        """Count one packet."""
        self.last_ns = now_ns
        found = probe.parse(payload)
        if found is None:
            self.foreign += 1
            return
        key = source, found.flow
        flow = self.flows.get(key)
        if flow is None:
            if len(self.flows) >= _MAX_FLOWS:
                self.foreign += 1
                return
            flow = self.flows[key] = FlowCount(self.interval_ns)
        if found.is_end:
            flow.end(found.number)
        else:
            flow.arrive(found.number, found.sent_ns, now_ns, len(payload))

    def is_complete(self, flows: int) -> bool:
        """True when at least `flows` flows are known (at least one) and all known ones have ended."""
        ended = all(flow.total is not None for flow in self.flows.values())
        return ended and len(self.flows) >= max(flows, 1)


def run(plan: ReceivePlan, stop: Stop) -> dict[str, Any]:
    """Receive until the end that `plan` names; return the report. Raises OSError (port in use, no such address)."""
    received = Received(int(plan.interval_s * 1e9))
    family = socket.AF_INET6 if ":" in plan.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        enlarge_buffer(sock)
        sock.bind((plan.address, plan.port))
        announce_ready()
        started_ns = _receive(plan, sock, received, stop)
        dropped = _socket_drops(sock)
    return _report(received, started_ns, dropped)


def _receive(plan: ReceivePlan, sock: socket.socket, received: Received, stop: Stop) -> int:
    batch = mmsg.Incoming(_MAX_PAYLOAD_BYTES)
    clock = KernelClock()
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    started_ns = time.monotonic_ns()
    complete_ns = 0
    while not stop:
        if poll.poll(_POLL_MS):
            for payload, source, control in batch.receive(sock):
                received.add(payload, source, clock.monotonic_ns(control))
        now_ns = time.monotonic_ns()
        if plan.idle_s and now_ns - max(received.last_ns, started_ns) > plan.idle_s * 1e9:
            break
        if not complete_ns and received.is_complete(plan.flows):
            complete_ns = now_ns
        if complete_ns and now_ns - complete_ns > _LINGER_NS:
            break
    return started_ns


def _socket_drops(sock: socket.socket) -> int:
    """Return how many packets the socket's full buffer has cost: they are the receiver's fault, not the network's."""
    inode = str(os.fstat(sock.fileno()).st_ino)
    for table in ("/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"):
        with open(table, encoding="ascii") as lines:
            for line in lines:
                columns = line.split()
                if len(columns) > 12 and columns[9] == inode:
                    return int(columns[12])
    return 0


def _report(received: Received, started_ns: int, dropped: int) -> dict[str, Any]:
    counts = received.flows.values()
    gaps = Histogram()
    for flow in counts:
        gaps.include(flow.gaps)
    return {
        "received": sum(flow.received for flow in counts),
        "expected": sum(flow.expected for flow in counts),
        "lost": sum(flow.lost for flow in counts),
        "duplicated": sum(flow.duplicated for flow in counts),
        "reordered": sum(flow.reordered for flow in counts),
        "longest_gap_ns": gaps.maximum,
        "gap_ns": gaps.summary(),
        "foreign": received.foreign,
        "dropped_by_socket": dropped,
        "started_ns": started_ns,
        "flows": [_flow_report(source, number, flow) for (source, number), flow in received.flows.items()],
    }


def _flow_report(source: bytes, number: int, flow: FlowCount) -> dict[str, Any]:
    return {
        "source": mmsg.sockaddr_text(source),
        "flow": number,
        "received": flow.received,
        "expected": flow.expected,
        "ended": flow.total is not None,
        "lost": flow.lost,
        "longest_loss": flow.longest_loss(),
        "duplicated": flow.duplicated,
        "reordered": flow.reordered,
        "reorder_windows": flow.windows,
        "reorder_extent_max": flow.extent_max,
        "first_windows": [asdict(window) for window in flow.first_windows],
        "uncounted": flow.uncounted,
        "payload_bytes": flow.payload_bytes,
        "first_ns": flow.first_ns,
        "last_ns": flow.last_ns,
        "longest_gap_ns": flow.gaps.maximum,
        "longest_gap_at_ns": flow.longest_gap_at_ns,
        "gap_ns": flow.gaps.summary(),
        "delay_ns": flow.delays.summary(),
        "rates_bps": flow.rates_bps(),
    }


def parse(arguments: Sequence[str]) -> tuple[ReceivePlan, float]:
    """Return the plan that a command line asks for, and the longest time in seconds (0: no end)."""
    parser = argparse.ArgumentParser(prog="receive", description="counts what send sends")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", default="::", help="default: all, IPv4 and IPv6")
    parser.add_argument("--flows", type=int, default=0, help="end markers of so many flows are the end")
    parser.add_argument("--idle", type=float, default=0, help="seconds without a packet are the end")
    parser.add_argument("--duration", type=float, default=0, help="seconds until the end in any case")
    parser.add_argument("--interval", type=float, default=0, help="report the rate in each interval (seconds)")
    found = parser.parse_args(arguments)
    plan = ReceivePlan(found.port, found.address, found.flows, found.idle, found.interval)
    return plan, found.duration


def _main(arguments: Sequence[str]) -> dict[str, Any]:
    plan, duration_s = parse(arguments)
    return run(plan, Stop(duration_s))


if __name__ == "__main__":
    main(_main)

"""Round trips of packets 1..N of a flow: ``python -m xenflow_lab.traffic.rtt --to 10.0.0.2 --count 20``.

Without a port it sends ICMP echo requests, with ``--port`` UDP that ``rtt --serve PORT`` at the other end sends back.
The first packet's figure is that of a new flow where the caller has let the old one age. Arrival is the kernel's time.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xenflow_lab.traffic import mmsg
from xenflow_lab.traffic.command import main
from xenflow_lab.traffic.frames import checksum
from xenflow_lab.traffic.timing import SO_TIMESTAMPNS, KernelClock, Stop, announce_ready, prefer_realtime

_ECHO = struct.Struct("!BBHHH")
_POLL_MS = 50
_BUFFER_BYTES = 9216


@dataclass(frozen=True, slots=True)
class RttPlan:
    """Whom to ask, how often. `size_bytes` is the payload behind ICMP's or UDP's 8 bytes."""

    to: str
    port: int = 0
    count: int = 20
    interval_s: float = 0.1
    timeout_s: float = 1
    size_bytes: int = 56
    source: str = ""
    dscp: int = 0

    @property
    def is_v6(self) -> bool:
        """True for IPv6."""
        return ipaddress.ip_address(self.to.partition("%")[0]).version == 6


def run(plan: RttPlan, stop: Stop) -> dict[str, Any]:
    """Measure; return the report (`rtt_ns` has None for an answer that did not come). Raises OSError."""
    identifier = os.getpid() & 0xFFFF
    prefer_realtime()
    with _open(plan) as sock:
        clock = KernelClock()
        batch = mmsg.Incoming(_BUFFER_BYTES)
        round_trips: list[int | None] = []
        next_s = time.monotonic()
        for number in range(plan.count):
            if stop:
                break
            time.sleep(max(next_s - time.monotonic(), 0))
            next_s += plan.interval_s
            sent_ns = time.monotonic_ns()
            sock.send(_request(plan, identifier, number))
            arrived_ns = _wait(sock, batch, clock, _answer(plan, identifier, number), plan.timeout_s)
            round_trips.append(arrived_ns - sent_ns if arrived_ns else None)
    answered = sorted(trip for trip in round_trips if trip is not None)
    return {
        "to": plan.to,
        "sent": len(round_trips),
        "answered": len(answered),
        "first_ns": round_trips[0] if round_trips else None,
        "median_ns": answered[len(answered) // 2] if answered else None,
        "rtt_ns": round_trips,
    }


def serve(port: int, stop: Stop) -> dict[str, Any]:
    """Send back every UDP packet until `stop`. Raises OSError (port in use)."""
    echoed = 0
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", port))
        sock.settimeout(_POLL_MS / 1000)
        announce_ready()
        while not stop:
            try:
                payload, source = sock.recvfrom(_BUFFER_BYTES)
            except TimeoutError:
                continue
            sock.sendto(payload, source)
            echoed += 1
    return {"echoed": echoed}


def _open(plan: RttPlan) -> socket.socket:
    family = socket.AF_INET6 if plan.is_v6 else socket.AF_INET
    if plan.port:
        sock = socket.socket(family, socket.SOCK_DGRAM)
    else:
        protocol = socket.IPPROTO_ICMPV6 if plan.is_v6 else socket.IPPROTO_ICMP
        sock = socket.socket(family, socket.SOCK_RAW, protocol)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if plan.is_v6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, plan.dscp << 2)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, plan.dscp << 2)
    if plan.source:
        sock.bind((plan.source, 0))
    sock.connect((plan.to, plan.port))
    return sock


def _request(plan: RttPlan, identifier: int, number: int) -> bytes:
    """Return what to send: the ICMP message or the UDP payload (whose first bytes are the same in both directions)."""
    kind = 128 if plan.is_v6 else 8
    body = bytes(max(plan.size_bytes, 0))
    header = _ECHO.pack(kind, 0, 0, identifier, number & 0xFFFF)
    if plan.port:
        return (header + body)[: max(plan.size_bytes, _ECHO.size)]
    if not plan.is_v6:
        header = _ECHO.pack(kind, 0, checksum(header + body), identifier, number & 0xFFFF)
    return header + body


def _answer(plan: RttPlan, identifier: int, number: int) -> tuple[int, int, int, int]:
    """Return where the echo header begins in a received packet, and its kind, identifier and number."""
    if plan.port:
        return 0, 128 if plan.is_v6 else 8, identifier, number & 0xFFFF
    return 0 if plan.is_v6 else 20, 129 if plan.is_v6 else 0, identifier, number & 0xFFFF


def _wait(
    sock: socket.socket, batch: mmsg.Incoming, clock: KernelClock, answer: tuple[int, int, int, int], timeout_s: float
) -> int:
    """Return when the answer arrived (monotonic), 0 when it did not in time."""
    at, *wanted = answer
    deadline_s = time.monotonic() + timeout_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        if not select.select([sock], [], [], left_s)[0]:
            return 0
        for payload, _, control in batch.receive(sock):
            if len(payload) < at + _ECHO.size:
                continue
            kind, _, _, identifier, number = _ECHO.unpack_from(payload, at)
            if [kind, identifier, number] == wanted:
                return clock.monotonic_ns(control)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a command line."""
    parser = argparse.ArgumentParser(prog="rtt", description="round trips of packets 1..N")
    side = parser.add_mutually_exclusive_group(required=True)
    side.add_argument("--to", metavar="ADDRESS")
    side.add_argument("--serve", type=int, metavar="PORT", help="send UDP packets back until a signal")
    parser.add_argument("--port", type=int, default=0, help="UDP to this port instead of ICMP")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--interval", type=float, default=0.1, help="seconds")
    parser.add_argument("--timeout", type=float, default=1, help="seconds")
    parser.add_argument("--size", type=int, default=56, help="bytes of payload")
    parser.add_argument("--source", default="", help="source address")
    parser.add_argument("--dscp", type=int, default=0)
    return parser.parse_args(arguments)


def _main(arguments: Sequence[str]) -> dict[str, Any]:
    found = parse(arguments)
    if found.serve:
        return serve(found.serve, Stop())
    plan = RttPlan(
        found.to, found.port, found.count, found.interval, found.timeout, found.size, found.source, found.dscp
    )
    return run(plan, Stop())


if __name__ == "__main__":
    main(_main)

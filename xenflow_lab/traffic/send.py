"""Sends numbered, timestamped UDP packets at a steady rate: ``python -m xenflow_lab.traffic.send --to 10.0.0.2:5000``.

The JSON that it prints says what was sent for each flow, and how late packets left (`late_ns`): figures of a run whose
lateness is not far below the effect that is measured mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from xenflow_lab.traffic import mmsg, probe
from xenflow_lab.traffic.command import endpoints, main
from xenflow_lab.traffic.histogram import Histogram
from xenflow_lab.traffic.numbering import Faults, Numbering
from xenflow_lab.traffic.timing import Pacer, Stop, prefer_realtime

END_MARKERS = 5
_END_INTERVAL_S = 0.04
_BLOCKED_TIMEOUT_S = 0.1
_TTL = 64


@dataclass(frozen=True, slots=True)
class SendPlan:
    """What to send. Flow i goes to destination i modulo their number, from a source port of its own if `ports` > 1.

    There are as many flows as the larger of `destinations` and `ports`; `rate_pps` is that of all together. With
    `spread` there are as many as `ports`, and each packet goes to the next destination, whichever flow it is of.
    Source port i sends with a TTL (hop limit) of 64 - i modulo `ttls`: a router's datapath keeps a flow for each.
    `count` packets in all (0: until `duration_s` has passed, or for ever if that is 0 too).
    """

    destinations: tuple[tuple[str, int], ...]
    rate_pps: float = 1000
    size_bytes: int = 64
    count: int = 0
    duration_s: float = 0
    ports: int = 1
    source: str = ""
    source_port: int = 0
    dscp: int = 0
    tenant: str | None = None
    faults: Faults = field(default_factory=Faults)
    realtime: bool = True
    spread: bool = False
    ttls: int = 1

    @property
    def packets(self) -> int | None:
        """How many packets are to be sent in all; None for no end."""
        if self.count or self.duration_s:
            return self.count or int(self.duration_s * self.rate_pps)
        return None


@dataclass(slots=True)
class _Flow:
    number: int
    sock: socket.socket
    to: Iterator[bytes]
    name: str
    numbering: Numbering
    sent: int = 0


@dataclass(slots=True)
class _Result:
    late: Histogram = field(default_factory=Histogram)
    blocked: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    realtime: bool = False


def run(plan: SendPlan, stop: Stop) -> dict[str, Any]:
    """Send what `plan` says; return the report. Raises OSError (no such address, no route) and ValueError (sizes)."""
    out = mmsg.Outgoing(probe.template(plan.size_bytes, plan.tenant))
    result = _Result(realtime=plan.realtime and prefer_realtime())
    flows = _open(plan)
    try:
        _send_all(plan, flows, out, result, stop)
        for flow in flows:
            for number in flow.numbering.rest():
                _fill(out, 0, flow, number)
                _push(flow.sock, out, 1, result, stop)
                flow.sent += 1
        _send_ends(flows, out)
        return _report(plan, flows, result)
    finally:
        for sock in {flow.sock for flow in flows}:
            sock.close()


def _open(plan: SendPlan) -> list[_Flow]:
    if not 1 <= plan.ttls <= _TTL:
        raise ValueError(f"{plan.ttls} values of TTL: 1 to {_TTL}")
    number = plan.ports if plan.spread else max(len(plan.destinations), plan.ports)
    if number > probe.MAX_FLOWS:
        raise ValueError(f"{number} flows: at most {probe.MAX_FLOWS}")
    names = [mmsg.sockaddr(address, port) for address, port in plan.destinations]
    sockets = []
    for i in range(plan.ports):
        port = plan.source_port + i if plan.source_port else 0
        sockets.append(_socket(plan, port, _TTL - i % plan.ttls))
    everywhere = itertools.cycle(names)
    flows = []
    for i in range(number):
        address, port = plan.destinations[i % len(names)]
        to = everywhere if plan.spread else itertools.repeat(names[i % len(names)])
        flows.append(_Flow(i, sockets[i % plan.ports], to, f"{address}:{port}", Numbering(plan.faults)))
    return flows


def _socket(plan: SendPlan, port: int, ttl: int) -> socket.socket:
    is_v6 = ":" in plan.destinations[0][0]
    sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if is_v6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, plan.dscp << 2)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, plan.dscp << 2)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    if plan.source or port:
        sock.bind((plan.source, port))
    return sock


def _send_all(plan: SendPlan, flows: Sequence[_Flow], out: mmsg.Outgoing, result: _Result, stop: Stop) -> None:
    packets = plan.packets
    turns = itertools.cycle(flows)
    result.started_ns = time.monotonic_ns() + 1_000_000
    last_ns = result.started_ns + int(plan.duration_s * 1e9) if plan.duration_s else None
    pacer = Pacer(plan.rate_pps, result.started_ns)
    done = 0
    while (packets is None or done < packets) and not stop:
        now_ns = time.monotonic_ns()
        if last_ns is not None and now_ns > last_ns:
            break
        due = min(pacer.count_due(now_ns) - done, mmsg.BATCH)
        if packets is not None:
            due = min(due, packets - done)
        if due <= 0:
            pacer.wait(done)
            continue
        for index in range(done, done + due):
            result.late.add(now_ns - pacer.due_ns(index))
        _send_batch(list(itertools.islice(turns, due)), out, result, stop)
        done += due
    result.ended_ns = time.monotonic_ns()


def _send_batch(turns: Sequence[_Flow], out: mmsg.Outgoing, result: _Result, stop: Stop) -> None:
    """Send the next packet of each flow in `turns`, consecutive ones of one socket together."""
    for sock, group in itertools.groupby(turns, lambda flow: flow.sock):
        count = 0
        for flow in group:
            _fill(out, count, flow, flow.numbering.take())
            flow.sent += 1
            count += 1
        _push(sock, out, count, result, stop)


def _push(sock: socket.socket, out: mmsg.Outgoing, count: int, result: _Result, stop: Stop) -> None:
    """Give the kernel `count` packets, waiting while its buffer is full (as on a link that is slower than the rate)."""
    first = out.send(sock, 0, count)
    while first < count and not stop:
        result.blocked += 1
        select.select([], [sock], [], _BLOCKED_TIMEOUT_S)
        first += out.send(sock, first, count - first)


def _fill(out: mmsg.Outgoing, slot: int, flow: _Flow, number: int) -> None:
    at = out.fill(slot, next(flow.to))
    probe.HEADER.pack_into(out.payloads, at, probe.MAGIC, flow.number, number, time.monotonic_ns())


def _send_ends(flows: Sequence[_Flow], out: mmsg.Outgoing) -> None:
    for _ in range(END_MARKERS):
        time.sleep(_END_INTERVAL_S)
        for flow in flows:
            header = probe.encode(probe.Probe(flow.number, flow.numbering.total, time.monotonic_ns(), is_end=True))
            at = out.fill(0, next(flow.to))
            out.payloads[at : at + len(header)] = header
            out.send(flow.sock, 0, 1)


def _report(plan: SendPlan, flows: Sequence[_Flow], result: _Result) -> dict[str, Any]:
    seconds = max(result.ended_ns - result.started_ns, 1) / 1e9
    sent = sum(flow.sent for flow in flows)
    return {
        "sent": sent,
        "blocked": result.blocked,
        "started_ns": result.started_ns,
        "ended_ns": result.ended_ns,
        "rate_pps": sent / seconds,
        "payload_bps": sent * plan.size_bytes * 8 / seconds,
        "late_ns": result.late.summary(),
        "realtime": result.realtime,
        "flows": [_flow_report(flow) for flow in flows],
    }


def _flow_report(flow: _Flow) -> dict[str, Any]:
    numbering = flow.numbering
    return {
        "flow": flow.number,
        "to": flow.name,
        "source_port": flow.sock.getsockname()[1],
        "sent": flow.sent,
        "numbers": numbering.total,
        "skipped": numbering.skipped,
        "duplicated": numbering.duplicated,
        "delayed": numbering.delayed,
    }


def parse(arguments: Sequence[str]) -> SendPlan:
    """Return the plan that a command line asks for."""
    parser = argparse.ArgumentParser(prog="send", description="numbered, timestamped UDP at a steady rate")
    parser.add_argument("--to", type=endpoints, action="extend", required=True, metavar="ADDRESS[-LAST]:PORT")
    parser.add_argument("--ports", type=int, default=1, help="source ports, so flows to one destination")
    parser.add_argument("--spread", action="store_true", help="each packet to the next of the destinations")
    parser.add_argument("--ttls", type=int, default=1, metavar="N", help="source ports send with TTL 64, 63, … 65-N")
    parser.add_argument("--rate-pps", type=float, help="packets/s of all flows together")
    parser.add_argument("--rate-bps", type=float, help="the same as UDP payload bits/s")
    parser.add_argument("--size", type=int, default=64, help="UDP payload in bytes")
    parser.add_argument("--count", type=int, default=0, help="packets of all flows together")
    parser.add_argument("--duration", type=float, default=0, help="seconds")
    parser.add_argument("--source", default="", help="source address")
    parser.add_argument("--source-port", type=int, default=0, help="the first source port")
    parser.add_argument("--dscp", type=int, default=0)
    parser.add_argument("--tenant", help="marker to put into each packet")
    parser.add_argument("--skip-every", type=int, default=0, help="test mode: leave out every so many-th number")
    parser.add_argument("--duplicate-every", type=int, default=0, help="test mode: send it twice")
    parser.add_argument("--delay-every", type=int, default=0, help="test mode: send it behind EXTENT later ones")
    parser.add_argument("--extent", type=int, default=3)
    parser.add_argument("--no-realtime", action="store_true", help="do not ask for SCHED_FIFO")
    found = parser.parse_args(arguments)
    rate_pps = found.rate_pps or (found.rate_bps / (found.size * 8) if found.rate_bps else 1000)
    return SendPlan(
        destinations=tuple(found.to),
        rate_pps=rate_pps,
        size_bytes=found.size,
        count=found.count,
        duration_s=found.duration,
        ports=found.ports,
        source=found.source,
        source_port=found.source_port,
        dscp=found.dscp,
        tenant=found.tenant,
        faults=Faults(found.skip_every, found.duplicate_every, found.delay_every, found.extent),
        realtime=not found.no_realtime,
        spread=found.spread,
        ttls=found.ttls,
    )


if __name__ == "__main__":
    main(lambda arguments: run(parse(arguments), Stop()))

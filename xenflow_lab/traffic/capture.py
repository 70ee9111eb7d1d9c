"""Counts the frames of a namespace's interfaces, and finds those that should not be there.

    python -m xenflow_lab.traffic.capture --interface eth0 --tenant blue --prefix 10.1.0.0/16

It ends on SIGTERM, SIGINT or after ``--duration``. `missed` in the report must be 0 for "no foreign frame was seen" to
mean anything: it counts frames that came faster than they were looked at.
"""

from __future__ import annotations

import argparse
import ipaddress
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xenflow_lab.traffic import frames, mmsg
from xenflow_lab.traffic.command import main, parse_mac
from xenflow_lab.traffic.pcap import PcapFile
from xenflow_lab.traffic.sighting import Expectation, Sightings
from xenflow_lab.traffic.timing import Stop, announce_ready, enlarge_buffer

_SNAP_BYTES = 2048
_POLL_MS = 50
_DRAIN_NS = 2_000_000_000
"""After the end, for what is already in the buffer."""
_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_STATISTICS = 6
_PACKET_AUXDATA = 8
_MR_PROMISC = 1
_TP_STATUS_VLAN_VALID = 0x10
_TP_STATUS_VLAN_TPID_VALID = 0x40
_PACKET_OUTGOING = 4


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """Which interfaces (none: all but lo), what belongs there, and where to write the frames."""

    interfaces: tuple[str, ...] = ()
    expected: Expectation = field(default_factory=Expectation)
    pcap: Path | None = None
    pcap_frames: int = 10_000


def run(plan: CapturePlan, stop: Stop) -> dict[str, Any]:
    """Capture until `stop`; return the report. Raises OSError (no such interface, not permitted)."""
    names = plan.interfaces or tuple(name for _, name in socket.if_nameindex() if name != "lo")
    seen = {name: Sightings(plan.expected) for name in names}
    with ExitStack() as stack:
        file = None
        if plan.pcap:
            file = PcapFile(plan.pcap, _SNAP_BYTES, plan.pcap_frames)
            stack.callback(file.close)
        sockets = {stack.enter_context(_open(name)): name for name in names}
        announce_ready()
        _capture(sockets, seen, file, stop)
        missed = {name: _missed(sock) for sock, name in sockets.items()}
    return {
        "missed": sum(missed.values()),
        "foreign": sum(sightings.received.foreign_frames for sightings in seen.values()),
        "interfaces": {name: _interface_report(sightings, missed[name]) for name, sightings in seen.items()},
    }


def _interface_report(sightings: Sightings, missed: int) -> dict[str, Any]:
    return {
        "received": asdict(sightings.received),
        "sent": asdict(sightings.sent),
        "missed": missed,
        "samples": sightings.samples,
    }


def _open(name: str) -> socket.socket:
    """Return a packet socket that sees every frame of the interface, from now on."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    enlarge_buffer(sock)
    sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    membership = struct.pack("@iHH8s", socket.if_nametoindex(name), _MR_PROMISC, 0, b"")
    sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
    sock.bind((name, _ETH_P_ALL))
    return sock


def _capture(sockets: dict[socket.socket, str], seen: dict[str, Sightings], file: PcapFile | None, stop: Stop) -> None:
    batch = mmsg.Incoming(_SNAP_BYTES)
    poll = select.poll()
    by_descriptor = {sock.fileno(): (sock, seen[name]) for sock, name in sockets.items()}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    last_ns = time.monotonic_ns() + _DRAIN_NS
    while True:
        ending = bool(stop)
        ready = poll.poll(0 if ending else _POLL_MS)
        for descriptor, _ in ready:
            sock, sightings = by_descriptor[descriptor]
            for content, source, control in batch.receive(sock):
                _add(sightings, content, source, control, file)
        if ending and (not ready or time.monotonic_ns() > last_ns):
            return
        if not ending:
            last_ns = time.monotonic_ns() + _DRAIN_NS


def _add(sightings: Sightings, content: memoryview, source: bytes, control: memoryview, file: PcapFile | None) -> None:
    outer, length_bytes = _auxiliary(control)
    frame = frames.parse(content, outer)
    if frame is None:
        return
    if file:
        file.write(time.time_ns(), content, length_bytes, outer)
    sightings.add(frame, content, length_bytes, is_sent=source[10] == _PACKET_OUTGOING)


def _auxiliary(control: memoryview) -> tuple[frames.Tag | None, int]:
    """Return the tag that the kernel has taken off, and the frame's length (packet(7), struct tpacket_auxdata)."""
    for level, kind, body in mmsg.control_messages(control):
        if level == _SOL_PACKET and kind == _PACKET_AUXDATA:
            status, length, _, _, _, tci, tpid = struct.unpack_from("@IIIHHHH", body)
            if not status & _TP_STATUS_VLAN_VALID:
                return None, length
            return frames.Tag(tci, tpid if status & _TP_STATUS_VLAN_TPID_VALID else frames.TPID_8021Q), length
    return None, 0


def _missed(sock: socket.socket) -> int:
    packets_and_drops: tuple[int, int] = struct.unpack("@II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    return packets_and_drops[1]


def parse(arguments: Sequence[str]) -> tuple[CapturePlan, float]:
    """Return the plan that a command line asks for, and the duration in seconds (0: until a signal)."""
    parser = argparse.ArgumentParser(prog="capture", description="counts frames, and foreign ones")
    parser.add_argument("--interface", action="append", default=[], help="repeatable; default: all but lo")
    parser.add_argument("--tenant", help="frames with another tenant's marker are foreign")
    parser.add_argument("--mac", type=parse_mac, action="append", default=[], help="frames of others are foreign")
    parser.add_argument("--prefix", type=ipaddress.ip_network, action="append", default=[], help="so are others here")
    parser.add_argument("--pcap", type=Path)
    parser.add_argument("--pcap-frames", type=int, default=10_000, help="at most so many frames go to the file")
    parser.add_argument("--duration", type=float, default=0, help="seconds")
    found = parser.parse_args(arguments)
    expected = Expectation(found.tenant, frozenset(found.mac), tuple(found.prefix))
    return CapturePlan(tuple(found.interface), expected, found.pcap, found.pcap_frames), found.duration


def _main(arguments: Sequence[str]) -> dict[str, Any]:
    plan, duration_s = parse(arguments)
    return run(plan, Stop(duration_s))


if __name__ == "__main__":
    main(_main)

"""Sends raw frames that no honest guest would send: ``python -m xenflow_lab.traffic.inject --interface eth0 …``.

Every field of the frame can be given, so each kind of forgery is a combination of options:

    tagged, double-tagged     --vlan 10, --vlan 10 --vlan 20, --vlan 0x88a8:10 (outermost first; priority as 10/5)
    foreign source            --source-mac, --source-ip
    ARP or ND for others      --kind arp-reply --sender-mac … --source-ip …, --kind nd --source-ip (the target) …
    broadcast flood           --destination-mac ff:ff:ff:ff:ff:ff --rate-pps 10000
    replay                    --frame, the whole frame in hexadecimal, instead of all of these

Each frame carries the marker of ``--tenant`` (behind ARP's 28 bytes, in UDP's payload), so that `capture` finds it.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from xenflow_lab.traffic import frames, probe
from xenflow_lab.traffic.command import main, parse_mac
from xenflow_lab.traffic.frames import Address, Tag
from xenflow_lab.traffic.timing import Pacer, Stop

_UDP_PORT = 9
_NOWHERE = ipaddress.IPv4Address(0)
_ALL_NODES = ipaddress.IPv6Address("ff02::1")


class Kind(StrEnum):
    """What is inside the frame."""

    UDP = "udp"
    ARP_REQUEST = "arp-request"
    ARP_REPLY = "arp-reply"
    ND = "nd"


@dataclass(frozen=True, slots=True)
class InjectPlan:
    """The frame, and how often. `source_mac` is Ethernet's, `sender_mac` the one claimed inside ARP and ND."""

    interface: str
    kind: Kind
    source_mac: bytes
    sender_mac: bytes
    destination_mac: bytes
    source_ip: Address
    destination_ip: Address
    tags: tuple[Tag, ...] = ()
    tenant: str = "intruder"
    size_bytes: int = 64
    count: int = 10
    rate_pps: float = 100
    frame: bytes = b""
    """If there is one, it is sent as it is."""


def build(plan: InjectPlan) -> bytes:
    """Return the frame that `plan` describes. Raises ValueError for wrong addresses or a size too small."""
    if plan.frame:
        return plan.frame
    mark = probe.marker(plan.tenant)
    source, destination = plan.source_ip, plan.destination_ip
    if source.version != destination.version:
        raise ValueError(f"{source} and {destination} are of different versions")
    ethertype = frames.ETHERTYPE_IPV4 if source.version == 4 else frames.ETHERTYPE_IPV6
    if plan.kind is Kind.UDP:
        payload = probe.template(plan.size_bytes, plan.tenant)
        packet = frames.udp((source, _UDP_PORT), (destination, _UDP_PORT), payload)
    elif plan.kind is Kind.ND:
        if source.version != 6:
            raise ValueError(f"{source}: ND needs IPv6 addresses")
        packet = frames.neighbor_advertisement(source, destination, source, plan.sender_mac) + mark
    else:
        if source.version != 4:
            raise ValueError(f"{source}: ARP needs IPv4 addresses")
        ethertype = frames.ETHERTYPE_ARP
        operation = 1 if plan.kind is Kind.ARP_REQUEST else 2
        target_mac = bytes(6) if operation == 1 else plan.destination_mac
        packet = frames.arp(operation, (plan.sender_mac, source), (target_mac, destination), mark)
    return frames.ethernet(plan.destination_mac, plan.source_mac, plan.tags, ethertype, packet)


def run(plan: InjectPlan, stop: Stop) -> dict[str, Any]:
    """Send the frames; return the report. Raises OSError and ValueError."""
    frame = build(plan)
    sent = full = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((plan.interface, 0))
        started_ns = time.monotonic_ns()
        pacer = Pacer(plan.rate_pps, started_ns)
        while (not plan.count or sent < plan.count) and not stop:
            if pacer.count_due(time.monotonic_ns()) <= sent + full:
                pacer.wait(sent + full)
                continue
            try:
                sock.send(frame)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                full += 1
            else:
                sent += 1
        ended_ns = time.monotonic_ns()
    return {"sent": sent, "queue_full": full, "started_ns": started_ns, "ended_ns": ended_ns, "frame": frame.hex()}


def parse_tag(text: str) -> Tag:
    """Parse ``10``, ``10/5`` (priority 5) or ``0x88a8:10``. Raises argparse.ArgumentTypeError."""
    tpid, _, rest = text.rpartition(":")
    vid, _, priority = rest.partition("/")
    try:
        tag = Tag(int(vid) | int(priority or 0) << 13, int(tpid, 0) if tpid else frames.TPID_8021Q)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: [TPID:]VID[/PRIORITY] expected") from error
    if not 0 <= int(vid) < 4096 or not 0 <= tag.tci < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}: a VLAN id from 0 to 4095 and a priority from 0 to 7 expected")
    return tag


def parse(arguments: Sequence[str]) -> tuple[InjectPlan, float]:
    """Return the plan that a command line asks for, and the duration in seconds (0: until `count`)."""
    parser = argparse.ArgumentParser(prog="inject", description="raw frames that must not pass")
    parser.add_argument("--interface", required=True)
    parser.add_argument("--kind", type=Kind, choices=list(Kind), default=Kind.UDP)
    parser.add_argument("--source-mac", type=parse_mac, help="default: the interface's")
    parser.add_argument("--sender-mac", type=parse_mac, help="inside ARP and ND; default: the source MAC")
    parser.add_argument("--destination-mac", type=parse_mac, default=frames.BROADCAST)
    parser.add_argument("--source-ip", type=ipaddress.ip_address, help="for ND also the target")
    parser.add_argument("--destination-ip", type=ipaddress.ip_address)
    parser.add_argument("--vlan", type=parse_tag, action="append", default=[], help="repeatable, outermost first")
    parser.add_argument("--frame", type=bytes.fromhex, default=b"", help="the whole frame, in hexadecimal")
    parser.add_argument("--tenant", default="intruder", help="the marker")
    parser.add_argument("--size", type=int, default=64, help="UDP payload in bytes")
    parser.add_argument("--count", type=int, default=10, help="0: until the duration is over")
    parser.add_argument("--rate-pps", type=float, default=100)
    parser.add_argument("--duration", type=float, default=0, help="seconds")
    found = parser.parse_args(arguments)
    if found.source_ip is None:
        if not found.frame:
            parser.error("--source-ip is needed, or --frame")
        found.source_ip = _NOWHERE
    own = Path(f"/sys/class/net/{found.interface}/address")
    source_mac = found.source_mac or parse_mac(own.read_text(encoding="ascii").strip())
    default_ip = _ALL_NODES if found.source_ip.version == 6 else found.source_ip
    plan = InjectPlan(
        interface=found.interface,
        kind=found.kind,
        source_mac=source_mac,
        sender_mac=found.sender_mac or source_mac,
        destination_mac=found.destination_mac,
        source_ip=found.source_ip,
        destination_ip=found.destination_ip or default_ip,
        tags=tuple(found.vlan),
        tenant=found.tenant,
        size_bytes=found.size,
        count=found.count,
        rate_pps=found.rate_pps,
        frame=found.frame,
    )
    return plan, found.duration


def _main(arguments: Sequence[str]) -> dict[str, Any]:
    plan, duration_s = parse(arguments)
    return run(plan, Stop(duration_s))


if __name__ == "__main__":
    main(_main)

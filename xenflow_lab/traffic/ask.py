"""Asks who has addresses, again and again, and counts the answers to each question.

    python -m xenflow_lab.traffic.ask --mac 02:00:00:00:00:01 --own 10.0.0.2 --target 10.0.0.1

Each target (at that MAC) is asked for by turns to all and to the MAC alone, as a kernel verifies a stale entry. A
question carries its number, behind ARP's 28 bytes or in a nonce option: whoever turns the question itself into the
answer returns it. What has no number answers a question of the machine's own kernel, which are counted too.
"""

from __future__ import annotations

import argparse
import ipaddress
import select
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenflow_lab.traffic import frames
from xenflow_lab.traffic.command import main, parse_mac
from xenflow_lab.traffic.frames import Address
from xenflow_lab.traffic.timing import Stop

_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_MARK = b"ask?"
_PATIENCE_S = 1.0
"""How long answers are waited for after the last question."""


@dataclass(frozen=True, slots=True)
class AskPlan:
    """Whom to ask for what: `mac` is the one that the `targets` are known to have, `own` who asks, by version."""

    interface: str
    own_mac: bytes
    own: dict[int, Address]
    mac: bytes
    targets: tuple[Address, ...]
    rate_hz: float = 20.0

    def question(self, number: int) -> bytes:
        """Return a question: the targets by turns, each to all and then to one."""
        target = self.targets[number // 2 % len(self.targets)]
        own, mark = self.own[target.version], number.to_bytes(6, "big")
        to = self.mac if number % 2 else _to_all(target)
        if target.version == 4:
            packet = frames.arp(1, (self.own_mac, own), (bytes(6), target), _MARK + mark)
            return frames.ethernet(to, self.own_mac, (), frames.ETHERTYPE_ARP, packet)
        group = ipaddress.IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + target.packed[-3:])
        where = target if number % 2 else group
        packet = frames.neighbor_solicitation(own, where, target, self.own_mac, b"\x0e\x01" + mark)
        return frames.ethernet(to, self.own_mac, (), frames.ETHERTYPE_IPV6, packet)


def _to_all(target: Address) -> bytes:
    return frames.BROADCAST if target.version == 4 else b"\x33\x33\xff" + target.packed[-3:]


@dataclass(frozen=True, slots=True)
class Seen:
    """A question or an answer: what is asked for, at which MAC it is said to be, and the number (-1: it has none).

    An answer to one may leave out the MAC, which is the sender's then (RFC 4861, section 4.4).
    """

    is_answer: bool
    target: Address
    mac: bytes
    number: int


def look(frame: bytes) -> Seen | None:
    """Return what a frame asks or answers, None if it does neither."""
    kind, packet = frame[12:14], frame[14:]
    if kind == b"\x08\x06" and len(packet) >= 28:
        operation, marked = packet[7], packet[28:32] == _MARK
        target = packet[24:28] if operation == 1 else packet[14:18]
        number = int.from_bytes(packet[32:38], "big") if marked else -1
        return Seen(operation == 2, ipaddress.IPv4Address(target), packet[8:14], number)
    if kind == b"\x86\xdd" and len(packet) >= 64 and packet[6] == 58 and packet[40] in (135, 136):
        options = _options(packet[64 : 40 + int.from_bytes(packet[4:6], "big")])
        number = int.from_bytes(options[14], "big") if 14 in options else -1
        mac = options.get(2, frame[6:12]) if packet[40] == 136 else options.get(1, b"")
        return Seen(packet[40] == 136, ipaddress.IPv6Address(packet[48:64]), mac, number)
    return None


def _options(rest: bytes) -> dict[int, bytes]:
    found = {}
    while len(rest) >= 8 and rest[1]:
        found[rest[0]] = rest[2 : rest[1] * 8]
        rest = rest[rest[1] * 8 :]
    return found


@dataclass(slots=True)
class Count:
    """What was asked, and what came back."""

    plan: AskPlan
    asked_ns: dict[int, int] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    kernel_asked: int = 0
    without_number: int = 0
    wrong: list[str] = field(default_factory=list)

    def take(self, frame: bytes, *, outgoing: bool) -> None:
        """Count a frame that was seen on the interface."""
        seen = look(frame)
        if seen is None or seen.target not in self.plan.targets:
            return
        if outgoing:
            self.kernel_asked += not seen.is_answer and seen.number < 0
        elif seen.is_answer:
            if seen.number in self.asked_ns:
                self.answers[seen.number] += 1
            else:
                self.without_number += 1
            if seen.mac != self.plan.mac:
                self.wrong.append(frame.hex())

    @property
    def complete(self) -> bool:
        """Whether there is an answer to each question."""
        return self.answers.keys() == self.asked_ns.keys() and self.without_number >= self.kernel_asked

    def report(self) -> dict[str, Any]:
        """Return the figures; `answered` says how many questions had how many answers."""
        counts = {number: self.answers[number] for number in self.asked_ns}
        first_ns = min(self.asked_ns.values(), default=0)
        odd = [(number, count) for number, count in counts.items() if count != 1][:20]
        return {
            "asked": len(counts),
            "answered": {str(count): times for count, times in sorted(Counter(counts.values()).items())},
            "odd": [
                {"number": number, "answers": count, "after_s": (self.asked_ns[number] - first_ns) / 1e9}
                for number, count in odd
            ],
            "kernel_asked": self.kernel_asked,
            "without_number": self.without_number,
            "wrong": self.wrong[:20],
            "started_ns": first_ns,
        }


def run(plan: AskPlan, stop: Stop) -> dict[str, Any]:
    """Ask until `stop`; return the report. Raises OSError."""
    count = Count(plan)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as sock:
        sock.bind((plan.interface, 0))
        next_s = time.monotonic()
        while not stop:
            number = len(count.asked_ns)
            count.asked_ns[number] = time.monotonic_ns()
            sock.send(plan.question(number))
            next_s += 1 / plan.rate_hz
            _listen(sock, count, next_s)
        until_s = time.monotonic() + _PATIENCE_S
        while not count.complete and time.monotonic() < until_s:
            _listen(sock, count, time.monotonic() + 0.02)
        _listen(sock, count, time.monotonic() + _PATIENCE_S / 4)  # for what comes twice
    return count.report()


def _listen(sock: socket.socket, count: Count, until_s: float) -> None:
    while (left_s := until_s - time.monotonic()) > 0:
        if select.select([sock], [], [], left_s)[0]:
            frame, address = sock.recvfrom(2048)
            count.take(frame, outgoing=address[2] == _PACKET_OUTGOING)


def parse(arguments: Sequence[str]) -> tuple[AskPlan, float]:
    """Return the plan that a command line asks for, and the duration in seconds (0: until it is ended)."""
    parser = argparse.ArgumentParser(prog="ask", description="who has these addresses?")
    parser.add_argument("--interface", default="eth0")
    parser.add_argument("--mac", type=parse_mac, required=True, help="where the targets are")
    parser.add_argument("--own", type=ipaddress.ip_address, action="append", required=True, help="who asks")
    parser.add_argument("--target", type=ipaddress.ip_address, action="append", required=True)
    parser.add_argument("--rate-hz", type=float, default=20.0)
    parser.add_argument("--duration", type=float, default=0, help="seconds")
    found = parser.parse_args(arguments)
    own_mac = parse_mac(Path(f"/sys/class/net/{found.interface}/address").read_text(encoding="ascii").strip())
    own = {address.version: address for address in found.own}
    plan = AskPlan(found.interface, own_mac, own, found.mac, tuple(found.target), found.rate_hz)
    return plan, found.duration


def _main(arguments: Sequence[str]) -> dict[str, Any]:
    plan, duration_s = parse(arguments)
    return run(plan, Stop(duration_s))


if __name__ == "__main__":
    main(_main)

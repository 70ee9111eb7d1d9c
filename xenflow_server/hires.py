"""What definitions say of bandwidth, checked: rates, ceilings, classes of traffic and what belongs to them (pure).

Rules: nothing raises; each problem is (where, reason, value), as `checking` has them. A router's classes hire a part of
what the router hired; the rest is its default class's, which takes what no class matches.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable

from xenflow.bandwidth import MAX_CLASSES, Match, TrafficClass, parse_rate, rate_text
from xenflow.model import prefix_text
from xenflow_server.tables import ClassTable, MatchTable, RouterTable

Complain = Callable[[str, str, object], None]
"""Takes where, reason and value of a problem."""

PROTOCOLS = {
    "icmp": socket.IPPROTO_ICMP,
    "tcp": socket.IPPROTO_TCP,
    "udp": socket.IPPROTO_UDP,
    "gre": socket.IPPROTO_GRE,
    "esp": socket.IPPROTO_ESP,
    "icmp6": socket.IPPROTO_ICMPV6,
}
WITH_PORTS = frozenset({PROTOCOLS["tcp"], PROTOCOLS["udp"]})
RESERVED = frozenset({"default", "control"})
"""Names of the classes that every router has."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,30}")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


class Hires:
    """Reads tables; what is wrong goes to `complain`."""

    def __init__(self, complain: Complain) -> None:
        self._complain = complain

    def rate(self, where: str, key: str, text: str) -> int:
        """Return a rate in bit/s; 0 for an empty text."""
        if not text:
            return 0
        try:
            return parse_rate(text)
        except ValueError:
            self._complain(where, f'{key} must be a rate above 0, such as "20Mbit"', text)
            return 0

    def router(self, where: str, table: RouterTable) -> tuple[int, int, tuple[TrafficClass, ...]]:
        """Return what a router hired: rate, ceiling, classes."""
        rate, ceiling = self._pair(where, table.rate, table.ceiling)
        classes = tuple(self._class(where, item, rate) for item in table.classes)
        if ceiling and not rate:
            self._complain(where, "ceiling without rate: say what is guaranteed as well", table.ceiling)
        if classes and not rate:
            self._complain(where, "classes share what the router hired: add rate", "")
        if len(classes) > MAX_CLASSES:
            self._complain(where, f"has more than {MAX_CLASSES} classes", len(classes))
        names = [item.name for item in classes]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self._complain(where, "two classes have one name", name)
        total = sum(item.rate for item in classes)
        if rate and total > rate:
            self._complain(where, f"classes hire more than the router, which has {rate_text(rate)}", rate_text(total))
        return rate, ceiling, classes

    def _pair(self, where: str, rate_: str, ceiling_: str) -> tuple[int, int]:
        rate, ceiling = self.rate(where, "rate", rate_), self.rate(where, "ceiling", ceiling_)
        if ceiling and ceiling < rate:
            self._complain(where, f"ceiling is below the rate, {rate_text(rate)}", ceiling_)
        return rate, ceiling

    def _class(self, router: str, table: ClassTable, whole: int) -> TrafficClass:
        where = f"{router}: class {table.name!r}"
        if not _NAME.fullmatch(table.name):
            self._complain(where, "name must match [a-z0-9][a-z0-9._-]{0,30}", table.name)
        elif table.name in RESERVED:
            self._complain(where, "every router has a class of that name", table.name)
        rate, ceiling = self._pair(where, table.rate, table.ceiling)
        if not table.rate:
            self._complain(where, "rate is missing", "")
        if not table.match:
            self._complain(where, "match is missing: nothing would belong to it", "")
        matches = tuple(self._match(f"{where}: match {place}", item) for place, item in enumerate(table.match, 1))
        return TrafficClass(table.name, rate or max(whole, 1), ceiling, matches)

    def _match(self, where: str, table: MatchTable) -> Match:
        if table == MatchTable():
            self._complain(where, "is empty: name dscp, protocol, source, destination or ports", "")
        if not -1 <= table.dscp <= 63:
            self._complain(where, "dscp must be 0 to 63", table.dscp)
        protocol = self._protocol(where, table.protocol)
        source_ports = self._ports(where, "source_ports", table.source_ports)
        destination_ports = self._ports(where, "destination_ports", table.destination_ports)
        if (source_ports or destination_ports) and protocol not in WITH_PORTS:
            self._complain(where, "ports need a protocol that has them: tcp or udp", table.protocol)
        source = self._prefix(where, "source", table.source)
        destination = self._prefix(where, "destination", table.destination)
        if source and destination and len(source) != len(destination):
            self._complain(where, "source and destination are of two families", table.destination)
        return Match(table.dscp, protocol, source, destination, source_ports, destination_ports)

    def _protocol(self, where: str, text: str) -> int:
        if not text:
            return -1
        number = PROTOCOLS.get(text, int(text) if text.isascii() and text.isdecimal() else -1)
        if not 0 <= number <= 255:
            self._complain(where, f"protocol must be a number up to 255, or one of {', '.join(PROTOCOLS)}", text)
            return -1
        return number

    def _ports(self, where: str, key: str, text: str) -> tuple[int, int] | None:
        if not text:
            return None
        found = _PORTS.fullmatch(text)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not 0 <= first <= last <= 65535:
            self._complain(where, f'{key} must look like "5060" or "5004-5100"', text)
            return None
        return first, last

    def _prefix(self, where: str, key: str, text: str) -> bytes:
        if not text:
            return b""
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            self._complain(where, f"{key} must be a prefix such as 10.1.0.0/16, without host bits", text)
            return b""
        return network.network_address.packed + bytes([network.prefixlen])


def as_tables(classes: tuple[TrafficClass, ...]) -> list[ClassTable]:
    """Return classes as a file has them."""
    return [
        ClassTable(item.name, as_rate(item.rate), as_rate(item.ceiling), [_table(match) for match in item.matches])
        for item in classes
    ]


def as_rate(rate: int) -> str:
    """Return a rate as a file has it, empty for none."""
    return f"{rate}bit" if rate else ""


def _table(match: Match) -> MatchTable:
    ports = [f"{ports[0]}-{ports[1]}" if ports else "" for ports in (match.source_ports, match.destination_ports)]
    protocol = str(match.protocol) if match.protocol >= 0 else ""
    prefixes = [prefix_text(prefix) if prefix else "" for prefix in (match.source, match.destination)]
    return MatchTable(match.dscp, protocol, *prefixes, *ports)

"""Pure: what a router may say about itself. A router is untrusted; each of its facts passes here before it is kept.

Place in the flow: channel -> door -> Inbox. Rules: one fact that is refused does not stop the others; what it replaces
is forgotten (the old value is no longer true either); a prefix whose route cannot be used is left to the VM, since a
shorter one would lead its packets astray; a refusal is a reason without the router's own text in it, so
that reasons can be counted. docs/server.md has the table of inputs and outcomes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

from xenflow.model import ANNOUNCEMENT_MAC, Address, Fact, Hop, Key, Link, Neighbor, Route, RouteKind, ShedRoutes
from xenflow.shape import malformed, malformed_prefix
from xenflow.wire import Update

MAX_NAME_BYTES = 15
"""IFNAMSIZ of Linux, without the closing zero."""
MTU_RANGE = range(68, 65536)
"""RFC 791's smallest to the largest IP packet."""
MAX_LINK = 0x7FFFFFFF
MAX_HOPS = 64
_MAX_KNOWN_HOPS = 4096
_MAPPED = bytes(10) + b"\xff\xff"
_ROUTER_KINDS = (Link, Address, Route, Neighbor, ShedRoutes)


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """How many facts of the small kinds one router may have."""

    links: int = 1024
    addresses: int = 8192
    neighbors: int = 65536

    def of(self, kind: int) -> int:
        """Return the bound of a kind."""
        return {Link.KIND: self.links, Address.KIND: self.addresses, Neighbor.KIND: self.neighbors}[kind]


class Door:
    """Refuses what a router cannot mean. `refused` counts by reason, for as long as the router is known."""

    def __init__(self, bounds: Bounds = Bounds()) -> None:
        self.refused: Counter[str] = Counter()
        self._bounds = bounds
        self._known: dict[int, set[bytes]] = {Link.KIND: set(), Address.KIND: set(), Neighbor.KIND: set()}
        self._good_hops: dict[int, set[tuple[Hop, ...]]] = {5: set(), 17: set()}  # by the size of a prefix

    def admit(self, update: Update) -> tuple[Update, list[str]]:
        """Return `update` without what is refused, and the reasons (each once).

        Refused facts become withdrawals of what they would have replaced; routes to good prefixes, routes by the VM.
        """
        bad: list[tuple[Fact, str]] = []
        good_hops = self._good_hops
        for fact in update.upserts:
            if type(fact) is Route:
                known = fact.kind is RouteKind.UNICAST and fact.hops in good_hops.get(len(fact.prefix), ())
                reason = _route(fact) if known else self._new_hops(fact)
            else:
                reason = self._other(fact)
            if reason:
                bad.append((fact, reason))
        if not bad:
            return update, []
        self.refused.update(reason for _, reason in bad)
        gone = {id(fact): _slow(fact) for fact, _ in bad}
        upserts = [kept for fact in update.upserts if (kept := gone.get(id(fact), fact)) is not None]
        taken = {(fact.KIND, fact.key) for fact in upserts}
        withdrawals = [key for fact, _ in bad if (key := _key(fact)) is not None and key not in taken]
        admitted = Update(update.scope, update.seq, upserts, [*update.withdrawals, *withdrawals])
        return admitted, list(dict.fromkeys(reason for _, reason in bad))

    def forget(self, keys: Iterable[Key]) -> None:
        """Make room: these facts are gone."""
        for kind, key in keys:
            if kind in self._known:
                self._known[kind].discard(key)

    def _other(self, fact: Fact) -> str:
        if not isinstance(fact, _ROUTER_KINDS):
            return f"{type(fact).__name__} is not for a router to say"
        if reason := malformed(fact):
            return reason
        if isinstance(fact, Link):
            reason = _link(fact)
        elif isinstance(fact, Address):
            reason = _link_index(fact.link) or _host(fact.address[:-1])
        elif isinstance(fact, Neighbor):
            reason = _link_index(fact.link) or _host(fact.address) or _mac(fact.mac)
        else:
            return ""
        return reason or self._count(fact)

    def _count(self, fact: Link | Address | Neighbor) -> str:
        known = self._known[fact.KIND]
        if fact.key not in known:
            if len(known) >= self._bounds.of(fact.KIND):
                return f"more than {self._bounds.of(fact.KIND)} facts of kind {type(fact).__name__}"
            known.add(fact.key)
        return ""

    def _new_hops(self, route: Route) -> str:
        if reason := _route(route):
            return reason
        if (route.kind is RouteKind.UNICAST) != bool(route.hops):
            return "a unicast route has next hops, another kind has none"
        if reason := _hops(route.hops, len(route.prefix) - 1):
            return reason
        good = self._good_hops[len(route.prefix)]
        if len(good) >= _MAX_KNOWN_HOPS:
            good.clear()
        good.add(route.hops)
        return ""


def _slow(fact: Fact) -> Route | None:
    """Return the route that leaves a refused route's packets to the VM; None if its prefix is refused too."""
    return Route(fact.prefix, RouteKind.SLOW) if isinstance(fact, Route) and not _route(fact) else None


def _key(fact: Fact) -> Key | None:
    """Return a fact's key; None if it is so wrong that it has none."""
    try:
        return fact.KIND, fact.key
    except OverflowError:
        return None


def _route(route: Route) -> str:
    prefix = route.prefix
    if reason := malformed_prefix(prefix):
        return reason
    first = prefix[0]
    if len(prefix) == 5:
        if first >= 224:
            return "a multicast or reserved destination"
        return "a loopback destination" if first == 127 else ""
    if first == 0xFF:
        return "a multicast or reserved destination"
    if first == 0xFE and prefix[1] & 0xC0 == 0x80 and prefix[-1] >= 10:
        return "a link-local destination"
    if first == 0 and prefix[-1] >= 96:
        if prefix[:12] == _MAPPED:
            return "an IPv4-mapped destination"
        if prefix[:16] == bytes(15) + b"\x01":
            return "a loopback destination"
    return ""


def _hops(hops: tuple[Hop, ...], size: int) -> str:
    if len(hops) > MAX_HOPS:
        return f"more than {MAX_HOPS} next hops"
    for hop in hops:
        if reason := _link_index(hop.link):
            return reason
        if not 1 <= hop.weight <= 65536:
            return "a next hop's weight out of range"
        if hop.gateway and (len(hop.gateway) not in (4, 16) or (size == 16 and len(hop.gateway) == 4)):
            return "a gateway of another family"
        if hop.gateway and _host(hop.gateway):
            return "a gateway that is no unicast address"
    return ""


def _link(link: Link) -> str:
    if not 0 < len(link.name.encode()) <= MAX_NAME_BYTES:
        return f"an interface name has 1 to {MAX_NAME_BYTES} bytes"
    if link.mtu not in MTU_RANGE:
        return "an MTU is 68 to 65535"
    return _link_index(link.index) or _mac(link.mac)


def _link_index(index: int) -> str:
    return "" if 0 < index <= MAX_LINK else "a link index out of range"


def _host(address: bytes) -> str:
    """Say why a packed address can be neither an interface's nor a neighbor's."""
    first = address[0]
    if not any(address):
        return "the unspecified address"
    if len(address) == 4:
        return "a multicast, reserved or loopback address" if first >= 224 or first == 127 else ""
    if first == 0xFF or address == bytes(15) + b"\x01" or address[:12] == _MAPPED:
        return "a multicast, reserved or loopback address"
    return ""


def _mac(mac: bytes) -> str:
    if mac[0] & 1 or mac == bytes(6):
        return "a MAC address that is no unicast address"
    return "the announcement's MAC address" if mac == ANNOUNCEMENT_MAC else ""

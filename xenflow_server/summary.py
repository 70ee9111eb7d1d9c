"""Pure: a router's own report becomes what the app is told: definition's interface numbers for kernel link indexes.

Place in the flow: Inbox (as the client says it) -> Summary -> Outbox (as the app hears it).

Rules: an interface is known by its MAC address; of several links with one address (a bridge, macvlan or VLAN of the
guest's own) the lowest index counts, so that what the switch cannot imitate stays with the VM. Links in no network and
what is on them are dropped, next hops over them have link 0. Routes over the cap are kept back here even if the client
ignores it. One change costs one change; only a change of the numbering itself walks the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from xenflow.capped import CappedRoutes
from xenflow.facttable import FactTable
from xenflow.model import Address, Fact, Hop, Link, Machine, Neighbor, Prefix, Route, ShedRoutes
from xenflow.replica import Change

_MAX_KNOWN_HOPS = 65536


class Table(Protocol):
    """Where a summary goes: the sending side of a replica."""

    facts: FactTable

    def put(self, fact: Fact) -> None:
        """Add or replace a fact."""

    def drop(self, kind: int, key: bytes) -> None:
        """Remove a fact."""


class Summary:
    """Keeps `table` equal to the rewritten and capped facts of one router."""

    def __init__(self, machine: Machine, max_routes: int, table: Table) -> None:
        self._by_mac = {interface.mac: interface.number for interface in machine.interfaces}
        self.table = table
        self._numbers: dict[int, int] = {}
        self._hops: dict[tuple[Hop, ...], tuple[Hop, ...]] = {}
        self._capped: CappedRoutes[Route] | None = CappedRoutes(max_routes) if max_routes else None
        self._shed_by_client = 0

    @property
    def shed(self) -> int:
        """Routes that the app does not hear of: kept back by the client, or here."""
        return self._shed_by_client + (self._capped.shed if self._capped is not None else 0)

    def apply(self, change: Change, facts: FactTable) -> None:
        """Take in a change, after which the client's facts are `facts`."""
        if self._renumber(change, facts):
            self._rewrite_all(facts)
        else:
            self._put(change.upserts)
        for kind, key in change.withdrawals:
            self._drop(kind, key)
        self._say_shed(facts)

    def rewrite(self, facts: FactTable) -> None:
        """Start over from the client's facts, as after a new definition."""
        self._numbers = self._number(facts)
        self._rewrite_all(facts)
        self._say_shed(facts)

    def _renumber(self, change: Change, facts: FactTable) -> bool:
        """Bring the numbering up to date; return whether it changed."""
        touched = any(type(fact) is Link for fact in change.upserts)
        if not touched and not any(kind == Link.KIND for kind, _ in change.withdrawals):
            return False
        numbers = self._number(facts)
        changed = numbers != self._numbers
        self._numbers = numbers
        return changed

    def _number(self, facts: FactTable) -> dict[int, int]:
        numbers: dict[int, int] = {}
        taken: set[int] = set()
        for link in sorted((fact for fact in facts.of(Link.KIND).values() if isinstance(fact, Link)), key=_index):
            number = self._by_mac.get(link.mac)
            if number is not None and number not in taken:
                taken.add(number)
                numbers[link.index] = number
        return numbers

    def _rewrite_all(self, facts: FactTable) -> None:
        self._hops.clear()
        table = self.table
        keep = {
            (kind, rewritten.key)
            for kind in (Link.KIND, Address.KIND, Neighbor.KIND)
            for fact in facts.of(kind).values()
            if (rewritten := self._rewrite(fact)) is not None
        }
        stale = [
            (kind, key)
            for kind in (Link.KIND, Address.KIND, Neighbor.KIND)
            for key in table.facts.of(kind)
            if (kind, key) not in keep
        ]
        for kind, key in stale:
            table.drop(kind, key)
        self._put(facts.values())

    def _put(self, facts: Iterable[Fact]) -> None:
        put = self.table.put
        known_hops, capped = self._hops, self._capped
        for fact in facts:
            if type(fact) is Route:
                hops = known_hops.get(fact.hops)
                if hops is None:
                    hops = self._rewrite_hops(fact.hops)
                route = fact if hops is fact.hops else Route(fact.prefix, fact.kind, hops)
                if capped is None:
                    put(route)
                else:
                    self._put_capped(capped, route)
            elif type(fact) is ShedRoutes:
                continue
            elif (rewritten := self._rewrite(fact)) is not None:
                put(rewritten)

    def _put_capped(self, capped: CappedRoutes[Route], route: Route) -> None:
        for move in capped.put(route.prefix, route):
            self._move(move.prefix, move.shown, capped)

    def _move(self, prefix: Prefix, shown: bool, capped: CappedRoutes[Route]) -> None:
        if shown:
            self.table.put(capped[prefix])
        else:
            self.table.drop(Route.KIND, prefix)

    def _drop(self, kind: int, key: bytes) -> None:
        if kind == Route.KIND and self._capped is not None:
            for move in self._capped.drop(key):
                self._move(move.prefix, move.shown, self._capped)
            return
        if kind in (Address.KIND, Neighbor.KIND):
            number = self._numbers.get(int.from_bytes(key[:4], "big"))
            if number is None:
                return
            key = number.to_bytes(4, "big") + key[4:]
        if kind in (Route.KIND, Address.KIND, Neighbor.KIND):
            self.table.drop(kind, key)

    def _rewrite(self, fact: Fact) -> Fact | None:
        """Return the fact as the app hears it; None if it is on a link in no network."""
        if isinstance(fact, Link):
            number = self._numbers.get(fact.index)
            return Link(number, fact.name, fact.mac, fact.mtu, fact.up) if number is not None else None
        if isinstance(fact, Address):
            number = self._numbers.get(fact.link)
            return Address(number, fact.address) if number is not None else None
        if isinstance(fact, Neighbor):
            number = self._numbers.get(fact.link)
            return Neighbor(number, fact.address, fact.mac) if number is not None else None
        return None

    def _rewrite_hops(self, hops: tuple[Hop, ...]) -> tuple[Hop, ...]:
        numbers = self._numbers
        rewritten = tuple(
            sorted((Hop(numbers.get(hop.link, 0), hop.gateway, hop.weight) for hop in hops), key=_hop_order)
        )
        if rewritten == hops:
            rewritten = hops
        if len(self._hops) >= _MAX_KNOWN_HOPS:
            self._hops.clear()
        self._hops[hops] = rewritten
        return rewritten

    def _say_shed(self, facts: FactTable) -> None:
        reported = facts.of(ShedRoutes.KIND).get(b"")
        self._shed_by_client = reported.count if isinstance(reported, ShedRoutes) else 0
        if self.shed:
            self.table.put(ShedRoutes(self.shed))
        else:
            self.table.drop(ShedRoutes.KIND, b"")


def _index(link: Link) -> int:
    return link.index


def _hop_order(hop: Hop) -> tuple[int, bytes, int]:
    return hop.link, hop.gateway, hop.weight

"""A mirror of one family's part of table main: all the routes of each prefix, in the kernel's order of preference.

    RouteSeen -put, remove-> RouteTable -of(prefix)-> candidates, best first -outcome-> RouteKind and next hops

Rules: the kernel tells what it did (added, put before, behind, in place of), and the mirror does the same: for IPv4 as
fib_table_insert() in net/ipv4/fib_trie.c does, for IPv6 as fib6_add_rt2node() in net/ipv6/ip6_fib.c. Where a message
does not fit what is known, `doubt` turns true: something was lost, a dump is due.

A dump is compared with the mirror while it arrives (`begin`, `put(dumped=True)`, `end`); nothing is copied but the
set of keys. What events change meanwhile is newer than the dump and stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias

from xenflow.model import Hop, Prefix, RouteKind
from xenflow_client.seen import IFF_UP, NLM_F_APPEND, NLM_F_REPLACE, Candidate, LinkSeen

Entries: TypeAlias = Candidate | tuple[Candidate, ...]
Outcome: TypeAlias = tuple[RouteKind, tuple[Hop, ...]]
SLOW: Outcome = (RouteKind.SLOW, ())


class GatewayUse(Protocol):
    """Who wants to know which gateways the routes of the table use."""

    def use(self, hop: Hop) -> None:
        """A next hop with a gateway came into use."""

    def disuse(self, hop: Hop) -> None:
        """It is not used by (one more of) the candidates any longer."""


class RouteTable:
    """All routes of one family; `dirty` collects the prefixes whose routes changed since it was last emptied."""

    def __init__(self, gateways: GatewayUse) -> None:
        self.routes: dict[Prefix, Entries] = {}
        self.candidates: dict[Candidate, int] = {}
        self.dirty: set[Prefix] = set()
        self.doubt = False
        self._gateways = gateways
        self._unseen: set[Prefix] | None = None
        self._touched: set[Prefix] = set()

    def of(self, prefix: Prefix) -> tuple[Candidate, ...]:
        """Return the routes to `prefix`, best first."""
        entries = self.routes.get(prefix, ())
        return entries if isinstance(entries, tuple) else (entries,)

    def put(self, prefix: Prefix, candidate: Candidate, flags: int, dumped: bool = False) -> None:
        """Take in a route that the kernel has added or, if `dumped`, lists."""
        if dumped and self._unseen is not None:
            if prefix in self._unseen or prefix in self._touched:
                self._unseen.discard(prefix)
                self._touched.discard(prefix)
                return self._set(prefix, (candidate,))
            return self._set(prefix, _listed(self.of(prefix), candidate))
        if self._unseen is not None:
            self._touched.add(prefix)
        old = self.of(prefix)
        return self._set(
            prefix, _joined(old, candidate, flags) if candidate.joins else _inserted(old, candidate, flags)
        )

    def remove(self, prefix: Prefix, candidate: Candidate) -> None:
        """Take in that the kernel has removed a route."""
        old = self.of(prefix)
        if self._unseen is not None:
            self._touched.add(prefix)
        new = _removed(old, candidate)
        if new == old:
            self.doubt = True
        self._set(prefix, new)

    def flush(self, dead: set[int]) -> None:
        """Forget the routes all of whose interfaces are in `dead`, as the kernel does without telling."""
        gone = {one for one in self.candidates if one.hops and all(hop.link in dead for hop in one.hops)}
        if gone:
            for prefix in [prefix for prefix, one in self.routes.items() if _mentions(one, gone)]:
                self._set(prefix, tuple(one for one in self.of(prefix) if one not in gone))

    def reconsider(self, links: set[int]) -> None:
        """Mark the prefixes with a route over one of `links` as changed."""
        affected = {one for one in self.candidates if any(hop.link in links for hop in one.hops)}
        if affected:
            self.dirty.update(prefix for prefix, one in self.routes.items() if _mentions(one, affected))

    def begin(self) -> None:
        """A dump starts."""
        self._unseen, self._touched = set(self.routes), set()
        self.doubt = False

    @property
    def disturbed(self) -> bool:
        """Whether the table changed while it was dumped."""
        return bool(self._touched)

    def end(self, complete: bool) -> None:
        """A dump is over; if it was complete, what it did not list is gone."""
        unseen, self._unseen = self._unseen or set(), None
        if complete:
            for prefix in unseen - self._touched:
                self._set(prefix, ())
        self._touched = set()

    def _set(self, prefix: Prefix, new: tuple[Candidate, ...]) -> None:
        old = self.of(prefix)
        if new == old:
            return
        for one in new:
            self._count(one)
        for one in old:
            self._discount(one)
        if new:
            self.routes[prefix] = new[0] if len(new) == 1 else new
        else:
            del self.routes[prefix]
        self.dirty.add(prefix)

    def _count(self, candidate: Candidate) -> None:
        count = self.candidates.get(candidate, 0)
        self.candidates[candidate] = count + 1
        if not count:
            for hop in candidate.hops:
                if hop.gateway:
                    self._gateways.use(hop)

    def _discount(self, candidate: Candidate) -> None:
        count = self.candidates[candidate] - 1
        if count:
            self.candidates[candidate] = count
            return
        del self.candidates[candidate]
        for hop in candidate.hops:
            if hop.gateway:
                self._gateways.disuse(hop)


def _mentions(entries: Entries, wanted: set[Candidate]) -> bool:
    return any(one in wanted for one in entries) if isinstance(entries, tuple) else entries in wanted


def _listed(old: tuple[Candidate, ...], new: Candidate) -> tuple[Candidate, ...]:
    return old if new in old else _inserted(old, new, NLM_F_APPEND)


def _inserted(old: tuple[Candidate, ...], new: Candidate, flags: int) -> tuple[Candidate, ...]:
    """Put a route where the kernel does: in place of the first of its order, behind the last, or before the first."""
    before = [one for one in old if one.order < new.order]
    same = [one for one in old if one.order == new.order]
    after = [one for one in old if one.order > new.order]
    if flags & NLM_F_REPLACE and same:
        replaced = next((one for one in same if one.joins == new.joins), same[0])
        same = [new if one is replaced else one for one in same if one is replaced or one != new]
    elif new not in same:
        same = [*same, new] if flags & NLM_F_APPEND else [new, *same]
    return (*before, *same, *after)


def _joined(old: tuple[Candidate, ...], new: Candidate, flags: int) -> tuple[Candidate, ...]:
    """Put an IPv6 route with gateways: those of one metric are one multipath route."""
    peers = [one for one in old if one.order == new.order and one.joins]
    if flags & NLM_F_REPLACE or not peers:
        return _inserted(old, new, flags | NLM_F_APPEND)
    merged = _with_hops(new, {**_by_way(peers[0].hops), **_by_way(new.hops)}.values())
    return tuple(merged if one is peers[0] else one for one in old)


def _removed(old: tuple[Candidate, ...], gone: Candidate) -> tuple[Candidate, ...]:
    if gone.joins:
        for one in old:
            if one.joins and one.order == gone.order:
                ways = _by_way(one.hops)
                for hop in gone.hops:
                    ways.pop((hop.link, hop.gateway), None)
                left = _with_hops(one, ways.values())
                return tuple(left if each is one else each for each in old if ways or each is not one)
        return old
    for exact in (True, False):
        for one in old:
            if one == gone or (not exact and (one.order, one.kind, one.hops) == (gone.order, gone.kind, gone.hops)):
                return tuple(each for each in old if each is not one)
    return old


def _by_way(hops: Iterable[Hop]) -> dict[tuple[int, bytes], Hop]:
    return {(hop.link, hop.gateway): hop for hop in hops}


def _with_hops(candidate: Candidate, hops: Iterable[Hop]) -> Candidate:
    ordered = tuple(sorted(hops, key=lambda hop: (hop.link, hop.gateway)))
    return Candidate(candidate.order, candidate.kind, ordered, candidate.protocol, candidate.selective, candidate.joins)


class Verdicts:
    """What the switch is told for a candidate, given the links; remembered until a link changes."""

    def __init__(self) -> None:
        self.links: dict[int, LinkSeen] = {}
        self._known: dict[Candidate, Outcome | None] = {}

    def forget(self) -> None:
        """A link changed."""
        self._known.clear()

    def of(self, entries: Iterable[Candidate]) -> Outcome | None:
        """Return what is reported for the routes of one prefix (best first); None for: nothing.

        Any route that is for some packets only leaves the prefix to the kernel, which alone can tell packets apart.
        """
        chosen: Outcome | None = None
        for one in entries:
            if one.selective:
                return SLOW
            if chosen is None:
                if one not in self._known:
                    self._known[one] = self._judge(one)
                chosen = self._known[one]
        return chosen

    def _judge(self, candidate: Candidate) -> Outcome | None:
        if candidate.kind is not RouteKind.UNICAST:
            return candidate.kind, ()
        usable = tuple(self._usable(candidate.hops))
        if len(usable) == len(candidate.hops):
            return RouteKind.UNICAST, candidate.hops
        if usable:
            return RouteKind.UNICAST, usable
        links = [self.links.get(hop.link) for hop in candidate.hops]
        alive = any(link is not None and link.flags & IFF_UP for link in links)
        return SLOW if alive else None  # without a carrier the kernel may still choose it: it decides

    def _usable(self, hops: Iterable[Hop]) -> Iterator[Hop]:
        for hop in hops:
            link = self.links.get(hop.link)
            if link is not None and link.up and not link.loopback:
                yield hop

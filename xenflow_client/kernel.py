"""The mirror of the kernel's tables, and what of it is reported. Pure: no I/O, no clock.

    Seen -apply-> links, addresses, neighbors, RouteTable (IPv4, IPv6) -settle-> facts put into / dropped from a Sink

Rules: the mirror holds what the kernel has; docs/client.md says which of it is reported, and tests hold each row of it.
A change costs what it concerns: a route event decides one prefix anew, a link event those with a route over the link.
Addresses of interfaces without neighbors (lo, dummy, tunnels) are in no virtual network: they are reported as routes
to the router itself (SLOW), so that no shorter prefix takes their packets elsewhere.
"""

from __future__ import annotations

from typing import Protocol

from xenflow.model import Address, Fact, Hop, Link, Neighbor, Prefix, Route, RouteKind, neighbor_key
from xenflow_client.routes import RouteTable, Verdicts
from xenflow_client.rtnetlink import Table
from xenflow_client.rtroute import reportable
from xenflow_client.seen import (
    IFF_UP,
    NUD_RESOLVED,
    AddressSeen,
    LinkSeen,
    NeighborSeen,
    RouteSeen,
)


class Sink(Protocol):
    """Where facts go. Putting a fact that is there already, or dropping one that is not, changes nothing."""

    def put(self, fact: Fact) -> None:
        """Add or replace a fact."""

    def drop(self, kind: int, key: bytes) -> None:
        """Remove a fact."""


class Watcher(Protocol):
    """Who looks after neighbors (see neighbors): is told about each change of one, of a gateway's use, of a link."""

    def use(self, hop: Hop) -> None:
        """A next hop with a gateway came into use."""

    def disuse(self, hop: Hop) -> None:
        """It is not used any longer."""

    def neighbor(self, seen: NeighborSeen) -> None:
        """The kernel changed, listed or removed a neighbor."""

    def link(self, index: int, up: bool) -> None:
        """A link came up or went down."""


class Kernel:
    """All tables. `recheck` collects the tables that must be dumped because the kernel changes them silently."""

    def __init__(self, sink: Sink, watcher: Watcher) -> None:
        self._sink = sink
        self._watcher = watcher
        self._verdicts = Verdicts()
        self.links = self._verdicts.links
        self.addresses: dict[bytes, AddressSeen] = {}
        self.neighbors: dict[bytes, NeighborSeen] = {}
        self.ipv4 = RouteTable(watcher)
        self.ipv6 = RouteTable(watcher)
        self.recheck: set[Table] = set()
        self._own: dict[Prefix, int] = {}  # addresses of internal links, and how often each is there
        self._unseen: set[bytes] | None = None

    def apply(self, seen: LinkSeen | AddressSeen | NeighborSeen | RouteSeen, dumped: bool = False) -> None:
        """Take in an event, or an item of the dump that runs."""
        if isinstance(seen, RouteSeen):
            self._route(seen, dumped)
        elif isinstance(seen, NeighborSeen):
            self._neighbor(seen)
        elif isinstance(seen, AddressSeen):
            self._address(seen)
        else:
            self._link(seen)

    def begin(self, table: Table) -> None:
        """A dump of `table` starts: what it does not list until `end` is gone."""
        if table in (Table.ROUTES_IPV4, Table.ROUTES_IPV6):
            self._table(table).begin()
        else:
            self._unseen = set(self._keys(table))

    def end(self, table: Table, complete: bool) -> bool:
        """The dump is over; return whether it can be trusted to have listed everything.

        IPv6's can not where routes changed meanwhile: fib6_dump_table() starts again and skips as many as it had.
        """
        if table in (Table.ROUTES_IPV4, Table.ROUTES_IPV6):
            routes = self._table(table)
            trusted = complete and not (table is Table.ROUTES_IPV6 and routes.disturbed)
            routes.end(trusted)
            return trusted
        unseen, self._unseen = self._unseen or set(), None
        if complete:
            for key in unseen:
                self._forget(table, key)
        return complete

    def settle(self) -> int:
        """Bring the sink up to date with the routes that changed; return how many prefixes were decided."""
        decided = 0
        for table in (self.ipv4, self.ipv6):
            if table.doubt:
                table.doubt = False
                self.recheck.add(Table.ROUTES_IPV4 if table is self.ipv4 else Table.ROUTES_IPV6)
            if table.dirty:
                dirty, table.dirty = table.dirty, set()
                decided += len(dirty)
                for prefix in dirty:
                    self._decide(table, prefix)
        return decided

    def _table(self, table: Table) -> RouteTable:
        return self.ipv4 if table is Table.ROUTES_IPV4 else self.ipv6

    def _decide(self, table: RouteTable, prefix: Prefix) -> None:
        outcome = (RouteKind.SLOW, ()) if prefix in self._own else self._verdicts.of(table.of(prefix))
        if outcome is None:
            self._sink.drop(Route.KIND, prefix)
        else:
            self._sink.put(Route(prefix, *outcome))

    def _route(self, seen: RouteSeen, dumped: bool) -> None:
        table = self.ipv4 if len(seen.prefix) == 5 else self.ipv6
        if seen.gone:
            table.remove(seen.prefix, seen.candidate)
        else:
            table.put(seen.prefix, seen.candidate, seen.flags, dumped)

    def _link(self, seen: LinkSeen) -> None:
        key, old = _link_key(seen.index), self.links.get(seen.index)
        self._saw(key)
        if seen == old:
            return
        if seen.gone:
            self._forget(Table.LINKS, key)
            return
        self.links[seen.index] = seen
        if not seen.loopback:
            self._sink.put(Link(seen.index, seen.name, seen.ethernet, seen.mtu, seen.up))
        if old is None or (old.internal, old.flags) != (seen.internal, seen.flags):
            self._link_changed(seen, old)

    def _link_changed(self, seen: LinkSeen, old: LinkSeen | None) -> None:
        self._watcher.link(seen.index, seen.up)
        if old is not None and old.internal != seen.internal:
            self._readdress(seen.index, old)
        self._reroute(seen.index, went_down=old is not None and old.up and not seen.up)
        if old is not None and old.flags & IFF_UP and not seen.flags & IFF_UP:
            self._flush(seen.index)

    def _reroute(self, index: int, went_down: bool) -> None:
        self._verdicts.forget()
        for table in (self.ipv4, self.ipv6):
            table.reconsider({index})
        if went_down:
            self.recheck.update(Table)

    def _flush(self, index: int) -> None:
        dead = {other for other, link in self.links.items() if not link.flags & IFF_UP} | {index}
        for table in (self.ipv4, self.ipv6):
            table.flush(dead)

    def _readdress(self, index: int, old: LinkSeen) -> None:
        """Report the addresses of a link again whose nature changed."""
        for address in [one for one in self.addresses.values() if one.link == index]:
            self._hide_address(address, old)
            self._show_address(address)

    def _address(self, seen: AddressSeen) -> None:
        key = _address_key(seen)
        self._saw(key)
        if seen.gone:
            self._forget(Table.ADDRESSES, key)
            return
        old = self.addresses.get(key)
        if seen == old:
            return
        if old is not None:
            self._hide_address(old, self.links.get(old.link))
        self.addresses[key] = seen
        self._show_address(seen)

    def _show_address(self, seen: AddressSeen) -> None:
        link = self.links.get(seen.link)
        if not seen.usable:
            return
        if link is None or not link.loopback:
            self._sink.put(Address(seen.link, seen.address))
        if link is not None and link.internal:
            self._own_count(_host_prefix(seen.address), 1)

    def _hide_address(self, seen: AddressSeen, link: LinkSeen | None) -> None:
        if not seen.usable:
            return
        self._sink.drop(Address.KIND, _address_key(seen))
        if link is not None and link.internal:
            self._own_count(_host_prefix(seen.address), -1)

    def _own_count(self, prefix: Prefix, change: int) -> None:
        if not reportable(prefix):
            return
        count = self._own.pop(prefix, 0) + change
        if count > 0:
            self._own[prefix] = count
        (self.ipv4 if len(prefix) == 5 else self.ipv6).dirty.add(prefix)

    def _neighbor(self, seen: NeighborSeen) -> None:
        key = neighbor_key(seen.link, seen.address)
        self._saw(key)
        if self._on_loopback(seen.link):
            return
        self._watcher.neighbor(seen)
        if not seen.gone and seen.mac and seen.state & NUD_RESOLVED:
            self.neighbors[key] = seen
            self._sink.put(Neighbor(seen.link, seen.address, seen.mac))
        elif self.neighbors.pop(key, None) is not None:
            self._sink.drop(Neighbor.KIND, key)

    def _on_loopback(self, index: int) -> bool:
        link = self.links.get(index)
        return link is not None and link.loopback

    def _keys(self, table: Table) -> list[bytes]:
        if table is Table.LINKS:
            return [_link_key(index) for index in self.links]
        return list(self.addresses if table is Table.ADDRESSES else self.neighbors)

    def _saw(self, key: bytes) -> None:
        if self._unseen is not None:
            self._unseen.discard(key)

    def _forget(self, table: Table, key: bytes) -> None:
        """Remove what the kernel has no longer."""
        if table is Table.LINKS:
            self._forget_link(int.from_bytes(key[:-1], "big"))
        elif table is Table.NEIGHBORS:
            if (neighbor := self.neighbors.get(key)) is not None:
                self._neighbor(NeighborSeen(neighbor.link, neighbor.address, b"", 0, gone=True))
        elif (address := self.addresses.pop(key, None)) is not None:
            self._hide_address(address, self.links.get(address.link))
            self.recheck.update((Table.ROUTES_IPV4, Table.ROUTES_IPV6))

    def _forget_link(self, index: int) -> None:
        link = self.links.get(index)
        if link is None:
            return
        for key in [key for key, one in self.addresses.items() if one.link == index]:
            self._forget(Table.ADDRESSES, key)
        for key in [key for key, one in self.neighbors.items() if one.link == index]:
            self._forget(Table.NEIGHBORS, key)
        del self.links[index]
        self._sink.drop(Link.KIND, index.to_bytes(4, "big"))
        self._watcher.link(index, False)
        self._reroute(index, went_down=True)
        self._flush(index)


def _link_key(index: int) -> bytes:
    """Key of a link among what a dump has not listed yet; differs from all keys of addresses and neighbors."""
    return index.to_bytes(4, "big") + b"L"


def _address_key(seen: AddressSeen) -> bytes:
    return seen.link.to_bytes(4, "big") + seen.address


def _host_prefix(address: bytes) -> Prefix:
    """Return the prefix of one address, given with the length of its network."""
    return address[:-1] + bytes((8 * (len(address) - 1),))

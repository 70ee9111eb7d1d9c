"""The routes of one virtual router, with longest-prefix look-up.

Place in the flow: facts -> *RIB* -> FIB -> flows. It keeps one route for each prefix, as the router's kernel chose it.
A dict for each family and prefix length: a look-up costs at most one probe for each length in use, so it does not
grow with the table; longest first is the order of RFC 1812, section 5.2.4.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from xenflow.model import Prefix, Route

_MASKS = {
    4: [((1 << length) - 1) << (32 - length) for length in range(33)],
    16: [((1 << length) - 1) << (128 - length) for length in range(129)],
}


class Rib:
    """Routes by prefix; what it keeps true: `len(rib)` routes, one for each prefix."""

    def __init__(self) -> None:
        self._tables: dict[int, dict[int, dict[int, Route]]] = {4: {}, 16: {}}
        self._probes: dict[int, list[tuple[int, Callable[[int], Route | None]]]] = {4: [], 16: []}
        """For each family, longest first: the mask of a length in use, and the look-up in its table."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Route]:
        for tables in self._tables.values():
            for table in tables.values():
                yield from table.values()

    def put(self, route: Route) -> None:
        """Add the route, or replace the one to the same prefix."""
        size, length = len(route.prefix) - 1, route.prefix[-1]
        tables = self._tables[size]
        table = tables.get(length)
        if table is None:
            table = tables[length] = {}
            self._order(size)
        number = int.from_bytes(route.prefix[:-1], "big")
        if number not in table:
            self._count += 1
        table[number] = route

    def drop(self, prefix: Prefix) -> Route | None:
        """Remove and return the route to `prefix`; None when there is none."""
        size, length = len(prefix) - 1, prefix[-1]
        tables = self._tables[size]
        table = tables.get(length)
        route = table.pop(int.from_bytes(prefix[:-1], "big"), None) if table is not None else None
        if route is None or table is None:
            return None
        self._count -= 1
        if not table:
            del tables[length]
            self._order(size)
        return route

    def get(self, prefix: Prefix) -> Route | None:
        """Return the route to exactly `prefix`."""
        table = self._tables[len(prefix) - 1].get(prefix[-1])
        return None if table is None else table.get(int.from_bytes(prefix[:-1], "big"))

    def lookup(self, address: bytes) -> Route | None:
        """Return the route of the longest prefix that covers `address` (packed)."""
        number = int.from_bytes(address, "big")
        for mask, probe in self._probes[len(address)]:
            route = probe(number & mask)
            if route is not None:
                return route
        return None

    def _order(self, size: int) -> None:
        """Note which lengths there are."""
        tables, masks = self._tables[size], _MASKS[size]
        self._probes[size] = [(masks[length], tables[length].get) for length in sorted(tables, reverse=True)]

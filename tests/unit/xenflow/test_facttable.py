"""The table behind replicas is a mapping like any other."""

from __future__ import annotations

from xenflow.facttable import FactTable
from xenflow.model import Link, Route, RouteKind, ShedRoutes

ROUTE = Route(bytes(5), RouteKind.BLACKHOLE)
LINK = Link(1, "eth0", bytes(6), 1500, True)


def test_it_is_a_mapping_lowest_kind_first() -> None:
    table = FactTable()
    assert table.set(Route.KIND, ROUTE.key, ROUTE) is None
    assert table.set(Link.KIND, LINK.key, LINK) is None
    assert list(table.items()) == [((Link.KIND, LINK.key), LINK), ((Route.KIND, ROUTE.key), ROUTE)]
    assert (Route.KIND, ROUTE.key) in table
    assert (Route.KIND, b"x") not in table
    assert len(table) == 2


def test_a_kind_is_a_live_view() -> None:
    table = FactTable()
    assert dict(table.of(ShedRoutes.KIND)) == {}
    table.set(Route.KIND, ROUTE.key, ROUTE)
    routes = table.of(Route.KIND)
    assert table.pop(Route.KIND, ROUTE.key) == ROUTE
    assert table.pop(Route.KIND, ROUTE.key) is None
    assert table.pop(ShedRoutes.KIND, b"") is None
    assert not routes

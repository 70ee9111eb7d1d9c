"""Networks in memory for tests of the whole controller, and what is looked at in their switches."""

from __future__ import annotations

from tests.unit.app.network import World, mac
from xenflow.model import Hop, Neighbor, Route, RouteKind, pack_prefix
from xenflow_app import switching
from xenflow_app.pipeline import Kind

RING = (("a", 1, "b", 1), ("b", 2, "c", 1), ("c", 2, "a", 2))
GATEWAY = bytes([10, 0, 0, 2])


def route(prefix: str, *hops: Hop) -> Route:
    return Route(pack_prefix(prefix), RouteKind.UNICAST, hops)


def small() -> World:
    world = World("a")
    world.network("left", 10)
    world.network("right", 20)
    router = world.router("a", "r1", {"left": "10.0.0.1/24", "right": "10.0.1.1/24"})
    router.put(route("10.0.0.0/24", Hop(1)))
    router.put(route("10.9.0.0/16", Hop(1, GATEWAY)))
    router.put(Neighbor(1, GATEWAY, mac(77)))
    world.host("a", "h1", "right", bytes([10, 0, 1, 9]), 200)
    world.start()
    return world


def ring() -> World:
    world = World("abc", RING)
    world.network("core", 30)
    world.router("a", "r1", {"core": "10.0.0.1/24"}, 101)
    world.router("b", "r2", {"core": "10.0.0.2/24"}, 111)
    world.host("c", "h1", "core", bytes([10, 0, 0, 9]), 200)
    world.start()
    return world


def flows(world: World) -> dict[str, dict[bytes, bytes]]:
    return {name: dict(server.switch.flows) for name, server in world.servers.items()}


def of_kind(world: World, name: str, kind: Kind) -> dict[bytes, bytes]:
    return {key: value for key, value in world.servers[name].switch.flows.items() if value[2] == kind}


def trees(world: World, vid: int) -> set[tuple[str, int]]:
    """Trunk ports that the switches let into the network's tree."""
    return {(n, p) for n, p in world.cables if switching.gate_key(vid, p) in world.servers[n].switch.flows}

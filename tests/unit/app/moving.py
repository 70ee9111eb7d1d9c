"""A small network in memory with a router that moves from node a to node b, and what tests of moves ask of it."""

from __future__ import annotations

from tests.unit.app.network import World, mac
from xenflow.announcement import Announcement, build
from xenflow.model import Hop, Machine, Neighbor, Route, RouteKind, pack_prefix
from xenflow.replica import Outbox
from xenflow.wire import Announce, Define, Message, Progress
from xenflow_app import disguise, pipeline
from xenflow_app.openflow import nxm
from xenflow_app.openflow.values import PacketIn
from xenflow_app.pipeline import Table

RING = (("a", 1, "b", 1), ("b", 2, "c", 1), ("c", 2, "a", 2))
GATEWAY = bytes([10, 0, 0, 9])
FIRST = mac(101)


def world(*, reactive: bool = False) -> World:
    """r1 on node a, in two networks, with a neighbor on node c; the target is b."""
    world = World("abc", RING, reactive)
    world.network("core", 30)
    world.network("edge", 40)
    router = world.router("a", "r1", {"core": "10.0.0.1/24", "edge": "10.0.1.1/24"}, 101)
    router.put(Route(pack_prefix("10.9.0.0/16"), RouteKind.UNICAST, (Hop(1, GATEWAY),)))
    router.put(Neighbor(1, GATEWAY, mac(200)))
    world.host("c", "h1", "core", GATEWAY, 200)
    world.start()
    return world


def told(world: World, node: str, kind: type[Message]) -> list[Message]:
    return [message for message in world.servers[node].told if type(message) is kind]


def answer(world: World, node: str, number: int, error: str = "") -> None:
    peer = world.servers[node].peer
    assert peer is not None
    world.controller.peer_message(peer, Progress(number, True, error), world.now)
    world.settle()


def number_of(world: World) -> int:
    for node in "ab":
        router = world.controller.nodes[node].routers.get("r1")
        if router is not None:
            return router.number
    raise AssertionError("no r1")


def of_router(world: World, node: str, number: int) -> dict[bytes, bytes]:
    flows = world.servers[node].switch.flows
    return {key: value for key, value in flows.items() if int.from_bytes(value[4:8], "big") == number}


def entrance(vid: int, address: bytes) -> bytes:
    return nxm.flow_key(Table.LINK, 100, reg0=vid, dl_dst=address)


def disguises(router: int) -> pipeline.Flows:
    """Both interfaces of the router, on a node that routes for it while it moves."""
    return disguise.disguise(30, FIRST, router) | disguise.disguise(40, mac(102), router)


def way(world: World, node: str) -> bytes:
    return world.servers[node].switch.flows[nxm.flow_key(Table.EGRESS, 100, reg0=30, dl_dst=FIRST)][12:]


def begin(world: World) -> int:
    assert world.controller.moves.start("r1", "b") == ""
    world.controller.tick(world.now)
    world.settle()
    (define,) = told(world, "b", Define)
    assert isinstance(define, Define)
    return define.number


def machine(world: World) -> Machine:
    found = (
        world.servers["a"].node.facts.of(Machine.KIND).get(b"r1")
        or world.servers["b"].node.facts.of(Machine.KIND)[b"r1"]
    )
    assert isinstance(found, Machine)
    return found


def carry(world: World) -> Outbox:
    """The VM goes from a to b; its client has not reported yet."""
    definition = machine(world)
    outbox = world.unplug("a", "r1", moved=True)
    world.plug("b", definition, 301)
    return outbox


def announce(world: World, key: bytes | None = None, *, node: str = "b", first_port: int = 301, epoch: int = 0) -> None:
    """The client announces itself at both vifs of the node, as it was asked there last."""
    asked = told(world, node, Announce)[-1]
    assert isinstance(asked, Announce)
    for number in (1, 2):
        said = Announcement(mac(100 + number), bytes([10, 0, number - 1, 1]), epoch or asked.epoch)
        frame = build(said, key or asked.key)
        world.say(node, PacketIn(Table.ADMISSION, 0, 1, first_port + number - 1, (0,) * 8, frame, len(frame)))


def finish(world: World) -> None:
    world.run(2.0)


def state(world: World) -> str:
    moves = world.controller.moves
    return moves.under_way["r1"].state if "r1" in moves.under_way else moves.ended[-1].state

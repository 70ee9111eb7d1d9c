"""The whole server in memory: a model of the database, a client and an app at the ends of streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import clock
from tests.fakes.ovsdb import FakeDatabase
from tests.fakes.stream import RESET, FakeStream, pair
from xenflow.errors import RemoteProtocolError
from xenflow.identity import Identity
from xenflow.model import (
    Fact,
    Hop,
    Interface,
    Link,
    Machine,
    MachineKind,
    Neighbor,
    Port,
    Route,
    RouteKind,
    mac_text,
    pack_prefix,
)
from xenflow.replica import Inbox, Outbox
from xenflow.wire import NODE_SCOPE, Ack, Begin, Close, End, Hello, Message, Problem, Refused, Role, Update
from xenflow_server.book import Book
from xenflow_server.definitions import Definitions, PortDefinition
from xenflow_server.node import NodeScope
from xenflow_server.server import Server
from xenflow_server.settings import OvsTable
from xenflow_server.uplink import Stream

NODE, APP = Identity(Role.NODE, "n1"), Identity(Role.CONTROLLER, "app")
MACS = [bytes([2, 0, 0, 0, 0, n]) for n in range(4)]
ROUTERS = {
    name: Machine(name, MachineKind.ROUTER, (Interface(1, "a", MACS[n]),)) for n, name in enumerate(("r1", "r2"), 1)
}
HOST = Machine("h1", MachineKind.HOST, (Interface(1, "a", MACS[3]),))
DEFINED = Definitions({"a": 10}, {"t1": PortDefinition("t1", True)}, {**ROUTERS, "h1": HOST}, {"r2": 7})
LINK = Link(5, "eth1", MACS[1], 1500, True)
PATIENCE_S = 5.0


def route(text: str) -> Route:
    return Route(pack_prefix(text), RouteKind.UNICAST, (Hop(5, bytes([10, 0, 0, 2])),))


class App:
    """Receives every scope; acknowledges when told to."""

    def __init__(self) -> None:
        self.stream: FakeStream | None = None
        self.scopes: dict[str, Inbox] = {}
        self.closed: list[str] = []
        self.log: list[Message] = []
        self._changed = asyncio.Event()

    async def serve(self, stream: FakeStream) -> None:
        self.stream = stream
        self._changed.set()
        async for message in stream:
            self.log.append(message)
            if isinstance(message, Begin | Update | End):
                self.scopes.setdefault(message.scope, Inbox()).receive(message)
            elif isinstance(message, Close):
                self.scopes.pop(message.scope, None)
                self.closed.append(message.scope)
            self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def in_sync(self, scope: str) -> bool:
        return scope in self.scopes and self.scopes[scope].in_sync

    def has(self, scope: str, fact: Fact) -> bool:
        return scope in self.scopes and self.scopes[scope].facts.get((fact.KIND, fact.key)) == fact

    async def acknowledge(self, scope: str) -> None:
        assert self.stream is not None
        await self.stream.send(Ack(scope, self.scopes[scope].seq))


class World:
    def __init__(self, *, ovs_running: bool = True) -> None:
        self.database = FakeDatabase(running=ovs_running)
        self.app = App()
        self.app_reachable = True
        self.connects = 0
        scope = NodeScope(DEFINED, default_max_routes=0)
        book, ovs = Book(Path("/nowhere"), Path("/nowhere")), OvsTable(rundir=Path("/nowhere"))
        self.server = Server("n1", scope, self.database, self.connect_app, ovs, book)
        self.tasks: list[asyncio.Task[None]] = []

    async def connect_app(self) -> Stream:
        self.connects += 1
        if not self.app_reachable:
            raise ConnectionRefusedError("nobody listens")
        ours, theirs = pair(NODE, APP)
        self.spawn(self.app.serve(theirs))
        return ours

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    def plug(self, machine: Machine) -> None:
        for interface in machine.interfaces:
            name = f"vif-{machine.name}.{interface.number}"
            self.database.add_port(name, {"attached-mac": mac_text(interface.mac)})

    def unplug(self, machine: Machine) -> None:
        for interface in machine.interfaces:
            self.database.remove_port(f"vif-{machine.name}.{interface.number}")


class Client:
    """A router's client that reports what is in its outbox."""

    def __init__(self, world: World, name: str = "r1", *facts: Fact) -> None:
        identity = Identity(Role.ROUTER, name)
        self.welcome = world.server.clients.welcome(Hello(1, Role.ROUTER, name), identity)
        self.stream, theirs = pair(identity, NODE)
        self.serving = world.spawn(world.server.clients.serve(theirs))
        self.outbox = Outbox(name)
        for fact in facts:
            self.outbox.put(fact)
        self.outbox.restart()

    async def report(self, *facts: Fact) -> None:
        for fact in facts:
            self.outbox.put(fact)
        while self.outbox.pending:
            await self.stream.send(*self.outbox.take())

    async def hear(self) -> Message:
        async with asyncio.timeout(PATIENCE_S):
            return await self.stream.__anext__()

    async def hear_nothing_more(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            async for _ in self.stream:
                pass


def tell(story: Callable[[World], Awaitable[None]], *, ovs_running: bool = True) -> None:
    async def run() -> None:
        world = World(ovs_running=ovs_running)
        running = world.spawn(world.server.run())
        try:
            await story(world)
            assert not running.done()
        finally:
            for task in world.tasks:
                task.cancel()
            await asyncio.gather(*world.tasks, return_exceptions=True)

    clock.run(run())


def refusal(world: World, hello: Hello, peer: Identity) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        world.server.clients.welcome(hello, peer)
    return caught.value.reason


async def started(world: World) -> None:
    world.database.add_port("t1")
    world.plug(ROUTERS["r1"])
    await world.app.until(lambda: world.app.has(NODE_SCOPE, ROUTERS["r1"]) and world.app.in_sync(NODE_SCOPE))


def test_ports_and_machines_and_routes_reach_the_app() -> None:
    async def story(world: World) -> None:
        await started(world)
        assert not world.app.in_sync("r1")
        assert "r1" not in world.app.scopes  # runs here, but nobody has reported for it
        client = Client(world, "r1", LINK, route("10.1.0.0/16"))
        await client.report()
        await world.app.until(lambda: world.app.in_sync("r1"))
        assert world.app.has("r1", Link(1, "eth1", MACS[1], 1500, True))
        await client.report(route("10.2.0.0/16"))
        expected = Route(pack_prefix("10.2.0.0/16"), RouteKind.UNICAST, (Hop(1, bytes([10, 0, 0, 2])),))
        await world.app.until(lambda: world.app.has("r1", expected))

    tell(story)


def test_installed_comes_back_to_the_client() -> None:
    async def story(world: World) -> None:
        await started(world)
        client = Client(world, "r1", LINK)
        await client.report()
        await world.app.until(lambda: world.app.in_sync("r1"))
        await world.app.acknowledge("r1")
        assert await client.hear() == Ack("r1", client.outbox.last_seq)
        await client.report(Neighbor(5, bytes([10, 0, 0, 9]), b"\xaa" * 6))
        assert await client.hear() == Problem("r1", "refused: the announcement's MAC address")
        assert await client.hear() == Ack("r1", client.outbox.last_seq)
        told = Refused({"router r1: the announcement's MAC address": 1})
        await world.app.until(lambda: told in world.app.log)

    tell(story)


def test_who_is_refused() -> None:
    async def story(world: World) -> None:
        r1 = Identity(Role.ROUTER, "r1")
        assert "does not know its machines yet" in refusal(world, Hello(1, Role.ROUTER, "r1"), r1)
        await started(world)
        assert world.server.clients.welcome(Hello(1, Role.ROUTER, "r1"), r1).max_routes == 0
        assert "not that of router r1" in refusal(world, Hello(1, Role.ROUTER, "r1"), Identity(Role.ROUTER, "r2"))
        assert "only routers" in refusal(world, Hello(1, Role.NODE, "n2"), Identity(Role.NODE, "n2"))
        r2, r9 = Identity(Role.ROUTER, "r2"), Identity(Role.ROUTER, "r9")
        assert "router r2 does not run on node n1" in refusal(world, Hello(1, Role.ROUTER, "r2"), r2)
        assert "no definition of router r9" in refusal(world, Hello(1, Role.ROUTER, "r9"), r9)
        h1 = Identity(Role.ROUTER, "h1")
        assert "no definition of router h1" in refusal(world, Hello(1, Role.ROUTER, "h1"), h1)
        world.plug(ROUTERS["r2"])
        await world.app.until(lambda: world.app.has(NODE_SCOPE, ROUTERS["r2"]))
        assert world.server.clients.welcome(Hello(1, Role.ROUTER, "r2"), r2).max_routes == 7

    tell(story)


def test_open_vswitch_may_come_later() -> None:
    async def story(world: World) -> None:
        world.database.add_port("t1")
        await world.app.until(lambda: world.app.stream is not None)
        assert world.app.log == []  # an empty snapshot would mean: delete everything
        world.database.start()
        await world.app.until(lambda: world.app.in_sync(NODE_SCOPE))

    tell(story, ovs_running=False)


def test_a_newer_connection_replaces_the_older() -> None:
    async def story(world: World) -> None:
        await started(world)
        old = Client(world, "r1", LINK, route("10.1.0.0/16"))
        await old.report()
        await world.app.until(lambda: world.app.in_sync("r1"))
        new = Client(world, "r1", LINK, route("10.2.0.0/16"))
        await old.hear_nothing_more()
        assert "newer connection" in old.stream.reason
        await new.report()
        gone = (Route.KIND, pack_prefix("10.1.0.0/16"))
        await world.app.until(lambda: gone not in world.app.scopes["r1"].facts)
        assert world.app.scopes["r1"].facts.of(Route.KIND).keys() == {pack_prefix("10.2.0.0/16")}
        assert world.app.closed == []

    tell(story)


def test_a_client_that_goes_away_leaves_the_scope_as_it_is() -> None:
    async def story(world: World) -> None:
        await started(world)
        client = Client(world, "r1", LINK, route("10.1.0.0/16"))
        await client.report()
        await world.app.until(lambda: world.app.in_sync("r1"))
        await client.stream.close("gone")
        await asyncio.gather(client.serving)
        again = Client(world, "r1", LINK, route("10.1.0.0/16"))
        seen = len(world.app.log)
        await again.report()
        await again.report(route("10.3.0.0/16"))
        await world.app.until(lambda: len(world.app.log) > seen)
        (only,) = world.app.log[seen:]
        assert isinstance(only, Update)
        assert [fact.key for fact in only.upserts] == [pack_prefix("10.3.0.0/16")]

    tell(story)


def test_a_machine_that_leaves_is_closed() -> None:
    async def story(world: World) -> None:
        await started(world)
        client = Client(world, "r1", LINK)
        await client.report()
        await world.app.until(lambda: world.app.in_sync("r1"))
        world.unplug(ROUTERS["r1"])
        await world.app.until(lambda: world.app.closed == ["r1"])
        assert not world.app.has(NODE_SCOPE, ROUTERS["r1"])
        await client.hear_nothing_more()
        assert client.stream.reason == RESET  # a machine that is gone is sent nothing more, not even why
        assert "router r1 does not run on node n1" in refusal(
            world, Hello(1, Role.ROUTER, "r1"), Identity(Role.ROUTER, "r1")
        )
        world.plug(ROUTERS["r1"])
        await world.app.until(lambda: world.app.has(NODE_SCOPE, ROUTERS["r1"]))
        assert "r1" not in world.app.scopes
        back = Client(world, "r1", LINK)
        await back.report()
        await world.app.until(lambda: world.app.in_sync("r1"))

    tell(story)


def test_an_app_that_comes_back_hears_everything_again() -> None:
    async def story(world: World) -> None:
        await started(world)
        client = Client(world, "r1", LINK, route("10.1.0.0/16"))
        await client.report()
        await world.app.until(lambda: world.app.in_sync("r1"))
        world.app_reachable = False
        first, world.app = world.app, App()
        assert first.stream is not None
        await first.stream.close("restart")
        await client.report(route("10.2.0.0/16"))
        world.app_reachable = True
        await world.app.until(lambda: world.app.in_sync("r1") and world.app.in_sync(NODE_SCOPE))
        assert len(world.app.scopes["r1"].facts.of(Route.KIND)) == 2
        await world.app.acknowledge("r1")
        assert await client.hear() == Ack("r1", client.outbox.last_seq)

    tell(story)


def test_a_client_that_does_not_read_delays_nobody() -> None:
    async def story(world: World) -> None:
        await started(world)
        world.plug(ROUTERS["r2"])
        await world.app.until(lambda: world.app.has(NODE_SCOPE, ROUTERS["r2"]))
        slow, quick = Client(world, "r1", LINK), Client(world, "r2", Link(5, "eth1", MACS[2], 1500, True))
        await slow.report()
        await quick.report()
        await world.app.until(lambda: world.app.in_sync("r1") and world.app.in_sync("r2"))
        slow.stream.stop_reading()
        for number in range(50):
            await slow.report(route(f"10.{number}.0.0/16"))
            await world.app.acknowledge("r1")
        await world.app.acknowledge("r2")
        assert await quick.hear() == Ack("r2", quick.outbox.last_seq)
        last = pack_prefix("10.49.0.0/16")
        await world.app.until(lambda: last in world.app.scopes["r1"].facts.of(Route.KIND))
        await world.app.acknowledge("r1")
        slow.stream.resume_reading()
        while await slow.hear() != Ack("r1", slow.outbox.last_seq):
            pass

    tell(story)


def test_new_definitions_are_taken_while_running() -> None:
    async def story(world: World) -> None:
        await started(world)
        client = Client(world, "r1", LINK, route("10.1.0.0/16"))
        await client.report()
        await world.app.until(lambda: world.app.in_sync("r1"))
        world.server.redefine(Definitions({"a": 11}, DEFINED.ports, DEFINED.machines, {"r1": 5}))
        await client.hear_nothing_more()
        assert "the cap on routes has changed" in client.stream.reason
        assert Client(world, "r1").welcome.max_routes == 5
        world.server.redefine(Definitions({"a": 11}, {}, {}, {}))
        await world.app.until(lambda: world.app.closed == ["r1"])
        await world.app.until(lambda: not any(isinstance(f, Port) for f in world.app.scopes[NODE_SCOPE].facts.values()))

    tell(story)


def test_bfd_is_wanted_on_trunks_and_a_dead_one_is_told() -> None:
    async def story(world: World) -> None:
        await started(world)
        await world.app.until(lambda: "enable" in world.database.row("t1").bfd)
        world.database.far_end_speaks("t1")
        world.database.far_end_is_silent("t1")

        def dead() -> bool:
            port = world.app.scopes[NODE_SCOPE].facts[Port.KIND, b"t1"]
            return isinstance(port, Port) and not port.alive

        await world.app.until(dead)

    tell(story)


def test_a_drain_sends_what_waits() -> None:
    async def story(world: World) -> None:
        await started(world)
        client = Client(world, "r1", LINK)
        await client.report()
        await world.app.until(lambda: world.app.in_sync("r1"))
        await client.report(route("10.1.0.0/16"))
        await asyncio.sleep(0)
        await world.server.drain()
        await client.hear_nothing_more()
        assert client.stream.reason == "the server stops"
        assert world.app.stream is not None
        assert world.app.stream.reason == "the server stops"

    tell(story)

"""A move as the whole server sees it: definitions, the move, how a router leaves, and announcements to its client."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from tests.fakes.stream import FakeStream
from tests.unit.server.test_server import LINK, ROUTERS, Client, World, started
from xenflow.model import Handed, Interface, Machine, Port, PortKind
from xenflow.wire import (
    NODE_SCOPE,
    Announce,
    Announced,
    CancelMove,
    Close,
    Define,
    Drain,
    Message,
    Move,
    Progress,
    Undefine,
    Update,
)
from xenflow_server.book import Book
from xenflow_server.moving import by_command
from xenflow_server.server import Server
from xenflow_server.settings import OvsTable
from xenflow_server.view import MOVED_MARK

FILE = """
[[network]]
name = "a"
vid = 10
[[port]]
name = "t1"
kind = "trunk"
[[router]]
name = "r1"
interface = [{ mac = "02:00:00:00:00:01", network = "a" }]
"""
MOVE = [sys.executable, "-c", "import sys; print('50%'); sys.exit(0 if sys.argv[2] == 'n2' else 'no such node')"]


class MovingWorld(World):
    """A server with definitions in files, a state directory and a hypervisor that can move."""

    def __init__(self, directory: Path, move: list[str]) -> None:
        super().__init__()
        (directory / "definitions.d").mkdir(exist_ok=True)
        (directory / "definitions.d" / "a.toml").write_text(FILE)
        book = Book(directory / "definitions.d", directory / "state")
        scope = self.server._scope
        scope.redefine(book.start())
        ovs = OvsTable(rundir=Path("/nowhere"))
        self.server = Server("n1", scope, self.database, self.connect_app, ovs, book, by_command(move))

    @property
    def stream(self) -> FakeStream:
        assert self.app.stream is not None
        return self.app.stream

    async def order(self, message: Message) -> None:
        await self.stream.send(message)

    async def hears(self, message: Message) -> None:
        await self.app.until(lambda: message in self.app.log)

    async def error(self, number: int) -> str:
        def found() -> list[str]:
            return [m.error for m in self.app.log if isinstance(m, Progress) and m.number == number and m.done]

        await self.app.until(lambda: bool(found()))
        return found()[0]


def tell(directory: Path, story: Callable[[MovingWorld], Awaitable[None]], move: list[str] = MOVE) -> None:
    async def run() -> None:
        world = MovingWorld(directory, move)
        running = world.spawn(world.server.run())
        try:
            await started(world)
            await story(world)
            assert not running.done()
        finally:
            for task in world.tasks:
                task.cancel()
            await asyncio.gather(*world.tasks, return_exceptions=True)

    asyncio.run(run())


def test_a_router_comes_where_it_was_handed_over(tmp_path: Path) -> None:
    async def story(world: MovingWorld) -> None:
        r2 = msgspec.structs.replace(ROUTERS["r2"], max_routes=7)
        await world.order(Define(1, r2, 7, 3))
        await world.hears(Progress(1, True, "", 100))
        await world.app.until(lambda: world.app.has(NODE_SCOPE, Handed("r2", 3)))
        assert not world.app.has(NODE_SCOPE, r2)  # a definition alone hosts nothing
        world.plug(r2)
        await world.app.until(lambda: world.app.has(NODE_SCOPE, r2))
        assert Client(world, "r2").welcome.max_routes == 7
        await world.order(Undefine(2, "r2", 3))
        assert "runs on node n1: its definition stays" in await world.error(2)
        world.unplug(r2)
        await world.app.until(lambda: not world.app.has(NODE_SCOPE, r2))
        await world.order(Undefine(3, "r2", 3))
        await world.hears(Progress(3, True, "", 100))
        await world.app.until(lambda: not world.app.has(NODE_SCOPE, Handed("r2", 3)))
        world.plug(r2)
        await world.order(Define(4, r2, 7, 4))
        await world.app.until(lambda: world.app.has(NODE_SCOPE, r2))

    tell(tmp_path, story)


def test_a_node_that_is_full_refuses_one_more_router(tmp_path: Path) -> None:
    async def story(world: MovingWorld) -> None:
        world.server._orders._max_routers = 2
        world.plug(ROUTERS["r1"])
        await world.app.until(lambda: world.app.has(NODE_SCOPE, ROUTERS["r1"]))
        await world.order(Define(1, ROUTERS["r2"], 0, 3))
        await world.hears(Progress(1, True, "", 100))
        third = Machine("r3", ROUTERS["r1"].kind, (Interface(1, "a", bytes([2, 0, 0, 0, 0, 9])),))
        await world.order(Define(2, third, 0, 4))
        assert "node n1 is full: 2 routers run there or are to come" in await world.error(2)
        await world.order(Define(3, ROUTERS["r2"], 0, 5))  # it is counted already
        await world.hears(Progress(3, True, "", 100))
        await world.order(Undefine(4, "r2", 5))
        await world.order(Define(5, third, 0, 6))
        await world.hears(Progress(5, True, "", 100))

    tell(tmp_path, story)


def test_a_definition_that_is_refused(tmp_path: Path) -> None:
    async def story(world: MovingWorld) -> None:
        twin = Machine("r9", ROUTERS["r1"].kind, ROUTERS["r1"].interfaces)
        await world.order(Define(1, twin, 0, 1))
        assert "mac is that of" in await world.error(1)

    tell(tmp_path, story)


def test_a_trunk_is_drained_by_order_and_the_port_says_so(tmp_path: Path) -> None:
    async def story(world: MovingWorld) -> None:
        world.database.add_port("t1")
        free = Port("t1", world.database.row("t1").number, PortKind.TRUNK)
        drained = msgspec.structs.replace(free, drained=True)
        await world.app.until(lambda: world.app.has(NODE_SCOPE, free))
        await world.order(Drain(1, "t1", True))
        await world.hears(Progress(1, True, "", 100))
        await world.app.until(lambda: world.app.has(NODE_SCOPE, drained))
        assert world.stream is not None
        await world.stream.close("the app starts anew")
        await world.app.until(lambda: world.connects > 1 and world.app.has(NODE_SCOPE, drained))
        await world.order(Drain(2, "t1", False))
        await world.app.until(lambda: world.app.has(NODE_SCOPE, free))
        for number, port in ((3, "t2"), (4, "vif-r1.1")):
            await world.order(Drain(number, port, True))
            assert "is no trunk" in await world.error(number)

    tell(tmp_path, story)


def test_moves(tmp_path: Path) -> None:
    async def story(world: MovingWorld) -> None:
        await world.order(Move(1, "r1", "n2"))
        await world.hears(Progress(1, True, "", 100))
        assert Progress(1, False, "", 50) in world.app.log
        for number, name, target, reason in (
            (2, "r1", "n3", "no such node"),
            (3, "r2", "n2", "does not run on node n1"),
            (4, "r1", "n1", "not another node's name"),
            (5, "r1", "--now", "not another node's name"),
        ):
            await world.order(Move(number, name, target))
            assert reason in await world.error(number)
        await world.order(CancelMove(6))
        assert "no move has the number 6" in await world.error(6)

    tell(tmp_path, story)


def test_a_hypervisor_that_cannot_move(tmp_path: Path) -> None:
    async def story(world: MovingWorld) -> None:
        await world.order(Move(1, "r1", "n2"))
        assert await world.error(1) == "this node's hypervisor cannot move machines: set [hypervisor] move"

    tell(tmp_path, story, move=[])


def test_how_a_move_ended_is_told_when_the_app_is_back(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    async def story(world: MovingWorld) -> None:
        world.app_reachable = False
        await world.order(Move(1, "r1", "n2"))
        await world.hears(Progress(1, False, "", 50))
        await world.stream.close("restart")
        await asyncio.to_thread(gate.write_text, "end")
        first, world.app = world.app, type(world.app)()
        world.app_reachable = True
        await world.hears(Progress(1, True, "", 100))
        assert Progress(1, True, "", 100) not in first.log

    tell(tmp_path, story, move=[sys.executable, "-c", f"print('50%', flush=True); open({str(gate)!r}).read()"])


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("marked", [True, False])
def test_moved_or_destroyed(tmp_path: Path, marked: bool, together: bool) -> None:
    async def story(world: MovingWorld) -> None:
        client = Client(world, "r1", LINK)
        await client.report()
        await world.app.until(lambda: world.app.in_sync("r1"))
        if marked:
            world.database.set_external_ids("vif-r1.1", {MOVED_MARK: "n2"})
        if not together:
            for _ in range(20):  # the server's tasks see the mark by itself
                await asyncio.sleep(0)
        world.unplug(ROUTERS["r1"])
        await world.hears(Close("r1", moved=marked))
        await world.app.until(lambda: not world.app.has(NODE_SCOPE, ROUTERS["r1"]))
        if marked:  # said before, so that nobody takes it for destroyed
            gone = [isinstance(m, Update) and bool(m.withdrawals) for m in world.app.log].index(True)
            assert world.app.log.index(Close("r1", moved=True)) < gone
        world.plug(ROUTERS["r1"])  # and back; the next end is a new one
        await world.app.until(lambda: world.app.has(NODE_SCOPE, ROUTERS["r1"]))
        world.unplug(ROUTERS["r1"])
        await world.app.until(lambda: Close("r1") in world.app.log[-3:])

    tell(tmp_path, story)


def test_the_last_of_several_interfaces_to_go(tmp_path: Path) -> None:
    async def story(world: MovingWorld) -> None:
        for name in ("vif-r1.1", "vif-r1.1-emu"):
            world.database.add_port(name, {"attached-mac": "02:00:00:00:00:01", MOVED_MARK: "n2"})
        world.database.remove_port("vif-r1.1")
        world.database.remove_port("vif-r1.1-emu")
        await world.hears(Close("r1", moved=True))

    tell(tmp_path, story)


def test_announcements_reach_the_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: MovingWorld) -> None:
        caplog.set_level("INFO")
        await world.order(Announce("r1", 4, b"secret"))
        async with asyncio.timeout(5):
            while "Announce of epoch 4 dropped" not in caplog.text:
                await asyncio.sleep(0)
        client = Client(world, "r1", LINK)
        await client.report()
        await world.app.until(lambda: world.app.in_sync("r1"))
        for message in (Announce("r1", 4, b"secret"), Announced("r1", 4), Announce("r1", 5, b"other")):
            await world.order(message)
            assert await client.hear() == message
        assert "secret" not in caplog.text

    tell(tmp_path, story)

"""What qos-controller's socket makes of a server's messages: whole plans, and when they are acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest

from qos_controller.config import Settings
from qos_controller.controller import Controller
from qos_controller.door import Door
from qos_controller.link import Link, Standing
from qos_controller.store import Store
from tests.fakes.trafficcontrol import FakeKernel
from xenflow.bandwidth import PortQueues, Queue
from xenflow.replica import Outbox
from xenflow.wire import QUEUES_SCOPE, Ack, Begin, End, Message, Problem

M = 10**6
PLAN = [PortQueues(port, 100 * M, (Queue(8, "red", "", 20 * M),)) for port in ("p1", "p2")]


class FakeDatabase:
    """Takes plans, and has no bridge."""

    def __init__(self) -> None:
        self.wanted: list[set[str]] = []

    def want(self, wanted: dict[str, PortQueues]) -> None:
        self.wanted.append(set(wanted))


class FakeChannel:
    """A server that says what is put into `said`, and hears what is in `heard`."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[Message | None] = asyncio.Queue()
        self.heard: list[Message] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[None, None, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def send(self, message: Message) -> None:
        self.heard.append(message)

    async def __aiter__(self) -> AsyncIterator[Message]:
        while (message := await self.said.get()) is not None:
            yield message


class World:
    def __init__(self, directory: Path) -> None:
        self.database = FakeDatabase()
        self.controller = Controller(FakeKernel(), self.database, Settings(), lambda: 0.0)  # type: ignore[arg-type]
        self.door = Door(self.controller, Store(directory), lambda: 0.0)
        self.door.start()
        self.outbox = Outbox(QUEUES_SCOPE)
        for fact in PLAN:
            self.outbox.put(fact)
        self.outbox.restart()

    def play(self, scenario: Callable[[FakeChannel], Coroutine[None, None, None]]) -> None:
        async def inside() -> None:
            channel = FakeChannel()
            serving = asyncio.create_task(self.door.serve(channel))  # type: ignore[arg-type]
            await scenario(channel)
            channel.said.put_nowait(None)
            await serving
            for task in channel.tasks:
                task.cancel()
            await asyncio.gather(*channel.tasks, return_exceptions=True)

        asyncio.run(inside())


@pytest.mark.parametrize("damaged", [False, True])
def test_the_first_plan_without_one_on_disk_is_a_whole_one(tmp_path: Path, damaged: bool) -> None:
    if damaged:
        (tmp_path / "qos.json").write_text("{")
    world = World(tmp_path)
    assert not world.controller.has_plan

    async def scenario(channel: FakeChannel) -> None:
        messages = world.outbox.take()
        assert isinstance(messages[0], Begin)
        assert isinstance(messages[-1], End)
        for message in messages[:-1]:
            channel.said.put_nowait(message)
        await until(channel.said.empty)
        assert not world.controller.has_plan
        channel.said.put_nowait(messages[-1])
        await until(lambda: world.controller.has_plan)
        world.door._installed(1)
        await until(lambda: Ack(QUEUES_SCOPE, world.outbox.last_seq) in channel.heard)

    world.play(scenario)
    assert world.database.wanted == [{"p1", "p2"}]
    assert [fact.port for fact in Store(tmp_path).load().links] == ["p1", "p2"]


def test_a_plan_on_disk_holds_until_the_server_has_said_all(tmp_path: Path) -> None:
    Store(tmp_path).save([*PLAN, PortQueues("p3", M)], "netdev")
    world = World(tmp_path)
    assert world.controller.has_plan

    async def scenario(channel: FakeChannel) -> None:
        for message in world.outbox.take():
            channel.said.put_nowait(message)
        await until(channel.said.empty)

    world.play(scenario)
    assert world.database.wanted[0] == {"p1", "p2", "p3"}
    assert world.database.wanted[-1] == {"p1", "p2"}


def test_a_refusal_is_told_once_without_an_acknowledgement(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def scenario(channel: FakeChannel) -> None:
        for message in world.outbox.take():
            channel.said.put_nowait(message)
        await until(lambda: world.controller.has_plan)
        link = world.controller.links["p1"] = Link(3, 1.0)
        link.stand(Standing.REFUSED, "the kernel refused it", is_tried_again=True)
        for _ in range(2):
            world.controller.on_looked()
        await until(lambda: channel.heard)
        assert channel.heard == [Problem(QUEUES_SCOPE, "p1: the kernel refused it")]

    world.play(scenario)


async def until(condition: Callable[[], object]) -> None:
    """Let the others work until `condition` holds."""
    for _ in range(1000):
        if condition():
            await asyncio.sleep(0)
            return
        await asyncio.sleep(0)
    raise AssertionError("never came about")

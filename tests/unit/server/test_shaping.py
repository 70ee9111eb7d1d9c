"""The plan of queues on its way from the app to the qos-controller, and acknowledgements on the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from tests.fakes.stream import FakeStream, pair
from xenflow.bandwidth import PortQueues, Queue
from xenflow.identity import Identity
from xenflow.model import Fact
from xenflow.replica import Inbox, Outbox
from xenflow.wire import QUEUES_SCOPE, Ack, Answer, Begin, End, Message, Query, Role, Update
from xenflow_server.shaping import Shaping

SERVER, DAEMON = Identity(Role.OPERATOR, "n1"), Identity(Role.NODE, "n1")


def port(name: str, hired: int) -> PortQueues:
    return PortQueues(name, 100_000_000, (Queue(8, "r1", "", hired),))


class World:
    """An app that says what queues there are, a server's relay, and a qos-controller that takes them in."""

    def __init__(self) -> None:
        self.outbox = Outbox(QUEUES_SCOPE)
        self.heard: list[Message] = []
        self.shaping = Shaping("n1", self.connect, self.heard.append)
        self.plan = Inbox(QUEUES_SCOPE)
        self.daemon: FakeStream | None = None
        self.answers = True

    async def connect(self) -> FakeStream:
        if not self.answers:
            raise ConnectionRefusedError("nobody there")
        ours, self.daemon = pair(SERVER, DAEMON)
        self.plan.suspend()
        return ours

    def app_says(self, facts: Iterable[Fact], *, again: bool = False) -> None:
        self.outbox.replace(facts)
        if again:
            self.shaping.app_away()
            self.outbox.restart()
        for message in self.outbox.take():
            assert isinstance(message, Begin | Update | End)
            self.shaping.take_in(message)

    async def daemon_reads(self, *, until_in_sync: bool = True) -> None:
        async with asyncio.timeout(5):
            while True:
                while self.daemon is None:
                    await asyncio.sleep(0)
                message = await anext(self.daemon)
                if isinstance(message, Query):
                    await self.daemon.send(Answer(message.number, b"{}"))
                    return
                assert isinstance(message, Begin | Update | End)
                change = self.plan.receive(message)
                if not isinstance(message, Begin):
                    await self.daemon.send(Ack(QUEUES_SCOPE, change.seq))
                if self.plan.in_sync or not until_in_sync:
                    return

    async def app_hears(self, message: Message) -> None:
        async with asyncio.timeout(5):
            while message not in self.heard:
                await asyncio.sleep(0)


def planned(world: World) -> dict[bytes, Fact]:
    return dict(world.plan.facts.of(PortQueues.KIND))


@pytest.fixture
def world() -> World:
    return World()


def test_a_plan_is_passed_on_and_acknowledged(world: World) -> None:
    async def story() -> None:
        running = asyncio.create_task(world.shaping.uplink.run())
        world.app_says([port("t1", 20), port("t2", 30)], again=True)
        await world.daemon_reads()
        assert planned(world) == {b"t1": port("t1", 20), b"t2": port("t2", 30)}
        await world.app_hears(Ack(QUEUES_SCOPE, world.outbox.last_seq))
        world.app_says([port("t2", 40)])
        await world.daemon_reads()
        assert planned(world) == {b"t2": port("t2", 40)}
        await world.app_hears(Ack(QUEUES_SCOPE, world.outbox.last_seq))
        running.cancel()

    asyncio.run(story())


def test_a_qos_controller_that_starts_anew_is_told_everything(world: World) -> None:
    async def story() -> None:
        running = asyncio.create_task(world.shaping.uplink.run())
        world.app_says([port("t1", 20)], again=True)
        await world.daemon_reads()
        assert world.daemon is not None
        stream, world.daemon, world.plan = world.daemon, None, Inbox(QUEUES_SCOPE)
        stream.abort("killed")
        world.app_says([port("t1", 25)])
        await world.daemon_reads()
        assert planned(world) == {b"t1": port("t1", 25)}
        await world.app_hears(Ack(QUEUES_SCOPE, world.outbox.last_seq))
        running.cancel()

    asyncio.run(story())


def test_half_a_plan_is_not_passed_on(world: World) -> None:
    async def story() -> None:
        running = asyncio.create_task(world.shaping.uplink.run())
        world.outbox.replace([port("t1", 20)])
        world.outbox.restart()
        *most, end = world.outbox.take()
        for message in most:
            assert isinstance(message, Begin | Update)
            world.shaping.take_in(message)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not world.shaping.pending or world.daemon is None or world.daemon._arrived.empty()
        assert isinstance(end, End)
        world.shaping.take_in(end)
        await world.daemon_reads()
        assert planned(world) == {b"t1": port("t1", 20)}
        running.cancel()

    asyncio.run(story())


def test_the_same_plan_again_is_acknowledged_without_a_word_to_the_daemon(world: World) -> None:
    async def story() -> None:
        running = asyncio.create_task(world.shaping.uplink.run())
        world.app_says([port("t1", 20)], again=True)
        await world.daemon_reads()
        await world.app_hears(Ack(QUEUES_SCOPE, world.outbox.last_seq))
        world.app_says([port("t1", 20)], again=True)
        await world.app_hears(Ack(QUEUES_SCOPE, world.outbox.last_seq))
        running.cancel()

    asyncio.run(story())


def test_questions_are_answered_or_told_why_not(world: World) -> None:
    async def story() -> None:
        world.answers = False
        running = asyncio.create_task(world.shaping.uplink.run())
        world.shaping.take_in(Query(7, "qos"))
        (refused,) = world.heard
        assert isinstance(refused, Answer)
        assert refused.number == 7
        assert "no connection to its qos-controller" in refused.error
        world.answers = True
        world.app_says([port("t1", 20)], again=True)
        await world.daemon_reads()
        world.shaping.take_in(Query(8, "qos"))
        await world.daemon_reads()
        await world.app_hears(Answer(8, b"{}"))
        running.cancel()

    asyncio.run(story())

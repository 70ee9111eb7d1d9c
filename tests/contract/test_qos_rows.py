"""Rows of queues in a real database: only differences, one transaction for each change, nobody else's rows touched."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from qos_controller.database import Database
from qos_controller.rows import MARK, TYPE, BridgeRows, has_row
from tests.private_qos import BRIDGE, DEADLINE_S, QosNode
from xenflow.bandwidth import PortQueues, Queue

pytestmark = [pytest.mark.root, pytest.mark.ovs]
M = 10**6


@pytest.fixture
def node() -> Iterator[QosNode]:
    with tempfile.TemporaryDirectory(prefix="xq", ignore_cleanup_errors=True) as directory:
        made = QosNode(Path(directory))
        try:
            made.start()
            yield made
        finally:
            made.stop()


def plan(port: str, *hired: int) -> PortQueues:
    queues = tuple(Queue(8 * number, f"r{number}", "", rate) for number, rate in enumerate(hired, start=1))
    return PortQueues(port, 100 * M, queues)


class Watcher:
    """A database at work, and what it has told."""

    def __init__(self, node: QosNode) -> None:
        self.database = Database(f"unix:{node.directory}/db.sock", BRIDGE)
        self.seen: list[BridgeRows] = []
        self._news = asyncio.Event()

    def want(self, *facts: PortQueues) -> None:
        self.database.want({fact.port: fact for fact in facts})

    def take(self, found: BridgeRows) -> None:
        self.seen.append(found)
        self._news.set()

    async def until(self, condition: Callable[[BridgeRows], object]) -> BridgeRows:
        async with asyncio.timeout(DEADLINE_S):
            while not (self.seen and condition(self.seen[-1])):
                self._news.clear()
                await self._news.wait()
        return self.seen[-1]


def watch(node: QosNode, scene: Callable[[Watcher], Awaitable[None]]) -> None:
    async def inside() -> None:
        watcher = Watcher(node)
        running = asyncio.create_task(watcher.database.run(watcher.take))
        try:
            await scene(watcher)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            watcher.database.close()

    asyncio.run(inside())


def rates(found: BridgeRows, port: str) -> dict[int, str]:
    qos = found.qos.get(found.ports.get(port, ""))
    return (
        {}
        if qos is None
        else {queue: found.queues[name].other_config["min-rate"] for queue, name in qos.queues.items()}
    )


def transactions(node: QosNode) -> int:
    """Return how many changes of QoS and Queue rows the database has on disk."""
    records = (json.loads(line) for line in (node.directory / "conf.db").read_text().splitlines() if line[:1] == "{")
    return sum("Queue" in record or "QoS" in record for record in records)


def test_each_change_is_one_transaction_and_nothing_is_written_twice(node: QosNode) -> None:
    async def scene(watcher: Watcher) -> None:
        watcher.want(plan("p1", 20, 40), plan("p2", 10))
        found = await watcher.until(lambda found: has_row(found, "p1", BRIDGE) and has_row(found, "p2", BRIDGE))
        assert rates(found, "p1") == {8: "20", 16: "40"}
        assert {row.type for row in found.qos.values()} == {TYPE}
        kept = found.qos[found.ports["p1"]].queues[8]
        watcher.want(plan("p1", 20, 40), plan("p2", 10))
        watcher.want(plan("p1", 20, 50, 60), plan("p2", 10))
        found = await watcher.until(lambda found: rates(found, "p1") == {8: "20", 16: "50", 24: "60"})
        assert found.qos[found.ports["p1"]].queues[8] == kept
        watcher.want(plan("p1", 20))
        await watcher.until(lambda found: len(found.queues) == 1 and len(found.qos) == 1)

    before = transactions(node)
    watch(node, scene)
    assert transactions(node) - before == 3


def test_rows_that_were_left_over_are_collected_and_taken_over(node: QosNode) -> None:
    async def first(watcher: Watcher) -> None:
        watcher.want(plan("p1", 20), plan("p2", 10))
        await watcher.until(lambda found: has_row(found, "p1", BRIDGE) and has_row(found, "p2", BRIDGE))

    async def second(watcher: Watcher) -> None:
        watcher.want(plan("p1", 20))
        found = await watcher.until(lambda found: len(found.qos) == 1 and len(found.queues) == 1)
        assert rates(found, "p1") == {8: "20"}

    watch(node, first)
    watch(node, second)


def test_rows_of_others_stay(node: QosNode) -> None:
    other = ["create", "queue", "other-config:min-rate=7"]
    node.vsctl("--", "--id=@u", *other, f"external-ids:{MARK}=another", "--", "set", "port", "p1", "qos=@q",
               "--", "--id=@q", "create", "qos", "type=linux-noop", "queues:3=@u")  # fmt: skip

    async def scene(watcher: Watcher) -> None:
        watcher.want(plan("p1", 20), plan("p2", 10))
        found = await watcher.until(lambda found: has_row(found, "p2", BRIDGE))
        assert rates(found, "p1") == {3: "7"}
        watcher.want()
        found = await watcher.until(lambda found: not has_row(found, "p2", BRIDGE) and len(found.qos) == 1)
        assert rates(found, "p1") == {3: "7"}

    watch(node, scene)


def test_a_port_that_comes_later_gets_its_row_then(node: QosNode) -> None:
    node.add_device("p3")

    async def scene(watcher: Watcher) -> None:
        watcher.want(plan("p3", 20))
        await watcher.until(lambda found: found.exists)
        await asyncio.to_thread(node.vsctl, "add-port", BRIDGE, "p3")
        await watcher.until(lambda found: has_row(found, "p3", BRIDGE))

    watch(node, scene)


def test_the_database_may_start_anew(node: QosNode) -> None:
    async def scene(watcher: Watcher) -> None:
        watcher.want(plan("p1", 20))
        await watcher.until(lambda found: has_row(found, "p1", BRIDGE))
        await asyncio.to_thread(node.stop_ovs, "ovsdb-server")
        watcher.want(plan("p1", 30))
        await asyncio.to_thread(node.start_database)
        await watcher.until(lambda found: rates(found, "p1") == {8: "30"})

    watch(node, scene)

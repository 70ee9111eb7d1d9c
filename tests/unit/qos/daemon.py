"""The daemon with a kernel and a database in memory, and a clock that is moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping

from qos_controller import rows
from qos_controller.config import Settings
from qos_controller.controller import Controller
from qos_controller.link import Link, Standing
from qos_controller.rows import BridgeRows
from tests.fakes.trafficcontrol import FakeKernel
from xenflow.bandwidth import PortQueues, Queue, Selector

M = 10**6
BRIDGE = "xenbr0"


class FakeDatabase:
    """Rows that become what is wanted at once, unless `is_away`."""

    def __init__(self, *ports: str) -> None:
        self.rows = BridgeRows(True, "netdev", dict.fromkeys(ports, ""))
        self.wanted: Mapping[str, PortQueues] = {}
        self.is_away = False
        self.transactions = 0
        self._poke = asyncio.Event()

    def want(self, wanted: Mapping[str, PortQueues]) -> None:
        self.wanted = wanted
        self._poke.set()

    def change(self, found: BridgeRows) -> None:
        self.rows = found
        self._poke.set()

    def close(self) -> None:
        pass

    async def run(self, on_rows: Callable[[BridgeRows], None]) -> None:
        known = None
        while True:
            if not self.is_away:
                changes = rows.plan_rows(self.wanted, self.rows, BRIDGE)
                self.transactions += bool(changes)
                self.rows = rows.apply(changes, self.rows, BRIDGE)
                if self.rows != known:
                    known = self.rows
                    on_rows(self.rows)
            await self._poke.wait()
            self._poke.clear()


class World:
    """A controller at work; its clock is moved by hand, and each tick of it is a measurement."""

    def __init__(self, *ports: str, away: bool = False, t_med_s: float = 0.05) -> None:
        self.kernel, self.database = FakeKernel(), FakeDatabase(*ports)
        self.database.is_away = away
        for port in ports:
            self.kernel.add(port)
        self.now_s = 0.0
        self.installed: list[int] = []
        settings = Settings(t_med_s=t_med_s, k_med=2)
        self.controller = Controller(self.kernel, self.database, settings, lambda: self.now_s)  # type: ignore[arg-type]
        self.controller.on_installed = self.installed.append

    def link(self, port: str) -> Link:
        return self.controller.links[port]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Let the clock run until `condition` holds."""
        for _ in range(400):
            if condition():
                return
            self.now_s += 0.05
            await asyncio.sleep(0.001)
        raise AssertionError(f"still not: {what}")

    async def measured(self, times: int = 3) -> None:
        """Let the clock run for that many measurements."""
        end_s = self.now_s + 0.05 * times + 0.01
        await self.until(lambda: self.now_s > end_s, "time passed")

    async def shaped(self, *ports: str) -> None:
        for port in ports:
            await self.until(
                lambda port=port: port in self.controller.links and self.link(port).standing is Standing.SHAPED,  # type: ignore[misc]
                f"{port} is shaped",
            )


def plan(port: str = "p1", capacity: int = 100 * M, *hired: int) -> PortQueues:
    queues = tuple(
        Queue(8 * number, f"r{number}", "", rate, selectors=(Selector(100 + number),))
        for number, rate in enumerate(hired or (20 * M, 40 * M), start=1)
    )
    return PortQueues(port, capacity, queues)


def play(world: World, scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    async def both() -> None:
        working = asyncio.create_task(world.controller.run())
        scene = asyncio.create_task(scenario())
        done, _ = await asyncio.wait({working, scene}, return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        scene.cancel()
        await asyncio.gather(working, scene, return_exceptions=True)
        for task in done:
            task.result()

    asyncio.run(both())


def world_of(*ports: str, away: bool = False) -> World:
    return World(*ports, away=away)

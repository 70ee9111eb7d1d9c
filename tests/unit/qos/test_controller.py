"""The daemon's loop against a kernel and a database in memory: what it writes, what it leaves, how it recovers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping

import pytest

from qos_controller import controller, rows
from qos_controller.config import Settings
from qos_controller.controller import Controller
from qos_controller.decision import PolicyKind
from qos_controller.link import Link, Standing
from qos_controller.plan import LINK_MINOR
from qos_controller.rows import MARK, TYPE, BridgeRows, QosRow
from qos_controller.rtnl import Counters
from qos_controller.tree import DEFAULT_MINOR, NODE_MINOR, OUR_ROOT, PutClass, PutProgram, Root, Tree
from tests.fakes.trafficcontrol import NO_ROOT, FakeKernel
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


def test_a_plan_is_carried_out_and_acknowledged() -> None:
    world = world_of("p1")

    async def scenario() -> None:
        world.controller.want([plan()], token=7)
        await world.until(lambda: 7 in world.installed, "acknowledged")
        tree = world.kernel.devices["p1"].tree
        assert tree.root == OUR_ROOT
        assert set(tree.classes) == {LINK_MINOR, DEFAULT_MINOR, NODE_MINOR, 9, 17}
        assert tree.classes[9].quantum * 2 == tree.classes[17].quantum
        assert tree.programs

    play(world, scenario)


def test_nothing_is_written_when_nothing_changes() -> None:
    world = world_of("p1")

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.shaped("p1")
        await world.measured(5)
        written = list(world.kernel.devices["p1"].written)
        world.controller.want([plan()])
        await world.measured(20)
        assert world.kernel.devices["p1"].written == written
        assert world.database.transactions == 1

    play(world, scenario)


def test_classes_that_somebody_changes_are_put_right() -> None:
    world = world_of("p1")

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.shaped("p1")
        await world.measured(5)
        device = world.kernel.devices["p1"]
        right = device.tree
        spoilt = {minor: item for minor, item in right.classes.items() if minor != 9}
        device.tree = Tree(OUR_ROOT, spoilt, ())
        await world.until(lambda: device.tree == right, "put right")

    play(world, scenario)


def test_a_device_that_comes_anew_is_shaped_anew() -> None:
    world = world_of("p1")

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.shaped("p1")
        right = world.kernel.devices["p1"].tree
        del world.kernel.devices["p1"]
        await world.until(lambda: world.link("p1").standing is Standing.WAITING, "noticed")
        assert world.link("p1").why == "no such device"
        world.kernel.add("p1")
        await world.until(lambda: world.kernel.devices["p1"].tree == right, "shaped anew")

    play(world, scenario)


@pytest.mark.parametrize("root", [Root("htb", 0x10000, 10, 1), Root("tbf", 0x80010000)])
def test_a_foreign_qdisc_stays(root: Root) -> None:
    world = world_of("p1", "p2")
    world.kernel.devices["p1"].tree = Tree(root)

    async def scenario() -> None:
        world.controller.want([plan("p1"), plan("p2")], token=1)
        await world.until(lambda: world.installed, "acknowledged all the same")
        await world.shaped("p2")
        assert world.link("p1").standing is Standing.REFUSED
        assert "tc qdisc del dev p1 root" in world.link("p1").why
        assert not world.kernel.devices["p1"].written
        world.kernel.devices["p1"].tree = Tree(NO_ROOT)
        await world.shaped("p1")

    play(world, scenario)


def test_a_foreign_qos_row_stays() -> None:
    world = world_of("p1")
    foreign = QosRow("linux-htb", {})
    world.database.rows = BridgeRows(True, "netdev", {"p1": "q"}, {"q": foreign})

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.until(lambda: "p1" in world.controller.links, "looked at")
        await world.until(lambda: world.link("p1").standing is Standing.REFUSED, "refused")
        assert "linux-htb" in world.link("p1").why
        assert world.database.rows.qos == {"q": foreign}
        assert not world.kernel.devices["p1"].written

    play(world, scenario)


def test_nothing_is_written_before_the_row_is_there() -> None:
    world = world_of("p1", away=True)

    async def scenario() -> None:
        world.controller.want([plan()], token=1)
        await world.measured(5)
        assert not world.kernel.devices["p1"].written
        assert not world.installed
        world.database.is_away = False
        world.database.want(world.database.wanted)
        await world.shaped("p1")
        await world.until(lambda: 1 in world.installed, "acknowledged")

    play(world, scenario)


def test_after_a_restart_ours_is_kept_going_without_a_database() -> None:
    first = world_of("p1")

    async def shape() -> None:
        first.controller.want([plan()])
        await first.shaped("p1")

    play(first, shape)
    assert first.controller.datapath_type == "netdev"
    device = first.kernel.devices["p1"]
    written, programs = len(device.written), device.tree.programs
    second = world_of("p1", away=True)
    second.kernel = first.kernel
    settings = Settings(t_med_s=0.05)
    second.controller = Controller(second.kernel, second.database, settings, lambda: second.now_s)  # type: ignore[arg-type]

    second.controller.datapath_type = "netdev"

    async def scenario() -> None:
        device = second.kernel.devices["p1"]
        second.controller.want([plan()])
        await second.shaped("p1")
        assert all(isinstance(each, PutClass) and not each.is_new for each in device.written[written:])
        assert {9, 17} < device.tree.classes.keys()
        assert device.tree.programs == programs

    play(second, scenario)


def test_a_link_that_is_no_longer_planned_is_released() -> None:
    world = world_of("p1", "p2")

    async def scenario() -> None:
        world.controller.want([plan("p1"), plan("p2")])
        await world.shaped("p1", "p2")
        world.controller.want([plan("p2")])
        await world.until(lambda: world.kernel.devices["p1"].tree.root == NO_ROOT, "released")
        assert world.database.rows.ports["p1"] == ""
        assert set(world.controller.links) == {"p2"}

    play(world, scenario)


def test_orphans_of_ours_go_but_not_those_of_another_bridge() -> None:
    world = world_of("p1", "left", "elsewhere")
    for name in ("left", "elsewhere"):
        world.kernel.devices[name].tree = Tree(OUR_ROOT)
    orphan = QosRow(TYPE, {MARK: BRIDGE})
    ports = {"p1": "", "left": ""}
    world.database.rows = BridgeRows(True, "netdev", ports, {"q": orphan}, elsewhere=frozenset({"elsewhere"}))

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.until(lambda: world.kernel.devices["left"].tree.root == NO_ROOT, "collected")
        assert world.kernel.devices["elsewhere"].tree.root == OUR_ROOT
        assert "q" not in world.database.rows.qos

    play(world, scenario)


def test_a_promise_that_cannot_be_kept_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    world = world_of("p1")
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        world.controller.want([plan("p1", 50 * M, 20 * M, 40 * M)])
        await world.shaped("p1")
        await world.measured(10)
        said = [record.message for record in caplog.records if "PROMISE BROKEN" in record.message]
        assert len(said) == 1
        assert "link=p1" in said[0]
        world.controller.want([plan("p1", 100 * M, 20 * M, 40 * M)])
        await world.until(lambda: any("promise kept again" in record.message for record in caplog.records), "mended")

    play(world, scenario)


def test_a_queue_that_htb_cannot_have_is_refused_and_others_go_on() -> None:
    world = world_of("p1", "p2")

    async def scenario() -> None:
        too_large = PortQueues("p1", 100 * M, (Queue(0xF000, "r", "", 1 * M),))
        world.controller.want([too_large, plan("p2")], token=1)
        await world.shaped("p2")
        await world.until(lambda: 1 in world.installed, "acknowledged")
        assert world.link("p1").standing is Standing.REFUSED
        assert "queue id" in world.link("p1").why

    play(world, scenario)


def test_what_the_kernel_refuses_is_tried_again() -> None:
    world = world_of("p1")
    world.kernel.refuse = PutClass

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.until(lambda: "p1" in world.controller.links, "looked at")
        await world.until(lambda: world.link("p1").standing is Standing.REFUSED, "refused")
        assert "the kernel refused" in world.link("p1").why
        world.kernel.refuse = None
        await world.shaped("p1")

    play(world, scenario)


def test_what_the_kernel_refuses_is_not_acknowledged_before_it_is_done() -> None:
    world = world_of("p1", "p2")
    world.kernel.refuse = PutClass

    async def scenario() -> None:
        looked: list[str] = []
        world.controller.on_looked = lambda: looked.extend(link.why for link in world.controller.links.values())
        world.controller.want([plan("p1")], token=1)
        await world.until(lambda: any("the kernel refused" in why for why in looked), "refused")
        await world.measured(30)
        assert not world.installed
        world.controller.want([plan("p1"), plan("gone")], token=2)
        await world.measured(5)
        assert not world.installed
        world.kernel.refuse = None
        await world.shaped("p1")
        await world.until(lambda: 2 in world.installed, "acknowledged, though the other port is not there")

    play(world, scenario)


def test_counters_that_run_backwards_and_a_late_clock_are_no_load() -> None:
    world = world_of("p1")

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.shaped("p1")
        device = world.kernel.devices["p1"]
        device.counters[9] = Counters(10**9, 10**6, 0, 0)
        await world.measured(3)
        device.counters[9] = Counters(0, 0, 0, 0)
        await world.measured(3)
        world.now_s += 3600
        await world.until(lambda: 8 in world.link("p1").loads(), "measured")
        assert world.link("p1").loads()[8].rate_bps == 0
        assert world.link("p1").standing is Standing.SHAPED

    play(world, scenario)


def test_the_row_is_back_after_ovs_lost_it() -> None:
    world = world_of("p1")

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.shaped("p1")
        device = world.kernel.devices["p1"]
        right = device.tree
        device.tree = Tree(NO_ROOT)  # what ovs-vswitchd does at its start to a port without a row
        world.database.change(BridgeRows(True, "netdev", {"p1": ""}))
        await world.until(lambda: device.tree == right, "shaped anew")
        assert rows.has_row(world.database.rows, "p1", BRIDGE)

    play(world, scenario)


def test_the_kernel_datapath_does_without_programs() -> None:
    world = world_of("p1")
    world.database.rows = BridgeRows(True, "system", {"p1": ""})
    world.kernel.refuse = PutProgram

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.shaped("p1")
        await world.measured(5)
        assert world.link("p1").standing is Standing.SHAPED
        assert world.kernel.devices["p1"].tree.programs == ()

    play(world, scenario)


def test_other_settings_are_taken_over_at_work() -> None:
    world = world_of("p1")

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.shaped("p1")
        device = world.kernel.devices["p1"]
        assert device.tree.classes[9].rate > 20 * M // 8
        world.controller.share(Settings(t_med_s=0.06, k_med=1, policy=PolicyKind.STATIC))
        await world.until(lambda: device.tree.classes[9].rate == 20 * M // 8, "as plain Open vSwitch")

    play(world, scenario)


def test_other_settings_are_felt_before_the_next_measurement() -> None:
    world = World("p1", t_med_s=3600)

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.shaped("p1")
        device = world.kernel.devices["p1"]
        world.controller.share(Settings(t_med_s=3600, k_med=2, policy=PolicyKind.STATIC))
        await world.until(lambda: device.tree.classes[9].rate == 20 * M // 8, "as plain Open vSwitch")
        world.controller.share(Settings(t_med_s=0.05, k_med=2))
        device.counters[9] = Counters(10**6, 10**3, 0, 0)
        await world.until(lambda: world.link("p1").loads(), "measured")
        assert world.now_s < 3600

    play(world, scenario)


def test_a_link_that_waits_is_looked_at_again_however_seldom_measurements_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "RECHECK_S", 0.02)
    world = World("p1", t_med_s=3600)
    del world.kernel.devices["p1"]

    async def scenario() -> None:
        world.controller.want([plan()])
        await world.until(lambda: "p1" in world.controller.links, "looked at")
        await world.measured(5)
        assert world.link("p1").why == "no such device"
        world.kernel.add("p1")
        await world.shaped("p1")
        assert world.now_s < 3600

    play(world, scenario)


def test_a_device_that_leaves_the_bridge_is_released() -> None:
    world = world_of("p1", "p2")

    async def scenario() -> None:
        world.controller.want([plan("p1"), plan("p2")])
        await world.shaped("p1", "p2")
        left = world.database.rows
        others = {port: name for port, name in left.ports.items() if port != "p1"}
        world.database.change(BridgeRows(True, "netdev", others, left.qos, left.queues))
        await world.until(lambda: world.kernel.devices["p1"].tree.root == NO_ROOT, "released")
        assert world.link("p1").standing is Standing.WAITING
        now = world.database.rows
        world.database.change(BridgeRows(True, "netdev", now.ports | {"p1": ""}, now.qos, now.queues))
        await world.shaped("p1")

    play(world, scenario)


def test_nothing_is_an_orphan_before_there_is_a_plan() -> None:
    """Without a plan on disk what an earlier daemon left stays, until somebody says what is wanted."""
    world = world_of("p1", "p2")
    for port in ("p1", "p2"):
        world.kernel.devices[port].tree = Tree(OUR_ROOT)

    async def scenario() -> None:
        await world.until(lambda: world.controller.has_rows, "the database is known")
        await world.measured(5)
        assert not any(device.written for device in world.kernel.devices.values())
        world.controller.want([plan("p2")])
        await world.until(lambda: world.kernel.devices["p1"].tree.root == NO_ROOT, "collected")
        assert world.kernel.devices["p2"].tree.classes

    play(world, scenario)

"""The daemon's loop against a kernel and a database in memory: what it writes, what it refuses, what it says."""

from __future__ import annotations

import logging

import pytest

from qos_controller.config import Settings
from qos_controller.decision import PolicyKind
from qos_controller.link import Standing
from qos_controller.plan import LINK_MINOR
from qos_controller.rows import BridgeRows
from qos_controller.rtnl import Counters
from qos_controller.tree import DEFAULT_MINOR, NODE_MINOR, OUR_ROOT, PutClass, PutProgram
from tests.fakes.trafficcontrol import NO_ROOT
from tests.unit.qos.daemon import M, World, plan, play, world_of
from xenflow.bandwidth import PortQueues, Queue


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

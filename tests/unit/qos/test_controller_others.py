"""What others do beside the daemon: what it leaves to them, and how it recovers."""

from __future__ import annotations

import pytest

from qos_controller import controller, rows
from qos_controller.config import Settings
from qos_controller.controller import Controller
from qos_controller.link import Standing
from qos_controller.rows import MARK, TYPE, BridgeRows, QosRow
from qos_controller.tree import OUR_ROOT, PutClass, Root, Tree
from tests.fakes.trafficcontrol import NO_ROOT
from tests.unit.qos.daemon import BRIDGE, World, plan, play, world_of


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

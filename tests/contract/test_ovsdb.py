"""One suite for the model in tests/fakes and for a real ovsdb-server with ovs-vswitchd."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.fakes.ovsdb import FakeDatabase
from tests.private_ovsdb import BRIDGE, RealWorld
from xenflow_server.confirm import Confirmer, appctl, round_s
from xenflow_server.view import BFD_MARK, DRAINED_MARK, MOVED_MARK, BridgeView, Database, PortView

MAC = "02:00:00:00:00:01"
PATIENCE_S = 20.0


class World(Protocol):
    """What a test does to the database from outside."""

    def database(self) -> Database: ...
    def add_port(self, name: str, external_ids: Mapping[str, str] | None = None) -> None: ...
    def remove_port(self, name: str) -> None: ...
    def set_external_ids(self, name: str, external_ids: Mapping[str, str]) -> None: ...
    def set_bfd(self, name: str, settings: Mapping[str, str]) -> None: ...
    def far_end_speaks(self, name: str) -> None: ...
    def far_end_is_silent(self, name: str) -> None: ...
    def restart(self) -> None: ...


class FakeWorld(FakeDatabase):
    def __init__(self) -> None:
        super().__init__(BRIDGE)

    def database(self) -> Database:
        return self


_REAL = pytest.param("real", marks=[pytest.mark.ovs, pytest.mark.root])


@pytest.fixture(params=["fake", _REAL])
def make_world(request: pytest.FixtureRequest) -> Iterator[Callable[[], World]]:
    made: list[RealWorld] = []
    directory = Path(tempfile.mkdtemp(prefix="xft"))

    def make() -> World:
        if request.param == "fake":
            return FakeWorld()
        made.append(RealWorld(directory))
        return made[-1]

    yield make
    for world in made:
        world.close()
    shutil.rmtree(directory)


class Watcher:
    """Collects views, and waits for one that fulfils a condition."""

    def __init__(self) -> None:
        self.views: list[BridgeView] = []
        self._changed = asyncio.Event()

    def __call__(self, view: BridgeView) -> None:
        self.views.append(view)
        self._changed.set()

    @property
    def view(self) -> BridgeView | None:
        return self.views[-1] if self.views else None

    async def until(self, condition: Callable[[BridgeView], bool]) -> BridgeView:
        async with asyncio.timeout(PATIENCE_S):
            while not self.views or not condition(self.views[-1]):
                self._changed.clear()
                await self._changed.wait()
        return self.views[-1]

    async def port(self, name: str, condition: Callable[[PortView], bool] = bool) -> PortView:
        def fulfilled(view: BridgeView) -> bool:
            return any(port.name == name and condition(port) for port in view.ports)

        view = await self.until(fulfilled)
        return next(port for port in view.ports if port.name == name)


@asynccontextmanager
async def watching(database: Database) -> AsyncIterator[Watcher]:
    watcher = Watcher()
    task = asyncio.create_task(database.run(watcher))
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        database.close()


Story = Callable[[World, Database, Watcher], Coroutine[Any, Any, None]]


def tell(make_world: Callable[[], World], story: Story) -> None:
    async def run() -> None:
        world = make_world()
        database = world.database()
        async with watching(database) as watcher:
            await watcher.until(lambda view: view.dpid != 0)
            await story(world, database, watcher)

    asyncio.run(run())


def test_ports_come_with_number_and_address_and_go(make_world: Callable[[], World]) -> None:
    async def story(world: World, database: Database, watcher: Watcher) -> None:
        assert watcher.view is not None
        assert (watcher.view.name, watcher.view.datapath_type) == (BRIDGE, "netdev")
        world.add_port("vif1", {"attached-mac": MAC, "vm-id": "a b"})
        port = await watcher.port("vif1", lambda port: port.number > 0)
        assert port.attached_mac == bytes.fromhex(MAC.replace(":", ""))
        assert port.external_ids["vm-id"] == "a b"
        world.set_external_ids("vif1", {"iface-status": "inactive"})
        await watcher.port("vif1", lambda port: not port.attached_mac)
        world.remove_port("vif1")
        await watcher.until(lambda view: all(port.name != "vif1" for port in view.ports))

    tell(make_world, story)


@pytest.mark.parametrize("together", [True, False])
def test_a_vif_that_goes_is_shown_as_it_was_last(make_world: Callable[[], World], together: bool) -> None:
    async def story(world: World, database: Database, watcher: Watcher) -> None:
        world.add_port("vif1", {"attached-mac": MAC})
        await watcher.port("vif1", lambda port: port.number > 0)
        world.set_external_ids("vif1", {MOVED_MARK: "n2"})
        if not together:
            await watcher.port("vif1", lambda port: MOVED_MARK in port.external_ids)
        world.remove_port("vif1")
        view = await watcher.until(lambda view: bool(view.departed))
        assert [(port.name, MOVED_MARK in port.external_ids) for port in view.departed] == [("vif1", True)]
        world.add_port("vif2", {"attached-mac": MAC})
        await watcher.port("vif2", lambda port: port.number > 0)
        assert watcher.view is not None
        assert not watcher.view.departed

    tell(make_world, story)


def test_bfd_is_set_marked_and_undone(make_world: Callable[[], World]) -> None:
    async def story(world: World, database: Database, watcher: Watcher) -> None:
        world.add_port("trunk1")
        world.add_port("theirs")
        world.set_bfd("theirs", {"enable": "true", "min_tx": "1000"})
        database.want_bfd(frozenset({"trunk1", "theirs"}))
        port = await watcher.port("trunk1", lambda port: BFD_MARK in port.external_ids)
        assert (port.bfd["enable"], port.bfd["min_tx"], port.bfd["min_rx"]) == ("true", "300", "300")
        theirs = await watcher.port("theirs")
        assert BFD_MARK not in theirs.external_ids
        assert theirs.bfd == {"enable": "true", "min_tx": "1000"}
        database.want_bfd(frozenset({"theirs"}))
        port = await watcher.port("trunk1", lambda port: BFD_MARK not in port.external_ids)
        assert port.bfd == {}
        theirs = await watcher.port("theirs")
        assert theirs.bfd == {"enable": "true", "min_tx": "1000"}

    tell(make_world, story)


def test_a_trunk_is_marked_as_drained_until_the_mark_is_taken_off(make_world: Callable[[], World]) -> None:
    async def story(world: World, database: Database, watcher: Watcher) -> None:
        world.add_port("trunk1", {"theirs": "kept"})
        world.add_port("trunk2")
        database.want_bfd(frozenset({"trunk1", "trunk2"}))
        await watcher.port("trunk2", lambda port: BFD_MARK in port.external_ids)
        for _ in range(2):
            database.mark_drained("trunk1", drained=True)
            port = await watcher.port("trunk1", lambda port: port.drained)
            assert (port.external_ids["theirs"], port.external_ids[DRAINED_MARK]) == ("kept", "true")
            assert not (await watcher.port("trunk2")).drained
            world.restart()
            world.set_external_ids("trunk2", {"seen": "yes"})
            await watcher.port("trunk2", lambda port: "seen" in port.external_ids)
            assert (await watcher.port("trunk1")).drained
            database.mark_drained("trunk1", drained=False)
            port = await watcher.port("trunk1", lambda port: not port.drained)
            assert DRAINED_MARK not in port.external_ids
            assert BFD_MARK in port.external_ids

    tell(make_world, story)


def test_a_mark_that_somebody_writes_by_hand_stays(make_world: Callable[[], World]) -> None:
    async def story(world: World, database: Database, watcher: Watcher) -> None:
        world.add_port("trunk1")
        database.want_bfd(frozenset({"trunk1"}))
        database.mark_drained("trunk1", drained=False)
        await watcher.port("trunk1", lambda port: BFD_MARK in port.external_ids)
        world.set_external_ids("trunk1", {DRAINED_MARK: "true"})
        await watcher.port("trunk1", lambda port: port.drained)
        world.add_port("vif1")
        await watcher.port("vif1", lambda port: port.number > 0)
        assert (await watcher.port("trunk1")).drained

    tell(make_world, story)


def test_a_trunk_lives_until_a_far_end_that_spoke_is_silent(make_world: Callable[[], World]) -> None:
    async def story(world: World, database: Database, watcher: Watcher) -> None:
        world.add_port("trunk1")
        database.want_bfd(frozenset({"trunk1"}))
        port = await watcher.port("trunk1", lambda port: "state" in port.bfd_status)
        assert port.alive  # nobody has spoken yet
        world.far_end_speaks("trunk1")
        port = await watcher.port("trunk1", lambda port: port.bfd_status.get("forwarding") == "true")
        assert port.alive
        world.far_end_is_silent("trunk1")
        await watcher.port("trunk1", lambda port: not port.alive)
        world.far_end_speaks("trunk1")
        await watcher.port("trunk1", lambda port: port.alive)

    tell(make_world, story)


def test_a_restart_of_the_database_shows_no_partial_view(make_world: Callable[[], World]) -> None:
    async def story(world: World, database: Database, watcher: Watcher) -> None:
        world.add_port("vif1", {"attached-mac": MAC})
        await watcher.port("vif1", lambda port: port.number > 0)
        first = len(watcher.views) - 1
        world.restart()
        world.add_port("vif2")
        await watcher.port("vif2", lambda port: port.number > 0)
        assert all(any(port.name == "vif1" for port in view.ports) for view in watcher.views[first:])

    tell(make_world, story)


@pytest.mark.ovs
@pytest.mark.root
def test_the_daemon_confirms_that_its_revalidators_have_run(tmp_path: Path) -> None:
    world = RealWorld(tmp_path)
    try:
        assert asyncio.run(appctl(tmp_path, "revalidator/wait")) == ""
        assert "revalidator/wait" in asyncio.run(appctl(tmp_path, "list-commands"))
        shown = asyncio.run(appctl(tmp_path, "upcall/show"))
        assert "dump duration" in shown
        assert 0 <= round_s(shown) < 60
    finally:
        world.close()


@pytest.mark.ovs
@pytest.mark.root
def test_a_nudge_makes_the_revalidators_run_and_leaves_nothing(tmp_path: Path) -> None:
    world = RealWorld(tmp_path)
    try:
        asyncio.run(_confirm_often(tmp_path))
    finally:
        world.close()


async def _confirm_often(rundir: Path) -> None:
    confirmed: asyncio.Queue[int] = asyncio.Queue()
    confirmer = Confirmer(rundir, BRIDGE, confirmed.put_nowait)
    async with asyncio.timeout(5):
        task = asyncio.create_task(confirmer.run())
        for token in range(5):
            confirmer.ask(token)
            assert await confirmed.get() == token
        assert "0x58460c" not in _flows(rundir)
        task.cancel()


def _flows(rundir: Path) -> str:
    argv = ["ovs-ofctl", "dump-flows", f"unix:{rundir}/{BRIDGE}.mgmt"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

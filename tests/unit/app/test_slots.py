"""Queue ids of owners: there are so many and no more, and each keeps its own."""

from __future__ import annotations

import pytest

from tests.unit.app.test_queues import M, asked, hire, main, network, queues
from xenflow.wire import Problem
from xenflow_app import admission, queueing


@pytest.fixture
def two_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are queues for two owners."""
    for module in (admission, queueing):
        monkeypatch.setattr(module, "MAX_SLOT", 2)


@pytest.mark.usefixtures("two_slots")
def test_one_owner_too_many_is_refused_and_the_others_stay(caplog: pytest.LogCaptureFixture) -> None:
    world = network()
    world.router("b", "r3", {"core": "10.0.0.3/24"}, 121)
    world.start()
    hire(world, "b", "r3", 10 * M)
    assert set(queues(world, "b")["t2"]) == {("r3", "control"), ("r3", ""), ("core", "control")}
    assert "owners without queues, not even of control: 2: router r1, router r2" in caplog.text
    hire(world, "b", "r2", 10 * M)
    assert set(queues(world, "b")["t2"]) == {("r3", "control"), ("r3", ""), ("r2", "control"), ("r2", "")}
    hire(world, "a", "r1", 10 * M)
    assert main(world, "b", "r1") == {}
    assert main(world, "b", "r2")["t2"] == main(world, "b", "r3")["t2"] == 10 * M
    assert asked(world).refused == {"router r1": "2 owners have queues, and there are no more"}
    assert any("2 owners have queues" in item.text for item in world.servers["a"].told if isinstance(item, Problem))
    hire(world, "b", "r3", 0)
    assert main(world, "b", "r1")["t2"] == 10 * M


def test_all_slots_can_be_taken() -> None:
    slots = queueing.Slots()
    keys = [f"router r{number}" for number in range(queueing.MAX_SLOT + 2)]
    assert slots.assign(keys) == keys[-2:]
    assert sorted(map(slots.of, keys[:-2])) == list(range(1, queueing.MAX_SLOT + 1))
    kept = slots.of(keys[1])
    assert slots.assign(keys[1:]) == keys[-1:]
    assert slots.of(keys[1]) == kept


def of_one_digest() -> tuple[str, str]:
    """Return two routers' names, in order, whose digests are the same."""
    seen: dict[int, str] = {}
    for number in range(1000, 9999):
        slots = queueing.Slots()
        slots.assign([f"router x{number}"])
        slot = slots.of(f"router x{number}")
        if slot in seen:
            return seen[slot], f"x{number}"
        seen[slot] = f"x{number}"
    raise AssertionError


def test_a_controller_that_starts_changes_nobodys_queues() -> None:
    """The second of two with one digest was there before the first."""
    later, earlier = of_one_digest()
    world = network()
    world.router("b", earlier, {"core": "10.0.0.3/24"}, 121)
    world.start()
    hire(world, "b", earlier, 10 * M)
    world.router("b", later, {"core": "10.0.0.4/24"}, 131)
    world.settle()
    hire(world, "b", later, 10 * M)
    before = queues(world, "b")
    assert before["t2"][later, ""].id == before["t2"][earlier, ""].id + 8
    world.start()
    assert queues(world, "b") == before

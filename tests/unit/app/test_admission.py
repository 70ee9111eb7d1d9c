"""Promises that links cannot keep: told with who was promised, in the log and to operators."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.app.test_queues import RING, M, asked, hire, network
from xenflow.answers import BrokenPromise
from xenflow.model import Port


def test_a_broken_promise_names_those_who_were_promised(caplog: pytest.LogCaptureFixture) -> None:
    world = network(RING)
    world.start()
    hire(world, "a", "r1", 60 * M)
    hire(world, "b", "r2", 60 * M)
    assert asked(world).broken == []
    trunk = world.servers["a"].node.facts.of(Port.KIND)[b"t2"]
    world.servers["a"].node.put(msgspec.structs.replace(trunk, alive=False))
    world.run(1.0)
    broken = BrokenPromise("b:t2", 120 * M, 100 * M, 3 * 128_000, ["router r1", "router r2"])
    assert broken in asked(world).broken
    assert asked(world, link="b:t2").broken == [broken]
    assert asked(world, link="a:t1").broken == []
    assert "384 kbit/s of that control; by router r1, router r2" in caplog.text
    world.servers["a"].node.put(msgspec.structs.replace(trunk, alive=True))
    world.run(1.0)
    assert asked(world).broken == []

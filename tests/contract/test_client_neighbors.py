"""More neighbors than the kernel's garbage collector spares, and no traffic to them: the client keeps them all.

Takes minutes, since the kernel's own times (a neighbor is reachable for 15 to 45 s, collected after 60 s) are what is
tested: `XENFLOW_SLOW=1 pytest tests/contract/test_client_neighbors.py`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.contract.client_world import BASE, Client, RealWorld, run
from xenflow.model import Neighbor
from xenflow_client.neighbors import Upkeep

NEIGHBORS = 250
WATCHED_S = 180.0
BATCH = [f"10.0.1.{number}" for number in range(2, 2 + NEIGHBORS)]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif("XENFLOW_SLOW" not in os.environ, reason="takes three minutes: set XENFLOW_SLOW=1"),
]


@pytest.fixture
def world() -> Iterator[RealWorld]:
    world = RealWorld()
    try:
        for command in BASE:
            world.ip(command)
        run("ip", "-n", world.far, "-batch", "-", given="".join(f"addr add {one}/24 dev a0\n" for one in BATCH))
        pings = [
            subprocess.Popen(["ip", "netns", "exec", world.near, "ping", "-c1", "-W5", one], stdout=subprocess.DEVNULL)
            for one in BATCH
        ]
        assert not any(ping.wait() for ping in pings)
        yield world
    finally:
        world.close()


def known(client: Client) -> int:
    return sum(1 for kind, key in client.shown.facts if kind == Neighbor.KIND and len(key) == 8)


def lowest(client: Client) -> int:
    """Watch for a while; return how few neighbors were ever reported."""
    fewest = known(client)

    def fewer() -> bool:
        nonlocal fewest
        fewest = min(fewest, known(client))
        return False

    client.wait(fewer, WATCHED_S)
    return fewest


def test_none_disappears(world: RealWorld) -> None:
    client = Client(world, Upkeep())
    assert known(client) == NEIGHBORS
    assert lowest(client) == NEIGHBORS


def test_without_upkeep_they_do(world: RealWorld) -> None:
    client = Client(world, Upkeep(refresh_s=0, resolve=False))
    assert known(client) == NEIGHBORS
    assert lowest(client) < NEIGHBORS

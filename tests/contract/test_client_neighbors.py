"""More neighbors than the kernel's garbage collector spares, and no traffic to them: the client keeps them all.

Takes minutes, since the kernel's own times (a neighbor is reachable for 15 to 45 s, collected after 60 s) are what is
tested: `XENFLOW_SLOW=1 pytest tests/contract/test_client_neighbors.py`.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.contract.client_world import BASE, Client, RealWorld, run
from xenflow.model import Neighbor
from xenflow_client.neighbors import Upkeep
from xenflow_client.seen import NUD_STALE

NEIGHBORS = 250
WATCHED_S = 130.0
COLLECTED_AFTER_S = 60.0
"""gc_stale_time: from then on the kernel's collector may take a stale entry, sooner or later."""
BATCH = [f"10.0.1.{number}" for number in range(2, 2 + NEIGHBORS)]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif("XENFLOW_SLOW" not in os.environ, reason="takes minutes: set XENFLOW_SLOW=1"),
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


def watch(client: Client) -> tuple[int, float]:
    """Watch for a while; return how few neighbors were ever reported, and how long one was stale at the most."""
    fewest, longest_s = known(client), 0.0
    since: dict[bytes, float] = {}

    def look() -> bool:
        nonlocal fewest, longest_s
        now = time.monotonic()
        fewest = min(fewest, known(client))
        stale = {key for key, one in client.observer.kernel.neighbors.items() if one.state == NUD_STALE}
        for key in since.keys() - stale:
            del since[key]
        for key in stale:
            longest_s = max(longest_s, now - since.setdefault(key, now))
        return False

    client.wait(look, WATCHED_S)
    return fewest, longest_s


def test_none_disappears_and_none_is_stale_for_long(world: RealWorld) -> None:
    client = Client(world, Upkeep())
    assert known(client) == NEIGHBORS
    fewest, longest_s = watch(client)
    assert fewest == NEIGHBORS
    assert longest_s < COLLECTED_AFTER_S / 2


def test_without_upkeep_they_are_left_to_the_collector(world: RealWorld) -> None:
    client = Client(world, Upkeep(refresh_s=0, resolve=False))
    assert known(client) == NEIGHBORS
    fewest, longest_s = watch(client)
    assert fewest < NEIGHBORS or longest_s > COLLECTED_AFTER_S

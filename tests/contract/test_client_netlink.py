"""The client's core on the real kernel (in network namespaces) and on the model of it: the same suite.

The table in docs/client.md is read from there: each row is a test.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.client_world import BASE, Client, ModelWorld, RealWorld, World, run
from tests.fakes.kernel import RefusedError
from xenflow.model import Route
from xenflow_client.neighbors import Upkeep
from xenflow_client.rtnetlink import Table

DOCUMENT = Path(__file__).parents[2] / "docs" / "client.md"


@pytest.fixture(params=["model", pytest.param("real", marks=pytest.mark.root)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world: World = ModelWorld() if request.param == "model" else RealWorld()
    try:
        for command in BASE:
            world.ip(command)
        yield world
    finally:
        world.close()


def rows() -> Iterator[tuple[str, str]]:
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`") and "ip ..." not in cells[0]:
            yield cells[0].strip("`"), cells[1]


@pytest.mark.parametrize(("commands", "outcome"), list(rows()))
@pytest.mark.parametrize("when", ["seen before", "seen as it happens"])
def test_row_of_the_document(world: World, commands: str, outcome: str, when: str) -> None:
    early = Client(world) if when == "seen as it happens" else None
    before = Client(world).lines() if early is None else early.lines()
    refused = False
    for command in commands.split("; "):
        try:
            world.ip(command)
        except RefusedError:
            refused = True
    client = early or Client(world)
    wanted = set(re.findall("`([^`]*)`", outcome))
    assert refused == (outcome == "refused")
    assert client.has(*wanted), client.lines(Route)
    prefixes = {line.split()[1] for line in wanted}
    assert client.wait(lambda: not (client.lines(Route) - before - wanted)), client.lines(Route) - before
    if not re.search("link|addr", commands):
        assert client.resync.seq == len(Table), "the events alone must do"
    settled = Client(world).lines(Route)
    assert client.wait(lambda: client.lines(Route) == settled), client.lines(Route) ^ settled
    assert {line for line in settled if line.split()[1] in prefixes} == {one for one in wanted if "route" in one}


def test_base(world: World) -> None:
    client = Client(world)
    assert client.has(
        "link a0 index 10 mac 02:00:00:00:00:0a mtu 1500 up",
        "address 10.0.1.1/24 dev a0",
        "address fd00:1::1/64 dev a0",
        "route 10.0.1.0/24 dev a0",
        "route fd00:1::/64 dev a0",
    )
    assert not any("127.0.0.1" in line or "::1/128" in line or " lo" in line for line in client.lines())


def test_link_changes(world: World) -> None:
    client = Client(world)
    world.ip("link set a0 mtu 1400")
    assert client.has("link a0 index 10 mac 02:00:00:00:00:0a mtu 1400 up")
    world.ip("link set a0 carrier off")
    assert client.has("link a0 index 10 mac 02:00:00:00:00:0a mtu 1400 down")
    world.ip("link set a0 carrier on")
    assert client.has("link a0 index 10 mac 02:00:00:00:00:0a mtu 1400 up", "route 10.0.1.0/24 dev a0")
    world.ip("link del a0")
    assert client.has_not("address 10.0.1.1/24 dev a0", "route 10.0.1.0/24 dev a0")
    assert not any("a0" in line or " 10 " in line for line in client.lines())


def test_link_goes_down_and_up_again_at_once(world: World) -> None:
    client = Client(world)
    world.ip("route add 10.9.0.0/16 via 10.0.1.2")
    assert client.has("route 10.9.0.0/16 via 10.0.1.2 dev a0")
    world.ip("link set a0 down")
    world.ip("link set a0 up")
    assert client.has_not("route 10.9.0.0/16 via 10.0.1.2 dev a0")
    assert client.has("route 10.0.1.0/24 dev a0")
    assert client.wait(lambda: client.lines(Route) == Client(world).lines(Route))


def test_carrier_returns_and_so_does_the_next_hop(world: World) -> None:
    client = Client(world)
    world.ip("route add 10.9.0.0/16 nexthop via 10.0.1.2 nexthop via 10.0.2.2")
    both = "route 10.9.0.0/16 nexthop via 10.0.1.2 dev a0 weight 1 nexthop via 10.0.2.2 dev b0 weight 1"
    assert client.has(both)
    world.ip("link set a0 carrier off")
    assert client.has("route 10.9.0.0/16 via 10.0.2.2 dev b0")
    world.ip("link set b0 carrier off")
    assert client.has("route 10.9.0.0/16 slow (left to the router itself)")
    world.ip("link set a0 carrier on")
    world.ip("link set b0 carrier on")
    assert client.has(both)


def test_neighbors_come_change_and_go(world: World) -> None:
    client = Client(world)
    world.ip("neigh replace 10.0.1.2 lladdr 02:00:00:00:01:02 dev a0 nud permanent")
    world.ip("neigh replace fe80::2 lladdr 02:00:00:00:01:03 dev a0 nud permanent")
    assert client.has("neighbor 10.0.1.2 dev a0 mac 02:00:00:00:01:02", "neighbor fe80::2 dev a0 mac 02:00:00:00:01:03")
    world.ip("neigh replace 10.0.1.2 lladdr 02:00:00:00:01:09 dev a0 nud stale")
    assert client.has("neighbor 10.0.1.2 dev a0 mac 02:00:00:00:01:09")
    world.ip("neigh del 10.0.1.2 dev a0")
    world.ip("neigh replace fe80::2 lladdr 02:00:00:00:01:03 dev a0 nud failed")
    assert client.has_not(
        "neighbor 10.0.1.2 dev a0 mac 02:00:00:00:01:09", "neighbor fe80::2 dev a0 mac 02:00:00:00:01:03"
    )


def test_gateway_is_resolved_without_traffic(world: World) -> None:
    world.answer("10.0.1.2", "02:00:00:00:01:02", "a0")
    client = Client(world, Upkeep())
    world.ip("route add 10.9.0.0/16 via 10.0.1.2")
    assert client.has("neighbor 10.0.1.2 dev a0 mac 02:00:00:00:01:02")


def test_gateway_that_comes_late_is_found(world: World) -> None:
    client = Client(world, Upkeep())
    world.ip("route add 10.9.0.0/16 via 10.0.1.2")
    assert client.has("route 10.9.0.0/16 via 10.0.1.2 dev a0")
    world.answer("10.0.1.2", "02:00:00:00:01:02", "a0")
    assert client.has("neighbor 10.0.1.2 dev a0 mac 02:00:00:00:01:02")


def test_stale_neighbor_is_verified(world: World) -> None:
    world.answer("10.0.1.2", "02:00:00:00:01:02", "a0")
    client = Client(world, Upkeep(refresh_s=0.2))
    world.ip("neigh replace 10.0.1.2 lladdr 02:00:00:00:01:02 dev a0 nud stale")
    key = (10).to_bytes(4, "big") + bytes([10, 0, 1, 2])
    assert client.wait(lambda: key in client.observer.kernel.neighbors)
    assert client.wait(lambda: client.observer.kernel.neighbors[key].state == 2)  # REACHABLE


def test_stale_neighbor_that_is_not_there_any_more_is_withdrawn(world: World) -> None:
    client = Client(world, Upkeep(refresh_s=0.2))
    world.ip("neigh replace 10.0.1.2 lladdr 02:00:00:00:01:02 dev a0 nud stale")
    assert client.has("neighbor 10.0.1.2 dev a0 mac 02:00:00:00:01:02")
    assert client.has_not("neighbor 10.0.1.2 dev a0 mac 02:00:00:00:01:02")


def test_lost_events_are_made_up_for(world: World) -> None:
    client = Client(world)
    world.ip("route add 10.8.0.0/16 via 10.0.1.2")
    assert client.has("route 10.8.0.0/16 via 10.0.1.2 dev a0")
    world.ip("route del 10.8.0.0/16")
    world.ip("route add 10.9.0.0/16 via 10.0.2.2")
    client.connection.lose_events()
    assert client.has("route 10.9.0.0/16 via 10.0.2.2 dev b0")
    assert client.has_not("route 10.8.0.0/16 via 10.0.1.2 dev a0")
    assert client.wait(lambda: client.lines(Route) == Client(world).lines(Route))


@pytest.fixture
def real() -> Iterator[RealWorld]:
    world = RealWorld()
    try:
        for command in BASE:
            world.ip(command)
        yield world
    finally:
        world.close()


@pytest.mark.root
def test_program_prints_what_it_would_report(real: RealWorld) -> None:
    real.ip("route add 10.9.0.0/16 via 10.0.1.2")
    program = ["ip", "netns", "exec", real.near, sys.executable, "-m", "xenflow_client.main", "--print"]
    printed = subprocess.run(program, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    assert "route 10.9.0.0/16 via 10.0.1.2 dev a0" in printed
    assert "link a0 index 10 mac 02:00:00:00:00:0a mtu 1500 up" in printed
    lines = subprocess.run([*program, "--json"], capture_output=True, text=True, timeout=30, check=True).stdout
    assert {"fact": "address", "address": "10.0.1.1/24", "link": "a0"} in map(json.loads, lines.splitlines())


@pytest.mark.root
def test_program_prints_changes_until_it_is_stopped(real: RealWorld) -> None:
    program = [sys.executable, "-m", "xenflow_client.main", "--print", "--follow"]
    with subprocess.Popen(["ip", "netns", "exec", real.near, *program], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert any("route fd00:2::/64" in line for line in running.stdout)
        real.ip("route add 10.9.0.0/16 via 10.0.1.2")
        assert any(line == "+ route 10.9.0.0/16 via 10.0.1.2 dev a0\n" for line in running.stdout)
        running.terminate()
        assert running.wait(10) == 0


@pytest.mark.root
def test_nexthop_objects_show_their_gateways(real: RealWorld) -> None:
    client = Client(real)
    real.ip("nexthop add id 1 via 10.0.1.2 dev a0")
    real.ip("nexthop add id 2 via 10.0.2.2 dev b0")
    real.ip("nexthop add id 3 group 1,3/2,1")
    real.ip("nexthop add id 4 via fd00:1::2 dev a0")
    real.ip("route add 10.8.0.0/16 nhid 1")
    real.ip("route add 10.9.0.0/16 nhid 3")
    real.ip("-6 route add fd09::/16 nhid 4")
    assert client.has(
        "route 10.8.0.0/16 via 10.0.1.2 dev a0",
        "route 10.9.0.0/16 nexthop via 10.0.1.2 dev a0 weight 3 nexthop via 10.0.2.2 dev b0 weight 1",
        "route fd09::/16 via fd00:1::2 dev a0",
    )
    real.ip("nexthop replace id 1 via 10.0.1.9 dev a0")
    assert client.has("route 10.8.0.0/16 via 10.0.1.9 dev a0")
    real.ip("nexthop del id 1")
    assert client.has("route 10.9.0.0/16 via 10.0.2.2 dev b0")
    assert client.has_not("route 10.8.0.0/16 via 10.0.1.9 dev a0")


@pytest.mark.root
def test_nexthop_objects_that_are_hidden_leave_the_route_to_the_kernel(real: RealWorld) -> None:
    run("ip", "netns", "exec", real.near, "sysctl", "-qw", "net.ipv4.nexthop_compat_mode=0")
    real.ip("nexthop add id 1 via 10.0.1.2 dev a0")
    real.ip("route add 10.8.0.0/16 nhid 1")
    assert Client(real).has("route 10.8.0.0/16 slow (left to the router itself)")


WAYS = {
    "10.9.0.0/16": ("via 10.0.1.2", "via 10.0.2.2", "nexthop via 10.0.1.2 nexthop via 10.0.2.2 weight 2"),
    "fd09::/16": ("via fd00:1::2", "via fd00:2::2", "nexthop via fd00:1::2 nexthop via fd00:2::2"),
}


def random_route(chance: random.Random) -> str:
    prefix = chance.choice(list(WAYS))
    family = "-6 " if ":" in prefix else ""
    verb = chance.choice(("add", "append", "replace", "replace", "del"))
    kind, way = chance.choice([("", one) for one in WAYS[prefix]] * 2 + [("blackhole ", ""), ("unreachable ", "")])
    return f"{family}route {verb} {kind}{prefix} {way} metric {chance.choice((10, 20))}".replace("  ", " ")


def attempt(world: World, command: str) -> None:
    with contextlib.suppress(RefusedError):
        world.ip(command)


@pytest.mark.parametrize("seed", range(6))
def test_random_walk_over_routes_by_events_alone(world: World, seed: int) -> None:
    chance = random.Random(seed)
    client = Client(world)
    done: list[str] = []
    for _ in range(25):
        for _ in range(4):
            done.append(random_route(chance))
            attempt(world, done[-1])
        fresh = Client(world).lines()
        assert client.wait(lambda now=fresh: client.lines() == now), (client.lines() ^ fresh, done)
    assert client.resync.seq == len(Table), ("events did not fit what was known", done)


@pytest.mark.parametrize("seed", range(3))
def test_random_walk_over_everything(world: World, seed: int) -> None:
    chance = random.Random(seed)
    others = [
        f"link set {name} {state}" for name in ("a0", "b0") for state in ("up", "down", "carrier on", "carrier off")
    ]
    others += [f"addr {verb} 10.0.1.1/24 dev a0" for verb in ("add", "del")]
    others += [f"-6 addr {verb} fd00:2::1/64 dev b0" for verb in ("add", "del")]
    client = Client(world)
    done: list[str] = []
    for _ in range(15):
        for _ in range(6):
            done.append(chance.choice((random_route(chance), random_route(chance), chance.choice(others))))
            attempt(world, done[-1])
        assert client.wait(lambda: client.lines() == Client(world).lines()), (
            client.lines() ^ Client(world).lines(),
            done,
        )

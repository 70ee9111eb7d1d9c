"""The client's core on the real kernel (in network namespaces) and on the model of it: the same suite.

The table in docs/client.md is read from there: each row is a test.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.fakes.kernel import FakeKernel, RefusedError
from xenflow.model import Link, Route
from xenflow_client.neighbors import Upkeep
from xenflow_client.netlink import open_socket
from xenflow_client.observer import Observer
from xenflow_client.resync import Resync
from xenflow_client.rtnetlink import Table
from xenflow_client.show import Shown, text_line

DOCUMENT = Path(__file__).parents[2] / "docs" / "client.md"
PATIENCE_S = 15.0
BASE = (
    "link add a0 index 10 address 02:00:00:00:00:0a",
    "link add b0 index 11 address 02:00:00:00:00:0b",
    "link add c0 index 12 address 02:00:00:00:00:0c",
    "link set lo up",
    "link set a0 up",
    "link set b0 up",
    "link set c0 up",
    "addr add 10.0.1.1/24 dev a0",
    "addr add 10.0.2.1/24 dev b0",
    "-6 addr add fd00:1::1/64 dev a0",
    "-6 addr add fd00:2::1/64 dev b0",
)


class Connection(Protocol):
    """A netlink socket."""

    def receive(self, timeout_s: float) -> bytes | None:
        """Return a datagram; None if there is none. Raises OSError after an overrun."""

    def send(self, request: bytes) -> None: ...
    def lose_events(self) -> None: ...


class World(Protocol):
    """A kernel that can be changed and watched."""

    def ip(self, command: str) -> None:
        """Do what `ip COMMAND` does; raises RefusedError."""

    def connect(self) -> Connection: ...
    def answer(self, address: str, mac: str, link: str) -> None:
        """Let somebody be there who answers for an address."""

    def close(self) -> None: ...


class ModelConnection:
    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.socket = kernel.connect()

    def receive(self, timeout_s: float) -> bytes | None:
        if timeout_s and not self.socket.queue:
            select.select([], [], [], min(timeout_s, 0.005))
        return self.socket.receive()

    def send(self, request: bytes) -> None:
        self.kernel.request(request, self.socket)

    def lose_events(self) -> None:
        self.socket.lose_events()


class ModelWorld:
    def __init__(self) -> None:
        self.kernel = FakeKernel()

    def ip(self, command: str) -> None:
        self.kernel.ip(command)

    def connect(self) -> Connection:
        return ModelConnection(self.kernel)

    def answer(self, address: str, mac: str, link: str) -> None:
        self.kernel.hosts[socket.inet_pton(socket.AF_INET, address)] = bytes.fromhex(mac.replace(":", ""))

    def close(self) -> None:
        pass


class RealConnection:
    def __init__(self, world: RealWorld, connected: socket.socket) -> None:
        self.world, self.socket = world, connected

    def receive(self, timeout_s: float) -> bytes | None:
        if not select.select([self.socket], [], [], timeout_s)[0]:
            return None
        return self.socket.recv(1 << 16)

    def send(self, request: bytes) -> None:
        self.socket.send(request)

    def lose_events(self) -> None:
        """Make a burst that a buffer of the smallest size cannot hold."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        batch = "".join(f"route add 10.200.{i // 250}.{i % 250} via 10.0.1.2\n" for i in range(1000))
        _run("ip", "-n", self.world.near, "-batch", "-", given=batch)
        _run("ip", "-n", self.world.near, "-batch", "-", given=batch.replace("add", "del"))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)


class RealWorld:
    """Two namespaces: the router's, and the far ends of its links, which give them a carrier."""

    def __init__(self) -> None:
        self.near, self.far = f"xfclient-{os.getpid()}", f"xfclient-{os.getpid()}-far"
        for name in (self.near, self.far):
            _run("ip", "netns", "add", name)
            for setting in ("all", "default"):
                _run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv6.conf.{setting}.accept_dad=0")
                _run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv6.conf.{setting}.addr_gen_mode=1")
        self.sockets: list[socket.socket] = []

    def ip(self, command: str) -> None:
        words = command.split()
        match words:
            case ["link", "add", name, *_]:
                _run("ip", "-n", self.near, *words, "type", "veth", "peer", "name", name, "netns", self.far)
                _run("ip", "-n", self.far, "link", "set", name, "up")
                return
            case ["link", "set", name, "carrier", state]:
                words = ["link", "set", name, "up" if state == "on" else "down"]
                _run("ip", "-n", self.far, *words)
                return
        _run("ip", "-n", self.near, *words)

    def connect(self) -> Connection:
        self.sockets.append(_inside(self.near, open_socket))
        return RealConnection(self, self.sockets[-1])

    def answer(self, address: str, mac: str, link: str) -> None:
        _run("ip", "-n", self.far, "link", "set", link, "address", mac)
        _run("ip", "-n", self.far, "addr", "add", f"{address}/24", "dev", link)

    def close(self) -> None:
        for one in self.sockets:
            one.close()
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _run(*command: str, given: str | None = None) -> None:
    result = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RefusedError(f"{' '.join(command)}: {result.stderr.strip()}")


def _inside(namespace: str, action: Callable[[], socket.socket]) -> socket.socket:
    """Return what `action` returns in a network namespace; a thread of its own enters it and ends there."""
    result: list[socket.socket] = []

    def enter() -> None:
        with open(f"/run/netns/{namespace}") as there:
            if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), 0x40000000) != 0:
                return
        result.append(action())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return result[0]


class Client:
    """The client's core, driven by hand: facts as text."""

    def __init__(self, world: World, upkeep: Upkeep | None = None) -> None:
        self.connection = world.connect()
        self.shown = Shown(lambda line: None, as_json=False)
        self.resync = Resync()
        self.observer = Observer(self.shown, upkeep or Upkeep(resolve=False), self.resync)
        self.wait(lambda: self.observer.ready)

    def step(self, timeout_s: float = 0.02) -> None:
        for request in self.observer.tick(time.monotonic()):
            self.connection.send(request)
        try:
            data = self.connection.receive(timeout_s)
            while data is not None:
                self.observer.receive(data, time.monotonic())
                data = self.connection.receive(0)
        except OSError:
            self.observer.lost(time.monotonic())
        self.observer.settle(time.monotonic())

    def wait(self, reached: Callable[[], bool]) -> bool:
        """Go on until `reached`, or until patience ends; return whether it was."""
        end = time.monotonic() + PATIENCE_S
        while not reached():
            if time.monotonic() > end:
                return False
            self.step()
        return True

    def lines(self, *kinds: type) -> set[str]:
        names = {fact.index: fact.name for fact in self.shown.facts.values() if isinstance(fact, Link)}
        facts = [fact for fact in self.shown.facts.values() if not kinds or isinstance(fact, kinds)]
        return {text_line(fact, "", lambda index: names.get(index, str(index))) for fact in facts}

    def has(self, *lines: str) -> bool:
        """Return whether all `lines` are reported within time."""
        return self.wait(lambda: set(lines) <= self.lines())

    def has_not(self, *lines: str) -> bool:
        """Return whether none of `lines` is reported any more within time."""
        return self.wait(lambda: not set(lines) & self.lines())


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

"""Announcements on real interfaces, as they come out at the other end of the wire."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterator

import pytest

from tests.contract.client_world import BASE, Client, RealWorld, inside
from xenflow.announcement import Announcement, parse
from xenflow.wire import Announce
from xenflow_client.announce import Announcer, PacketSocket

pytestmark = pytest.mark.root
KEY = b"k" * 32
ALL = 3  # ETH_P_ALL
PATIENCE_S = 20.0


@pytest.fixture
def world() -> Iterator[RealWorld]:
    world = RealWorld()
    try:
        for command in BASE:
            world.ip(command)
        yield world
    finally:
        world.close()


def listen(world: RealWorld, interface: str) -> socket.socket:
    """Return a socket that hears all that comes out of the wire at `interface`."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ALL))
        made.bind((interface, ALL))
        return made

    world.sockets.append(inside(world.far, make))
    return world.sockets[-1]


def wire_in(world: RealWorld) -> PacketSocket:
    made: list[PacketSocket] = []

    def make() -> socket.socket:
        made.append(PacketSocket())
        return made[0]._socket

    inside(world.near, make)
    return made[0]


async def heard(ear: socket.socket, count: int) -> list[tuple[float, Announcement]]:
    """Return the next announcements that arrive, with the time."""
    loop, found = asyncio.get_running_loop(), []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            announcement = parse(await loop.sock_recv(ear, 2048), KEY)
            if announcement is not None:
                found.append((loop.time(), announcement))
    return found


def arrived(ear: socket.socket) -> Iterator[bytes]:
    """Yield what has arrived until now."""
    while select.select([ear], [], [], 0)[0]:
        yield ear.recv(2048)


def test_frames_on_the_wire(world: RealWorld) -> None:
    client = Client(world)
    ears = {name: listen(world, name) for name in ("a0", "b0", "c0")}

    async def run() -> None:
        announcer = Announcer(client.observer.kernel, lambda: wire_in(world))
        announcer.start(Announce("r1", 7, KEY), ("10.0.2.1", 0))  # b0 is the control connection's
        times = [at for at, one in await heard(ears["a0"], 26) if one.address == bytes([10, 0, 1, 1])]
        assert len(times) == 26
        assert times[-1] - times[0] >= 0.2  # 0.1 s every 5 ms, then 10 + 20 + 40 + 80 ms, but for the clock's grain
        (_, bare), *_ = await heard(ears["c0"], 4)
        assert bare == Announcement(b"\x02\0\0\0\0\x0c", bytes(4), 7)
        announcer.confirmed(7)
        assert not any(parse(frame, KEY) for frame in arrived(ears["b0"]))

    asyncio.run(run())

"""Announcements after a move: on which interfaces, how often, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.fakes.sinks import NoSink
from xenflow.announcement import NO_ADDRESS, Announcement, parse
from xenflow.wire import Announce
from xenflow_client.announce import Announcer
from xenflow_client.announcing import DENSE_S, FIRST_PAUSE_S, LASTS_S, Announcing, control_link, frames
from xenflow_client.kernel import Kernel
from xenflow_client.neighbors import Upkeep
from xenflow_client.seen import IFF_LOOPBACK, IFF_LOWER_UP, IFF_NOARP, IFF_UP, AddressSeen, LinkSeen

UP = IFF_UP | IFF_LOWER_UP
KEY = b"k" * 32
ORDER = Announce("r1", 7, KEY)


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number])


def kernel() -> Kernel:
    """Two virtual networks (one without IPv4), the control interface, and what is never announced."""
    made = Kernel(NoSink(), Upkeep(refresh_s=0, resolve=False))
    for seen in (
        LinkSeen(1, "lo", bytes(6), 65536, UP | IFF_LOOPBACK),
        LinkSeen(2, "xfctl", mac(2), 1500, UP),
        LinkSeen(3, "eth0", mac(3), 1500, UP),
        LinkSeen(4, "eth1", mac(4), 1500, UP),
        LinkSeen(5, "down", mac(5), 1500, IFF_UP),
        LinkSeen(6, "dummy", mac(6), 1500, UP | IFF_NOARP),
        LinkSeen(7, "tun", b"", 1500, UP),
        AddressSeen(2, bytes([0xFE, 0x80, *bytes(13), 9, 64])),
        AddressSeen(3, bytes([10, 0, 0, 1, 24])),
        AddressSeen(3, bytes([10, 0, 0, 2, 24])),
        AddressSeen(4, bytes([0xFD, *bytes(14), 1, 64])),
    ):
        made.apply(seen)
    return made


def said(order: Announce, control: int) -> dict[str, Announcement | None]:
    return {name: parse(frame, KEY) for name, frame in frames(kernel(), order, control)}


def test_every_interface_but_the_control_connection() -> None:
    assert said(ORDER, 2) == {
        "eth0": Announcement(mac(3), bytes([10, 0, 0, 1]), 7),
        "eth1": Announcement(mac(4), NO_ADDRESS, 7),
    }


def test_the_control_interface_is_known_by_scope_or_address() -> None:
    assert control_link(kernel(), bytes([0xFE, 0x80, *bytes(14)]), 2) == 2
    assert control_link(kernel(), bytes([10, 0, 0, 2]), 0) == 3
    assert control_link(kernel(), bytes([10, 9, 9, 9]), 0) == 0


def test_pauses_grow_after_a_while_and_end() -> None:
    announcing, now, pauses = Announcing(), 0.0, []
    assert announcing.start(ORDER, now)
    while (pause := announcing.next(now)) is not None:
        pauses.append(pause)
        now += pause
    dense = round(DENSE_S / FIRST_PAUSE_S)
    assert pauses[:dense] == [0.005] * dense
    assert pauses[dense : dense + 8] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5]
    assert LASTS_S - 0.5 <= now <= LASTS_S
    assert announcing.current is None


def test_which_order_counts() -> None:
    announcing = Announcing()
    assert announcing.start(ORDER, 0.0)
    assert not announcing.start(ORDER, 1.0)
    assert not announcing.start(Announce("r1", 6, KEY), 1.0)
    assert announcing.start(Announce("r1", 8, KEY), 1.0)
    assert not announcing.confirmed(7)
    assert announcing.confirmed(8)
    assert not announcing.confirmed(8)
    assert announcing.start(ORDER, 2.0)
    announcing.stop()
    assert announcing.current is None


class FakeWire:
    """Keeps what is sent; interfaces in `broken` refuse."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.broken: set[str] = set()
        self.closed = 0
        self.changed = asyncio.Event()

    def send(self, interface: str, frame: bytes) -> None:
        self.changed.set()
        if interface in self.broken:
            raise OSError(105, "No buffer space available")
        self.sent.append(interface)

    def close(self) -> None:
        self.closed += 1

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.sent) < count:
                self.changed.clear()
                await self.changed.wait()


def play(story: Callable[[Announcer, FakeWire], Awaitable[None]]) -> None:
    async def run() -> None:
        wire = FakeWire()
        announcer = Announcer(kernel(), lambda: wire)
        await story(announcer, wire)
        announcer.stop()

    asyncio.run(run())


def test_at_once_and_again_until_confirmed() -> None:
    async def story(announcer: Announcer, wire: FakeWire) -> None:
        announcer.start(ORDER, ("fe80::9%xfctl", 2))
        assert wire.sent == ["eth0", "eth1"]
        await wire.until(6)
        announcer.confirmed(6)
        assert not wire.closed
        announcer.confirmed(7)
        assert wire.closed == 1
        announcer.start(Announce("r1", 8, KEY), ("10.0.0.2", 0))
        assert wire.sent[6:] == ["xfctl", "eth1"]

    play(story)


def test_an_interface_that_refuses_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def story(announcer: Announcer, wire: FakeWire) -> None:
        wire.broken.add("eth0")
        announcer.start(ORDER, ("fe80::9", 2))
        await wire.until(3)
        assert set(wire.sent) == {"eth1"}
        wire.broken.clear()
        await wire.until(5)
        assert "eth0" in wire.sent
        assert caplog.text.count("No buffer space") == 1

    play(story)


def test_without_the_capability_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> FakeWire:
        raise PermissionError(1, "Operation not permitted")

    async def run() -> None:
        announcer = Announcer(kernel(), refuse)
        announcer.start(ORDER, ("fe80::9", 2))
        announcer.confirmed(7)

    asyncio.run(run())
    assert "CAP_NET_RAW" in caplog.text

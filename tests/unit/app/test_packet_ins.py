"""Packet-ins that wait: announcements first, ports in turn, bounded; and the host, which reads on while they wait."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.app.test_openflow_connection import Switch, bring_up
from xenflow.errors import Fault
from xenflow.identity import Identity
from xenflow.model import ANNOUNCEMENT_MAC
from xenflow.wire import Hello, Message, Welcome
from xenflow_app.effects import Effect
from xenflow_app.host import SLICE_S, Host
from xenflow_app.openflow import fields, packet_ins
from xenflow_app.openflow.connection import Pace, SwitchSession
from xenflow_app.openflow.decode import decode
from xenflow_app.openflow.encode import echo
from xenflow_app.openflow.packet_ins import MAX_URGENT, URGENT_RUN, PacketIns, is_flow_removed, is_packet_in
from xenflow_app.openflow.values import BarrierReply, Features, FlowRemoved, PacketIn, SwitchMessage
from xenflow_app.pipeline import PROBE_MAC, Table

MAC = bytes.fromhex("020000000001")


def packet_in(port: int, number: int, to: bytes = MAC) -> bytes:
    """As Open vSwitch sends it, with the number at the end of the frame."""
    entries = ((fields.IN_PORT, port.to_bytes(2, "big")), (fields.REGISTERS[0], bytes(4)))
    match = b"".join(header.to_bytes(4, "big") + value for header, value in entries)
    frame = to + MAC + bytes.fromhex("0806") + number.to_bytes(4, "big")
    body = struct.pack(">IIIHBBQH6x", 0x2320, 17, 0xFFFFFFFF, len(frame), 0, 0, 1, len(match))
    body += match + bytes(-len(match) % 8) + bytes(2) + frame
    return struct.pack(">BBHI", 1, 4, 8 + len(body), 0) + body


def announcement(port: int, number: int) -> bytes:
    return packet_in(port, number, ANNOUNCEMENT_MAC)


def number_of(message: bytes) -> int:
    return int.from_bytes(message[-4:], "big")


def barrier(xid: int) -> bytes:
    return struct.pack(">BBHI", 1, 19, 8, xid)


def aged(number: int) -> bytes:
    """As Open vSwitch says that a flow has aged, with the number as its cookie."""
    match = fields.IN_PORT.to_bytes(4, "big") + bytes(2)
    body = struct.pack(">IIQHBBIIHHQQ", 0x2320, 14, number, 100, 0, 1 + Table.EXACT, 1, 0, 5, len(match), 0, 0)
    body += match + bytes(-len(match) % 8)
    return struct.pack(">BBHI", 1, 4, 8 + len(body), 0) + body


def test_only_packet_ins_and_aged_flows_wait() -> None:
    assert is_packet_in(packet_in(1, 2))
    assert is_flow_removed(aged(1))
    for message in (barrier(3), aged(1)):
        assert not is_packet_in(message)
    for message in (barrier(3), packet_in(1, 2)):
        assert not is_flow_removed(message)
    seen = decode(packet_in(7, 9))
    assert isinstance(seen, PacketIn)
    assert seen.in_port == 7


def test_probes_of_links_do_not_wait_either() -> None:
    waiting = PacketIns()
    for number in range(10_000):
        waiting.put(packet_in(5, number))
    waiting.put(packet_in(9, 77, PROBE_MAC))
    assert waiting.urgent
    taken = waiting.take(only_urgent=True)
    assert taken is not None
    assert number_of(taken) == 77
    assert waiting.take(only_urgent=True) is None


def test_an_announcement_does_not_wait_behind_ten_thousand_others() -> None:
    waiting = PacketIns()
    for number in range(10_000):
        waiting.put(packet_in(1, number))
    waiting.put(announcement(1, 77))
    assert waiting.take() == announcement(1, 77)
    assert [number_of(message) for message in waiting] == list(range(10_000))
    assert (len(waiting), waiting.dropped) == (0, 0)


def test_ports_take_turns() -> None:
    waiting = PacketIns()
    for number in range(5):
        waiting.put(packet_in(1, number))
    waiting.put(packet_in(2, 10))
    waiting.put(packet_in(2, 11))
    assert [number_of(message) for message in waiting] == [0, 10, 1, 11, 2, 3, 4]


def test_announcements_are_bounded_and_starve_nobody() -> None:
    waiting = PacketIns()
    for number in range(1000):
        waiting.put(announcement(1, number))
    waiting.put(announcement(2, 2000))
    waiting.put(packet_in(3, 3000))
    assert waiting.dropped == 1000 - MAX_URGENT
    order = [number_of(message) for message in waiting]
    assert order.index(2000) == 1
    assert order.index(3000) == URGENT_RUN
    assert len(order) == MAX_URGENT + 2


def test_the_port_that_floods_pays() -> None:
    waiting = PacketIns(max_messages=100)
    for number in range(20):
        waiting.put(packet_in(2, number))
    for number in range(1000):
        waiting.put(packet_in(1, 100 + number))
    waiting.put(packet_in(3, 50))
    kept = [number_of(message) for message in waiting]
    assert set(range(20)) | {50} < set(kept)
    assert (len(kept), waiting.dropped) == (100, 921)


def test_it_is_bounded_in_bytes() -> None:
    size = len(packet_in(1, 0))
    waiting = PacketIns(max_bytes=10 * size)
    for number in range(50):
        waiting.put(packet_in(number % 2, number))
    assert (len(waiting), waiting.dropped) == (10, 40)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=200))
def test_nothing_is_lost_or_doubled_and_a_port_keeps_its_order(steps: list[tuple[int, bool, bool]]) -> None:
    waiting, given_in, taken = PacketIns(max_messages=50), [], []
    for number, (port, urgent, takes) in enumerate(steps):
        message = announcement(port, number) if urgent else packet_in(port, number)
        given_in.append(message)
        waiting.put(message)
        if takes and (message_out := waiting.take()) is not None:
            taken.append(message_out)
    taken += list(waiting)
    assert len(set(taken)) == len(taken) == len(given_in) - waiting.dropped
    assert set(taken) <= set(given_in)
    for port in range(4):
        ordinary = [number_of(message) for message in taken if message == packet_in(port, number_of(message))]
        assert ordinary == sorted(ordinary)
    assert not waiting


def test_a_session_keeps_packet_ins_until_somebody_takes_them() -> None:
    session, switch = SwitchSession(0.0), Switch()
    session.receive(switch.receive(session.output(0.0)), 0.0)
    bring_up(session, switch)
    data = packet_in(1, 1) + barrier(5) + announcement(1, 2)
    assert session.receive(data, 0.0) == [BarrierReply(5)]
    taken = [session.next_message(), session.next_message(), session.next_message()]
    assert [message.data[:6] for message in taken if isinstance(message, PacketIn)] == [ANNOUNCEMENT_MAC, MAC]
    assert taken[2] is None


def test_aged_flows_wait_with_what_comes_behind_them_in_order() -> None:
    session, switch = SwitchSession(0.0), Switch()
    bring_up(session, switch)
    data = barrier(1) + aged(10) + packet_in(1, 1) + barrier(2) + echo(3) + aged(11) + announcement(1, 2) + barrier(4)
    assert session.receive(data, 0.0) == [BarrierReply(1)]
    assert session.output(0.0) == echo(3, reply=True)
    taken = []
    while (message := session.next_message()) is not None:
        taken.append(message)
    assert not session.has_message
    said = [item.cookie if isinstance(item, FlowRemoved) else item for item in taken]
    assert [item for item in said if not isinstance(item, PacketIn)] == [10, BarrierReply(2), 11, BarrierReply(4)]
    assert [item.data[:6] for item in said if isinstance(item, PacketIn)] == [ANNOUNCEMENT_MAC, MAC]
    assert isinstance(said[0], PacketIn)
    assert isinstance(said[-1], PacketIn)
    assert session.receive(barrier(5), 0.0) == [BarrierReply(5)]


def test_announcements_do_not_keep_aged_flows_from_their_turn() -> None:
    session, switch = SwitchSession(0.0), Switch()
    bring_up(session, switch)
    session.receive(b"".join(aged(number) + announcement(1, number) for number in range(5)), 0.0)
    kinds = [type(session.next_message()) for _ in range(10)]
    assert kinds == [PacketIn, FlowRemoved] * 5


def test_while_the_switch_does_not_read_only_announcements_are_dealt_with() -> None:
    session, switch = SwitchSession(0.0), Switch()
    bring_up(session, switch)
    session.send(barrier(1) * 400_000)
    sent = session.output(0.0)
    session.receive(packet_in(1, 1) + announcement(1, 2), 0.0)
    assert session.has_message
    first = session.next_message()
    assert isinstance(first, PacketIn)
    assert first.data[:6] == ANNOUNCEMENT_MAC
    assert (session.has_message, session.next_message()) == (False, None)
    session.receive(aged(1) + barrier(7), 0.0)
    assert isinstance(session.next_message(), FlowRemoved)
    assert (session.next_message(), session.has_message) == (BarrierReply(7), False)
    assert session.waiting_bytes > Pace().unsent_bytes
    while sent:
        session.receive(switch.receive(sent), 0.0)
        sent = session.output(0.0)
    assert session.waiting_bytes == 0
    assert session.has_message
    assert session.next_message() is not None


class SlowCore:
    """A core for which each packet-in, or aged flow, takes a fifth of a slice."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.seen: list[tuple[int, bytes]] = []

    def watch_door(self, where: str, refused: Mapping[Fault, int]) -> None:
        pass

    def switch_opened(self, switch: int, features: Features, node: str | None, now: float) -> None:
        pass

    def switch_message(self, switch: int, message: SwitchMessage, now: float) -> None:
        if isinstance(message, BarrierReply):
            self.seen.append((switch, b"barrier"))
            return
        assert isinstance(message, PacketIn | FlowRemoved)
        ends = self._loop.time() + SLICE_S / 5
        while self._loop.time() < ends:
            pass
        self.seen.append((switch, message.data[:6] if isinstance(message, PacketIn) else b"aged"))

    def switch_closed(self, switch: int, now: float) -> None:
        pass

    def tick(self, now: float) -> None:
        pass

    def next_deadline(self) -> float:
        return float("inf")

    def effects(self) -> Sequence[Effect]:
        return ()

    def peer_opened(self, peer: int, identity: Identity, hello: Hello, now: float) -> Welcome:
        raise AssertionError("no peer is connected here")

    def peer_message(self, peer: int, message: Message, now: float) -> None:
        raise AssertionError("no peer is connected here")

    def peer_closed(self, peer: int, now: float) -> None:
        raise AssertionError("no peer is connected here")


class Connection:
    """A switch that is up, joined with the host in memory."""

    def __init__(self, host: Host) -> None:
        self._switch = Switch()
        self._unsent: list[bytes] = []
        self.closed = ""
        self.link = host.open_switch(None, self._unsent.append, self._close, greeted=True)
        while self._unsent:
            answers = self._switch.receive(self._unsent.pop(0))
            if answers:
                self.link.received(answers)

    def _close(self, reason: str) -> None:
        self.closed = reason


async def until(condition: object) -> None:
    """Let the loop turn until `condition()` is true."""
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def test_the_host_sees_what_comes_while_packet_ins_wait() -> None:
    async def play() -> None:
        core = SlowCore(asyncio.get_running_loop())
        host = Host(core, asyncio.Event())
        flooded, other = Connection(host), Connection(host)
        flooded.link.received(b"".join(packet_in(1, number) for number in range(500)))
        assert 0 < len(core.seen) < 50
        before = len(core.seen)
        flooded.link.received(packet_in(1, 500) + barrier(9) + announcement(1, 1))
        other.link.received(packet_in(4, 1))
        assert core.seen[before:] == [(flooded.link.number, b"barrier")]
        await until(lambda: len(core.seen) > before + 3)
        urgent, fair = (flooded.link.number, ANNOUNCEMENT_MAC), (other.link.number, MAC)
        assert {urgent, fair} <= set(core.seen[before + 1 : before + 4])
        await until(lambda: len(core.seen) == 504)
        await host.close()

    asyncio.run(play())


def test_an_announcement_does_not_wait_until_all_aged_flows_are_dealt_with() -> None:
    async def play() -> None:
        core = SlowCore(asyncio.get_running_loop())
        host = Host(core, asyncio.Event())
        flooded, other = Connection(host), Connection(host)
        flooded.link.received(b"".join(aged(number) for number in range(500)) + barrier(9))
        assert 0 < len(core.seen) < 50
        before = len(core.seen)
        flooded.link.received(announcement(1, 1))
        other.link.received(barrier(8))
        await until(lambda: len(core.seen) > before + 3)
        assert {(flooded.link.number, ANNOUNCEMENT_MAC), (other.link.number, b"barrier")} <= set(
            core.seen[before : before + 3]
        )
        await until(lambda: len(core.seen) == 503)
        assert core.seen[-1] == (flooded.link.number, b"barrier")
        await host.close()

    asyncio.run(play())


def test_a_packet_in_that_makes_no_sense_ends_its_switch_only() -> None:
    async def play() -> None:
        core = SlowCore(asyncio.get_running_loop())
        host = Host(core, asyncio.Event())
        bad, good = Connection(host), Connection(host)
        cut = packet_in(1, 0)
        cut = cut[:32] + b"\xff\xff" + cut[34:]
        bad.link.received(b"".join(packet_in(1, number) for number in range(20)) + cut + packet_in(1, 9))
        good.link.received(b"".join(packet_in(1, number) for number in range(20)))
        await until(lambda: sum(switch == good.link.number for switch, _data in core.seen) == 20 and bad.closed)
        assert sum(switch == bad.link.number for switch, _data in core.seen) <= 21
        assert (good.closed, "malformed" in bad.closed) == ("", True)
        await host.close()

    asyncio.run(play())


def test_a_message_in_another_format_is_no_packet_in() -> None:
    assert not is_packet_in(bytes([1, 10]) + packet_in(1, 1)[2:])
    assert packet_ins.MAX_BYTES >= 10_000 * 1600

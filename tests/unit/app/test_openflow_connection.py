"""A switch session, joined in memory with a switch that answers as Open vSwitch does; time is a number."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow.errors import RemoteProtocolError
from xenflow_app.openflow import actions, messages, nxm
from xenflow_app.openflow.connection import Event, Pace, SwitchSession, Up
from xenflow_app.openflow.stream import Framer

FEATURES = struct.pack(">QIB3xII", 0xA01, 0, 254, 0, 0)
MOD = messages.flow_mod(messages.Command.ADD, nxm.flow_key(1, 1, reg0=1), actions.value(1, actions.output(1)))
PORT_STATUS = struct.pack(">BBHIB7x", 1, 12, 64, 0, 0) + struct.pack(">H6s16sIIIIII", 3, bytes(6), b"p3", *bytes(6))


class Switch:
    """The other side: answers what is asked, and remembers the rest."""

    def __init__(self) -> None:
        self.framer = Framer()
        self.taken: list[bytes] = []
        self.answers_echo = True

    def receive(self, data: bytes) -> bytes:
        answers = b""
        for message in self.framer.receive(data):
            kind, (xid,) = message[1], struct.unpack_from(">I", message, 4)
            if kind == 5:
                answers += struct.pack(">BBHI", 1, 6, 8 + len(FEATURES), xid) + FEATURES
            elif kind == 18:
                answers += struct.pack(">BBHI", 1, 19, 8, xid)
            elif kind == 2:
                answers += messages.echo(xid, message[8:], reply=True) if self.answers_echo else b""
            else:
                self.taken.append(message)
        return answers


def bring_up(session: SwitchSession, switch: Switch, now: float = 0.0) -> list[Event]:
    events = session.receive(messages.hello(), now)
    while data := session.output(now):
        events += session.receive(switch.receive(data), now)
    return events


def test_up_comes_once_and_first_and_nothing_is_lost_before_it() -> None:
    session, switch = SwitchSession(0.0), Switch()
    assert session.output(0.0) == messages.hello()
    assert session.receive(messages.hello() + PORT_STATUS, 0.0) == []
    events = session.receive(switch.receive(session.output(0.0)), 0.0)
    assert [type(event) for event in events] == [Up, messages.PortStatus]
    assert events[0] == Up(messages.Features(0xA01, (), 0xFFFF0000))


def test_a_greeted_session_sends_no_hello() -> None:
    session, switch = SwitchSession(0.0, greeted=True), Switch()
    events = session.receive(switch.receive(session.output(0.0)), 0.0)
    assert [type(event) for event in events] == [Up]
    assert all(message[1] != 0 for message in switch.taken)


@given(st.lists(st.integers(0, 300), max_size=8))
def test_any_split_of_the_switch_s_bytes_brings_it_up(cuts: list[int]) -> None:
    session, switch = SwitchSession(0.0), Switch()
    session.receive(messages.hello(), 0.0)
    answer = switch.receive(session.output(0.0)) + PORT_STATUS
    events: list[Event] = []
    start = 0
    for cut in [*sorted(cuts), len(answer)]:
        events += session.receive(answer[start:cut], 0.0)
        start = max(start, cut)
    assert [type(event) for event in events] == [Up, messages.PortStatus]


def test_echoes_are_answered() -> None:
    session, switch = SwitchSession(0.0), Switch()
    bring_up(session, switch)
    assert session.receive(messages.echo(9, b"hey"), 1.0) == []
    assert session.output(1.0) == messages.echo(9, b"hey", reply=True)


def test_a_silent_switch_is_probed_and_then_given_up() -> None:
    pace = Pace(probe_s=5, silence_s=15)
    session, switch = SwitchSession(0.0, pace=pace), Switch()
    bring_up(session, switch)
    assert session.next_deadline() == 5.0
    session.tick(5.0)
    probe = session.output(5.0)
    assert probe
    assert session.receive(switch.receive(probe), 5.1) == []
    assert session.next_deadline() == pytest.approx(10.1)
    session.tick(10.2)
    session.output(10.2)
    session.tick(25.0)
    with pytest.raises(RemoteProtocolError, match="not answered"):
        session.tick(25.2)


def test_setup_has_a_deadline() -> None:
    session = SwitchSession(0.0)
    session.tick(9.9)
    with pytest.raises(RemoteProtocolError, match="no OpenFlow"):
        session.tick(10.0)


def test_no_more_than_a_window_goes_out_before_the_switch_reads() -> None:
    session, switch = SwitchSession(0.0), Switch()
    bring_up(session, switch)
    switch.taken.clear()
    switch.answers_echo = False
    mods = [MOD[:4] + struct.pack(">I", number) + MOD[8:] for number in range(20_000)]
    session.send(b"".join(mods))
    first = session.output(0.0)
    assert Pace().window_bytes - Pace().chunk_bytes < len(first) < Pace().window_bytes + 1024
    switch.receive(first)
    assert session.output(0.0) == b"", "nothing was confirmed"
    switch.answers_echo = True
    replies = b"".join(messages.echo(0xFFFF0001 + number, reply=True) for number in range(3))
    session.receive(replies, 0.0)
    while data := session.output(0.0):
        session.receive(switch.receive(data), 0.0)
        session.receive(messages.echo(0xFFFF0004, reply=True), 0.0)
    assert switch.taken == mods, "all of it, in order"
    assert session.waiting_bytes == 0


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (struct.pack(">BBHI", 0, 0, 8, 1), "speaks OpenFlow version 0"),
        (messages.hello() + messages.hello(), "a second hello"),
        (struct.pack(">BBHI", 1, 19, 8, 1), "BarrierReply instead of a hello"),
        (struct.pack(">BBHIHH", 1, 1, 12, 1, 0, 0), "refused to set up"),
        (messages.hello() + struct.pack(">BBHIHH", 1, 1, 12, 0xFFFF0000, 1, 3), "protocols=OpenFlow10"),
        (b"\4\6\0\x08\0\0\0\0", "not OpenFlow 1.0"),
    ],
)
def test_what_ends_a_session(said: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        SwitchSession(0.0).receive(said, 0.0)


def test_a_switch_that_offers_more_is_talked_down() -> None:
    session = SwitchSession(0.0)
    session.receive(struct.pack(">BBHI", 6, 0, 16, 1) + bytes(8), 0.0)
    assert len(session.output(0.0)) > 8

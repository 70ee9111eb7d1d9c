"""What a switch sends reaches the core once and in order, wherever the stream is cut and whenever it is diverted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow.errors import RemoteProtocolError
from xenflow_app.diversion import MARK, Diversion
from xenflow_app.openflow import encode
from xenflow_app.openflow.encode import HEADER, VERSION, Type
from xenflow_app.openflow.stream import Framer


class Core:
    """Takes messages from both ways as the POX host does; `pox` is what POX has not handed on yet."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.pox: list[bytes] = []
        self.is_diverted = False
        self.pox_ports = 0
        self._framer = Framer()
        self._whole = Framer()
        self.diversion = Diversion(self._to_pox)

    def take(self, data: bytes) -> None:
        self.taken += self._whole.receive(data)
        assert not self._whole.waiting_bytes

    def _to_pox(self, data: bytes) -> None:
        self.pox += self._framer.receive(data)

    def pox_hands_on(self, most: int) -> None:
        for _ in range(min(most, len(self.pox))):
            message = self.pox.pop(0)
            if message == MARK:
                self.is_diverted = True
                self.diversion.marked()
                continue
            self.pox_ports += message[1] == Type.PORT_STATUS
            if not self.is_diverted:
                self.taken.append(message)


def message(number: int) -> bytes:
    kind = Type.PORT_STATUS if number % 3 == 0 else Type.PACKET_IN
    return HEADER.pack(VERSION, kind, 8 + number % 5, number) + bytes(number % 5)


@given(
    count=st.integers(1, 30),
    cuts=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=60),
    at=st.integers(0, 60),
)
def test_every_message_comes_once_and_in_order(count: int, cuts: list[tuple[int, int]], at: int) -> None:
    core = Core()
    sent = [message(number) for number in range(count)]
    stream = b"".join(sent)
    for place, (size, handed_on) in enumerate(cuts):
        if place == at:
            core.diversion.divert(core.take)
        core.diversion.receive(stream[:size])
        stream = stream[size:]
        core.pox_hands_on(handed_on)
    core.diversion.receive(stream)
    if at >= len(cuts):
        core.diversion.divert(core.take)
    core.pox_hands_on(1000)
    core.pox_hands_on(1000)
    assert core.taken == sent
    assert core.is_diverted
    assert core.pox_ports == sum(one[1] == Type.PORT_STATUS for one in sent)


def test_what_is_not_openflow_ends_it() -> None:
    core = Core()
    core.diversion.divert(core.take)
    with pytest.raises(RemoteProtocolError):
        core.diversion.receive(b"GET / HTTP/1.1\r\n")


def test_no_switch_can_know_the_mark() -> None:
    assert MARK[1] == Type.ECHO_REPLY
    assert len(MARK) == len(encode.echo(0)) + 16

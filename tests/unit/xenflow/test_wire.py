"""Messages on the wire: what is encoded comes back, and nothing that is decoded can do harm."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenflow import wire
from xenflow.model import (
    Address,
    Attachment,
    Bridge,
    Fact,
    Hop,
    Interface,
    Link,
    Machine,
    MachineKind,
    Neighbor,
    Network,
    Port,
    PortKind,
    Route,
    RouteKind,
    ShedRoutes,
)
from xenflow.shape import malformed
from xenflow.wire import Message

NAMES = st.text(max_size=12)
NUMBERS = st.integers(0, 1 << 40)
HOPS = st.lists(st.builds(Hop, NUMBERS, st.binary(max_size=16), NUMBERS), max_size=3).map(tuple)
INTERFACES = st.builds(
    Interface, NUMBERS, NAMES, st.binary(max_size=6), st.lists(st.binary(max_size=16), max_size=2).map(tuple)
)
FACTS: st.SearchStrategy[Fact] = st.one_of(
    st.builds(Link, NUMBERS, NAMES, st.binary(max_size=6), NUMBERS, st.booleans()),
    st.builds(Address, NUMBERS, st.binary(max_size=17)),
    st.builds(Route, st.binary(max_size=17), st.sampled_from(RouteKind), HOPS),
    st.builds(Neighbor, NUMBERS, st.binary(max_size=16), st.binary(max_size=6)),
    st.builds(ShedRoutes, st.integers(-3, 3)),
    st.builds(Network, NAMES, NUMBERS),
    st.builds(Machine, NAMES, st.sampled_from(MachineKind), st.lists(INTERFACES, max_size=2).map(tuple), NUMBERS),
    st.builds(
        Port, NAMES, NUMBERS, st.sampled_from(PortKind), NAMES, NUMBERS,
        st.lists(st.builds(Attachment, NUMBERS, NAMES), max_size=2).map(tuple), st.booleans(),
    ),
    st.builds(Bridge, NAMES, NUMBERS, NAMES),
)  # fmt: skip
KEYS = st.tuples(NUMBERS, st.binary(max_size=20))
ROLES = st.sampled_from(wire.Role)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(wire.Hello, NUMBERS, ROLES, NAMES, NUMBERS),
    st.builds(wire.Welcome, NUMBERS, ROLES, NAMES, NUMBERS),
    st.builds(wire.Begin, NAMES),
    st.builds(wire.Update, NAMES, NUMBERS, st.lists(FACTS, max_size=4), st.lists(KEYS, max_size=4)),
    st.builds(wire.End, NAMES, NUMBERS),
    st.builds(wire.Close, NAMES),
    st.builds(wire.Ack, NAMES, NUMBERS, NUMBERS),
    st.builds(wire.Ping, NUMBERS),
    st.builds(wire.Pong, NUMBERS),
    st.builds(wire.Bye, NAMES),
    st.builds(wire.Confirm, NUMBERS),
    st.builds(wire.Confirmed, NUMBERS),
    st.builds(wire.Query, NUMBERS, NAMES, st.dictionaries(NAMES, NAMES, max_size=3)),
    st.builds(wire.Answer, NUMBERS, st.binary(max_size=20), NAMES),
    st.builds(wire.Problem, NAMES, NAMES),
)


@given(MESSAGES)
def test_what_is_encoded_comes_back(message: Message) -> None:
    frame = wire.encode(message)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert wire.decode(frame[4:]) == message
    assert wire.decode(memoryview(frame)[4:]) == message


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_decode_error(body: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError):
        wire.encode(wire.decode(body))


@settings(max_examples=500)
@given(MESSAGES, st.data())
def test_a_damaged_message_is_a_message_or_a_decode_error(message: Message, data: st.DataObject) -> None:
    body = bytearray(wire.encode(message)[4:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))]
    with contextlib.suppress(msgspec.DecodeError):
        wire.encode(wire.decode(bytes(body)))


@given(FACTS)
def test_a_fact_that_can_be_has_a_key(fact: Fact) -> None:
    if not malformed(fact):
        assert isinstance(fact.key, bytes)


HOSTILE = [
    pytest.param(b"\x94\x04\xa0\x01\xdd\xff\xff\xff\xff", id="a list that claims 4 G elements"),
    pytest.param(b"\x94\x0d\x01\xa0\xdf\xff\xff\xff\xff", id="a map that claims 4 G elements"),
    pytest.param(b"\x92\x03\xa1\xff", id="text that is not UTF-8"),
    pytest.param(b"\x93\x03\xa1a" + b"\x91" * 100_000, id="deeply nested"),
    pytest.param(b"\x93\x05\xa0\xcf" + b"\xff" * 7, id="cut off in a number"),
    pytest.param(b"\x92\x63\xa0", id="an unknown message"),
    pytest.param(b"\x92\xff\xa0", id="a negative tag"),
    pytest.param(b"\x91\x03", id="a field is missing"),
    pytest.param(b"\x95\x04\xa0\x01\x91\x93\x63\xc4\x00\x01\x90", id="an unknown fact"),
    pytest.param(b"", id="nothing"),
]


@pytest.mark.parametrize("body", HOSTILE)
def test_hostile_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        wire.decode(body)


def test_fields_of_a_later_version_are_ignored() -> None:
    body = msgspec.msgpack.encode([3, "r1", "something new"])
    assert wire.decode(body) == wire.Begin("r1")

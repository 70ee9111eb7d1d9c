"""`xenflow.session.Session.receive`: messages or RemoteProtocolError, the same for any split, one Bye at a fault."""

from __future__ import annotations

from xenflow import wire
from xenflow.errors import RemoteProtocolError
from xenflow.session import Session, State

_HELLO = wire.encode(wire.Hello(wire.VERSION, wire.Role.NODE, "n1", 7))
_UPDATE = wire.encode(wire.Update("r1", 1, [], [(3, bytes(5))]))
SEEDS = [
    _HELLO,
    _HELLO + wire.encode(wire.Begin("r1")) + _UPDATE + wire.encode(wire.End("r1", 2)),
    _HELLO + wire.encode(wire.Ping(1)) + _UPDATE + wire.encode(wire.Bye("enough")) + _UPDATE,
    _HELLO + wire.encode(wire.Pong(1)),
]


def attack(data: bytes) -> None:
    """Receive all at once and in halves, and compare."""
    whole = _outcome([data])
    half = len(data) // 2
    assert _outcome([data[:half], data[half:]]) == whole
    assert _outcome([data[:5], data[5:]]) == whole


def _outcome(chunks: list[bytes]) -> tuple[list[wire.Message], State, str, bytes]:
    session = Session(hello=None, welcome=_welcome, peer=None, now=0.0)
    messages: list[wire.Message] = []
    output = b""
    for chunk in chunks:
        try:
            messages += session.receive(chunk, 0.0)
        except RemoteProtocolError:
            assert session.fault is not None
        output += session.output()
    assert (session.fault is None) or session.state is State.CLOSED
    return messages, session.state, session.fault.reason if session.fault else session.bye, output


def _welcome(hello: wire.Hello) -> wire.Welcome:
    return wire.Welcome(wire.VERSION, wire.Role.CONTROLLER, "app")

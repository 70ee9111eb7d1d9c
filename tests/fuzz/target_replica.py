"""`xenflow.replica.Inbox.receive` of whatever decodes: a Change or RemoteProtocolError, and then nothing changed."""

from __future__ import annotations

import msgspec

from xenflow import wire
from xenflow.errors import RemoteProtocolError
from xenflow.model import Hop, Link, Neighbor, Route, RouteKind
from xenflow.replica import Inbox

SEEDS = [
    wire.encode(message)[4:]
    for message in (
        wire.Begin("r1"),
        wire.Update("r1", 2, [Route(b"\x0a\1\0\0\x10", RouteKind.UNICAST, (Hop(2, b"\x0a\0\0\2"),))]),
        wire.Update("r1", 2, [Link(2, "eth0", bytes(6), 1500, True), Neighbor(2, bytes(16), bytes(6))], [(3, b"x")]),
        wire.Update("r1", 2, [Route(bytes(16) + b"\0", RouteKind.BLACKHOLE)], [(3, bytes(5)), (1, bytes(4))]),
        wire.End("r1", 2),
    )
]


def attack(data: bytes) -> None:
    """Receive one message within a snapshot."""
    inbox = Inbox("r1")
    inbox.receive(wire.Begin("r1"))
    inbox.receive(wire.Update("r1", 1, [Route(bytes(5), RouteKind.BLACKHOLE)]))
    before = dict(inbox.facts)
    try:
        message = wire.decode(data)
    except msgspec.DecodeError:
        return
    if not isinstance(message, wire.Begin | wire.Update | wire.End):
        return
    try:
        change = inbox.receive(message)
    except RemoteProtocolError:
        assert dict(inbox.facts) == before
        return
    for fact in change.upserts:
        before[fact.KIND, fact.key] = fact
    for key in change.withdrawals:
        del before[key]
    assert dict(inbox.facts) == before

"""`xenflow.wire.decode`: a message or msgspec.DecodeError, and what was decoded can be encoded."""

from __future__ import annotations

import contextlib

import msgspec

from xenflow import wire
from xenflow.model import (
    Address,
    Alarm,
    Attachment,
    Bridge,
    Handed,
    Hop,
    Interface,
    Link,
    Machine,
    MachineKind,
    Neighbor,
    Network,
    NodeLimits,
    Port,
    PortKind,
    Route,
    RouteKind,
    ShedRoutes,
)
from xenflow.resources import Granted, Resources

MESSAGES: list[wire.Message] = [
    wire.Hello(wire.VERSION, wire.Role.ROUTER, "r1", 7),
    wire.Welcome(wire.VERSION, wire.Role.NODE, "n1", 1000),
    wire.Begin("r1"),
    wire.Update(
        "r1",
        1,
        [
            Link(2, "eth0", b"\x02\0\0\0\0\1", 1500, True),
            Address(2, b"\x0a\0\0\1\x18"),
            Route(b"\x0a\1\0\0\x10", RouteKind.UNICAST, (Hop(2, b"\x0a\0\0\2"), Hop(2, b"\x0a\0\0\3", 2))),
            Route(b"\x0a\2\0\0\x10", RouteKind.BLACKHOLE),
            Neighbor(2, b"\x0a\0\0\2", b"\x02\0\0\0\0\2"),
            ShedRoutes(3),
        ],
        [(3, b"\x0a\3\0\0\x10")],
    ),
    wire.Update(
        wire.NODE_SCOPE,
        1,
        [
            Network("t1-lan", 12),
            Machine("r1", MachineKind.ROUTER, (Interface(1, "t1-lan", b"\x02\0\0\0\0\1", (b"\x0a\0\0\1",)),), 100),
            Port("vif1.0", 3, PortKind.VIF, "r1", 1),
            Port("eth1", 4, PortKind.ACCESS, attachments=(Attachment(12, "t1-lan"),), alive=False),
            Bridge("xenbr0", 0x1234, "netdev"),
            Handed("r2", 1234),
            NodeLimits(20),
            Granted("r1", Resources(512, 2, 256, 0), ("vcpus = 4: too many",)),
            Alarm("two machines with one MAC address"),
        ],
    ),
    wire.End("r1", 2),
    wire.Close("r1"),
    wire.Ack("r1", 2, 5),
    wire.Ping(1),
    wire.Pong(1),
    wire.Bye("enough"),
    wire.Confirm(9),
    wire.Confirmed(9),
    wire.Query(1, "routes", {"router": "r1"}),
    wire.Answer(1, b"{}", "no such router"),
    wire.Problem("r1", "refused"),
]
SEEDS = [wire.encode(message)[4:] for message in MESSAGES]


def attack(data: bytes) -> None:
    """Decode, and encode what came out."""
    with contextlib.suppress(msgspec.DecodeError):
        wire.encode(wire.decode(data))

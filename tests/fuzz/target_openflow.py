"""A switch that says anything: `SwitchSession.receive` gives events or RemoteProtocolError, `text` a ValueError."""

from __future__ import annotations

import contextlib
import struct

from xenflow.errors import RemoteProtocolError
from xenflow_app.openflow import actions, fields, messages, nxm, text
from xenflow_app.openflow.connection import OWN_XIDS, Event, SwitchSession
from xenflow_app.openflow.decode import entries
from xenflow_app.openflow.messages import FlowStats

_MATCH = nxm.match(in_port=3, dl_type=nxm.ETH_IPV6, nw_proto=nxm.ICMP6, icmp6_type=136, nd_target=bytes(16), reg4=9)
_PADDED = _MATCH + bytes(-len(_MATCH) % 8)
_ACTIONS = (
    actions.load(fields.whole(fields.REG3), 7)
    + actions.learn_drop(0, 65200, 1, 7, [fields.whole(fields.IN_PORT)])
    + actions.multipath(3, fields.whole(fields.REG3))
    + actions.check_pkt_larger(1518, fields.Subfield(fields.REG5, 0, 1))
    + actions.controller(64, actions.Reason.NO_MATCH, 3)
)
_PORT = struct.pack(">H6s16sIIIIII", 3, bytes(6), b"p3", *bytes(6))


def _message(kind: int, body: bytes, xid: int = OWN_XIDS) -> bytes:
    return struct.pack(">BBHI", 1, kind, 8 + len(body), xid) + body


_FLOW = struct.pack(
    ">HBxIIHHHHHHQQQ", 48 + len(_PADDED) + len(_ACTIONS), 30, 1, 2, 3, 4, 5, len(_MATCH), 6, 7, 8, 9, 10
)
_PACKET_IN = struct.pack(">IIIHBBQH6x", 0x2320, 17, 0xFFFFFFFF, 60, 0, 5, 7, len(_MATCH)) + _PADDED + b"\0\0frame"
_REMOVED = struct.pack(">IIQHBBIIHHQQ", 0x2320, 14, 7, 116, 0, 31, 1, 2, 60, len(_MATCH), 10, 640) + _PADDED
_FEATURES = _message(6, struct.pack(">QIB3xII", 0xA01, 0, 254, 0, 0) + _PORT)
_UP = messages.hello() + _FEATURES + _message(19, b"")

SEEDS = [
    _UP,
    _UP + _message(17, struct.pack(">HHII4x", 0xFFFF, 1, 0x2320, 0) + (_FLOW + _PADDED + _ACTIONS) * 3, 9),
    _UP + _message(17, struct.pack(">HHII4xQQI4x", 0xFFFF, 0, 0x2320, 1, 1, 2, 3), 9),
    _UP + _message(17, struct.pack(">HHH6x12Q", 4, 0, 3, *range(12)), 9),
    _UP + _message(4, _PACKET_IN) + _message(4, _REMOVED) + _message(12, struct.pack(">B7x", 2) + _PORT),
    _UP + _message(1, struct.pack(">HHIHH", 0xB0C2, 0, 0x2320, 1, 263) + b"data", 9) + messages.echo(1, b"x"),
    messages.hello() + _message(1, struct.pack(">HH", 1, 1)),
]


def attack(data: bytes) -> None:
    """Receive at once and in halves, compare, and show what flows there are."""
    events, fault = _outcome([data])
    half = len(data) // 2
    split_events, split_fault = _outcome([data[:half], data[half:]])
    assert split_fault == fault
    if not fault:
        assert split_events == events
    for event in events:
        if isinstance(event, FlowStats):
            for flow in event.flows:
                with contextlib.suppress(ValueError):
                    text.flow(flow.key, flow.value)
                    entries(flow.key[3:])


def _outcome(chunks: list[bytes]) -> tuple[list[Event], bool]:
    session = SwitchSession(0.0)
    events: list[Event] = []
    try:
        for chunk in chunks:
            events += session.receive(chunk, 0.0)
            session.output(0.0)
        while (message := session.next_message()) is not None:
            events.append(message)
    except RemoteProtocolError:
        return events, True
    return events, False

"""Messages: what is encoded, what is decoded, and that only one kind of error ever leaves the decoder."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow.errors import RemoteProtocolError
from xenflow_app.openflow import actions, decode, fields, messages, nxm, text
from xenflow_app.openflow.messages import Command
from xenflow_app.openflow.stream import Framer

KEY = nxm.flow_key(30, 116, dl_type=0x800, nw_dst=(b"\x0a\1\0\0", 16), reg2=1)
VALUE = actions.value(0x5866 << 48, actions.load(fields.whole(fields.REG3), 7) + actions.resubmit(40))


def flow_entry(key: bytes, value: bytes, hard: int = 0) -> bytes:
    """Return a flow as NXST_FLOW has it."""
    match = key[3:]
    padded = match + bytes(-len(match) % 8)
    table, priority = struct.unpack_from(">BH", key)
    cookie, idle, _flags = struct.unpack_from(">QHH", value)
    length = 48 + len(padded) + len(value) - 12
    head = (length, table, 3, 500_000_000, priority, idle, hard, len(match), 2, 3, cookie, 10, 640)
    return struct.pack(">HBxIIHHHHHHQQQ", *head) + padded + value[12:]


def dump(entries: bytes, *, more: bool = False, xid: int = 5) -> bytes:
    return struct.pack(">BBHIHHII4x", 1, 17, 24 + len(entries), xid, 0xFFFF, more, 0x2320, 0) + entries


def vendor(subtype: int, body: bytes) -> bytes:
    return struct.pack(">BBHIII", 1, 4, 16 + len(body), 0, 0x2320, subtype) + body


def port(number: int = 3, name: bytes = b"vif1.0", config: int = 0, state: int = 0) -> bytes:
    return struct.pack(">H6s16sIIIIII", number, b"\2" + bytes(5), name, config, state, 0, 0, 0, 0)


SAMPLES = {
    "hello": messages.hello(1),
    "echo": messages.echo(9, b"probe", reply=True),
    "features": struct.pack(">BBHIQIB3xII", 1, 6, 32 + 48, 2, 0xA01, 0, 254, 0, 0) + port(),
    "port": struct.pack(">BBHIB7x", 1, 12, 64, 0, 2) + port(state=1),
    "barrier": struct.pack(">BBHI", 1, 19, 8, 44),
    "error": struct.pack(">BBHIHH", 1, 1, 16, 77, 2, 1) + b"data",
    "vendor error": struct.pack(">BBHIHHIHH", 1, 1, 24, 77, 0xB0C2, 0, 0x2320, 1, 263) + b"data",
    "packet-in": vendor(
        17,
        struct.pack(">IHBBQH6x", 0xFFFFFFFF, 60, 0, 5, 7, 14) + nxm.match(in_port=3, reg4=9) + bytes(2 + 2) + b"frame",
    ),
    "flow removed": vendor(
        14,
        struct.pack(">QHBBIIHHQQ", 7, 116, 0, 31, 1, 2, 60, len(KEY) - 3, 10, 640) + KEY[3:] + bytes(-len(KEY[3:]) % 8),
    ),
    "dump": dump(flow_entry(KEY, VALUE) + flow_entry(nxm.flow_key(0, 1), actions.value(1, b"", 60), 9), more=True),
    "sums": struct.pack(">BBHIHHII4xQQI4x", 1, 17, 48, 6, 0xFFFF, 0, 0x2320, 1, 10, 640, 2),
    "ports": struct.pack(">BBHIHHH6x12Q", 1, 17, 12 + 104, 7, 4, 0, 3, *range(12)),
    "other": struct.pack(">BBHI", 1, 21, 8, 3),
}


def decoded(name: str) -> messages.SwitchMessage:
    return messages.decode(SAMPLES[name])


def test_simple_messages() -> None:
    assert decoded("hello") == messages.Hello(1, 1)
    assert decoded("echo") == messages.Echo(9, b"probe", reply=True)
    assert decoded("barrier") == messages.BarrierReply(44)
    assert decoded("error") == messages.ErrorMessage(77, 2, 1, b"data")
    assert decoded("vendor error") == messages.ErrorMessage(77, 1, 263, b"data")
    assert decoded("other") == messages.Unknown(21, 3)
    assert decoded("sums") == messages.AggregateStats(6, 10, 640, 2)
    assert decoded("ports") == messages.PortStats(7, (messages.PortCounters(3, 0, 1, 2, 3, 4, 5),), more=False)


def test_ports_are_up_or_not() -> None:
    up = messages.SwitchPort(3, "vif1.0", b"\2" + bytes(5), up=True)
    assert decoded("features") == messages.Features(0xA01, (up,), 2)
    status = decoded("port")
    assert isinstance(status, messages.PortStatus)
    assert (status.reason, status.number, status.name, status.up) == (messages.PortReason.MODIFY, 3, "vif1.0", False)


def test_packet_in_and_flow_removed() -> None:
    regs = (0, 0, 0, 0, 9, 0, 0, 0)
    assert decoded("packet-in") == messages.PacketIn(5, 7, 0, 3, regs, b"frame", 60)
    assert decoded("flow removed") == messages.FlowRemoved(KEY, 7, messages.RemovedReason.IDLE_TIMEOUT, 10, 640)


def test_a_dumped_flow_is_the_planned_one() -> None:
    part = decoded("dump")
    assert isinstance(part, messages.FlowStats)
    assert (part.xid, part.more) == (5, True)
    first, second = part.flows
    assert (first.key, first.value) == (KEY, VALUE)
    assert (first.packets, first.bytes, first.duration_s, first.idle_age_s) == (10, 640, 3.5, 2)
    assert (second.value, second.hard_timeout_s) == (actions.value(1, b"", 60), 9)


def test_flow_mod_layout() -> None:
    mod = messages.flow_mod(Command.ADD, KEY, VALUE, 9)
    version, kind, length, xid, vendor_id, subtype, cookie = struct.unpack_from(">BBHIIIQ", mod)
    assert (version, kind, length, xid, vendor_id, subtype) == (1, 4, len(mod), 9, 0x2320, 13)
    command, idle, hard, priority, buffer, out_port, flags, match_len = struct.unpack_from(">HHHHIHHH", mod, 24)
    assert (cookie, command, priority, match_len) == (0x5866 << 48, 30 << 8, 116, len(KEY) - 3)
    assert (idle, hard, buffer, out_port, flags) == (0, 0, 0xFFFFFFFF, 0xFFFF, 0)
    assert len(mod) % 8 == 0
    assert mod[48 : 48 + match_len] == KEY[3:]
    assert mod.endswith(VALUE[12:])


def test_a_deletion_may_insist_on_the_cookie() -> None:
    anyones = messages.flow_mod(Command.DELETE_STRICT, KEY)
    ours = messages.flow_mod(Command.DELETE_STRICT, KEY, VALUE)
    assert VALUE[:8] not in anyones
    assert fields.masked(fields.COOKIE).to_bytes(4, "big") + VALUE[:8] in ours
    mask = ours.partition(VALUE[:8])[2][:8]
    assert mask != b"\xff" * 8, "Open vSwitch would walk all flows with that cookie"
    assert VALUE[12:] not in ours


def test_a_packet_out_has_to_fit() -> None:
    assert messages.packet_out(actions.output(1), b"frame").endswith(actions.output(1) + b"frame")
    with pytest.raises(ValueError):
        messages.packet_out(b"", bytes(1 << 16))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_truncation_is_one_kind_of_error_or_a_value(name: str) -> None:
    whole = SAMPLES[name]
    for size in range(len(whole)):
        cut = whole[:size]
        for candidate in (cut, cut[:2] + struct.pack(">H", size) + cut[4:] if size >= 4 else cut):
            try:
                messages.decode(candidate)
            except RemoteProtocolError:
                continue


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_damaged_messages_raise_nothing_else(name: str, data: st.DataObject) -> None:
    damaged = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = messages.decode(bytes(damaged))
    except RemoteProtocolError:
        return
    if isinstance(message, messages.FlowStats):
        for flow in message.flows:
            try:
                text.flow(flow.key, flow.value)
            except ValueError:
                continue


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_else(data: bytes) -> None:
    framer = Framer()
    try:
        for message in framer.receive(data):
            messages.decode(message)
    except RemoteProtocolError:
        return


@given(st.lists(st.integers(0, 400), max_size=12))
def test_any_split_gives_the_same_messages(cuts: list[int]) -> None:
    stream = b"".join(SAMPLES.values())
    framer, found, start = Framer(), [], 0
    for cut in [*sorted(cuts), len(stream)]:
        found += framer.receive(stream[start:cut])
        start = max(start, cut)
    assert found == list(SAMPLES.values())
    assert framer.waiting_bytes == 0


@pytest.mark.parametrize("wrong", [b"\1\0\0\7\0\0\0\0", b"\4\2\0\x08\0\0\0\0", b"GET / HTTP/1.1\r\n"])
def test_another_protocol_ends_the_stream(wrong: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not OpenFlow"):
        Framer().receive(wrong)


def test_speed() -> None:
    """Far from the figures of docs/design/openflow.md, so that only a blunder fails on a busy machine."""
    entry = flow_entry(KEY, VALUE)
    message = dump(entry * (60_000 // len(entry)))
    start = time.perf_counter()
    count = 0
    while count < 100_000:
        part = decode.decode(message)
        assert isinstance(part, messages.FlowStats)
        count += len(part.flows)
    assert time.perf_counter() - start < 1.5
    start = time.perf_counter()
    for _ in range(30_000):
        messages.flow_mod(Command.ADD, KEY, VALUE)
    assert time.perf_counter() - start < 0.5

"""Messages from a switch, from bytes to values. What is malformed is a RemoteProtocolError, and nothing else.

The door is `decode`: the functions below it let struct.error and ValueError pass, which it converts. Flow dumps are
the large ones, so their loop slices and does not look into matches and actions (those are keys and values as they are).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from xenflow.errors import Fault, RemoteProtocolError
from xenflow_app.openflow import fields
from xenflow_app.openflow.actions import SEND_FLOW_REMOVED, VENDOR
from xenflow_app.openflow.encode import HEADER, STATS_HEADER, VENDOR_HEADER, VERSION, Nicira, Stats, Type
from xenflow_app.openflow.values import (
    AggregateStats,
    BarrierReply,
    Echo,
    ErrorMessage,
    Features,
    Flow,
    FlowRemoved,
    FlowStats,
    Hello,
    PacketIn,
    PortCounters,
    PortReason,
    PortStats,
    PortStatus,
    RemovedReason,
    SwitchMessage,
    SwitchPort,
    Unknown,
)

_FEATURES = struct.Struct(">QIB3xII")
_PORT = struct.Struct(">H6s16sIIIIII")
_PORT_STATUS = struct.Struct(">B7x")
_ERROR = struct.Struct(">HH")
_VENDOR_ERROR = struct.Struct(">IHH")
_NICIRA_ERROR = 0xB0C2
"""An error of a later version, wrapped: its own type and code stand behind (nx_vendor_error)."""
_PACKET_IN = struct.Struct(">IHBBQH6x")
_FLOW_REMOVED = struct.Struct(">QHBBIIHHQQ")
_FLOW = struct.Struct(">HBxIIHHHHHHQQQ")
_AGGREGATE = struct.Struct(">QQI4x")
_PORT_COUNTERS = struct.Struct(">H6x6Q48x")
_VENDOR_STATS = struct.Struct(">II4x")
_TABLE_PRIORITY = struct.Struct(">BH")
_COOKIE_IDLE_FLAGS = struct.Struct(">QHH")
_MORE = 1
_PORT_DOWN, _LINK_DOWN = 1, 1


def decode(message: bytes) -> SwitchMessage:
    """Return the value of one whole message. Raises RemoteProtocolError for a malformed one."""
    try:
        version, kind, length, xid = HEADER.unpack_from(message)
        if length != len(message):
            raise ValueError(f"length {length} in a message of {len(message)} bytes")
        if kind == Type.HELLO:
            return Hello(version, xid)
        if version != VERSION:
            raise ValueError(f"version {version}")
        body = _BODIES.get(kind)
        return body(xid, message) if body else Unknown(kind, xid)
    except (struct.error, ValueError) as error:
        reason = f"malformed OpenFlow message {message[:16].hex()}…: {error}"
        raise RemoteProtocolError(reason, Fault.GARBAGE) from error


def _echo_request(xid: int, message: bytes) -> Echo:
    return Echo(xid, message[8:], reply=False)


def _echo_reply(xid: int, message: bytes) -> Echo:
    return Echo(xid, message[8:], reply=True)


def _barrier_reply(xid: int, _message: bytes) -> BarrierReply:
    return BarrierReply(xid)


def _error(xid: int, message: bytes) -> ErrorMessage:
    kind, code = _ERROR.unpack_from(message, 8)
    if kind == _NICIRA_ERROR:
        _vendor_id, kind, code = _VENDOR_ERROR.unpack_from(message, 12)
        return ErrorMessage(xid, kind, code, message[20:])
    return ErrorMessage(xid, kind, code, message[12:])


def _port(message: bytes, offset: int) -> SwitchPort:
    number, mac, name, config, state, *_features = _PORT.unpack_from(message, offset)
    up = not (config & _PORT_DOWN or state & _LINK_DOWN)
    return SwitchPort(number, name.split(b"\0", 1)[0].decode("utf-8", "replace"), mac, up)


def _features(xid: int, message: bytes) -> Features:
    dpid, *_rest = _FEATURES.unpack_from(message, 8)
    start = 8 + _FEATURES.size
    if (len(message) - start) % _PORT.size:
        raise ValueError("half a port")
    ports = tuple(_port(message, offset) for offset in range(start, len(message), _PORT.size))
    return Features(dpid, ports, xid)


def _port_status(_xid: int, message: bytes) -> PortStatus:
    (reason,) = _PORT_STATUS.unpack_from(message, 8)
    return PortStatus(PortReason(reason), _port(message, 8 + _PORT_STATUS.size))


def _vendor(xid: int, message: bytes) -> SwitchMessage:
    *_header, vendor, subtype = VENDOR_HEADER.unpack_from(message)
    if vendor == VENDOR and subtype == Nicira.PACKET_IN:
        return _packet_in(message)
    if vendor == VENDOR and subtype == Nicira.FLOW_REMOVED:
        return _flow_removed(message)
    return Unknown(Type.VENDOR, xid)


def entries(match: bytes) -> list[tuple[int, bytes]]:
    """Return the entries of an NXM match: header, value (and mask behind it). Raises ValueError if it is malformed."""
    found, offset = [], 0
    while offset < len(match):
        header = int.from_bytes(match[offset : offset + 4], "big")
        end = offset + 4 + (header & 0xFF)
        if end > len(match):
            raise ValueError(f"match entry {header:#010x} goes beyond the match")
        found.append((header, match[offset + 4 : end]))
        offset = end
    return found


def _packet_in(message: bytes) -> PacketIn:
    _buffer, total_len, reason, table, cookie, match_len = _PACKET_IN.unpack_from(message, 16)
    start = 16 + _PACKET_IN.size
    data_start = start + (match_len + 7) // 8 * 8 + 2
    if data_start > len(message):
        raise ValueError("the match goes beyond the message")
    matched = dict(entries(message[start : start + match_len]))
    in_port = int.from_bytes(matched.get(fields.IN_PORT, b""), "big")
    regs = tuple([int.from_bytes(matched.get(register, b""), "big") for register in fields.REGISTERS])
    return PacketIn(table, cookie, reason, in_port, regs, message[data_start:], total_len)


def _flow_removed(message: bytes) -> FlowRemoved:
    removed = _FLOW_REMOVED.unpack_from(message, 16)
    cookie, priority, reason, table, _s, _ns, _idle, match_len, packets, octets = removed
    start = 16 + _FLOW_REMOVED.size
    if start + match_len > len(message) or not table:
        raise ValueError("the match goes beyond the message" if table else "no table")
    key = _TABLE_PRIORITY.pack(table - 1, priority) + message[start : start + match_len]
    known = RemovedReason(reason) if reason < RemovedReason.OTHER else RemovedReason.OTHER
    return FlowRemoved(key, cookie, known, packets, octets)


def _stats(xid: int, message: bytes) -> SwitchMessage:
    *_header, kind, flags = STATS_HEADER.unpack_from(message)
    more = bool(flags & _MORE)
    if kind == Stats.PORT:
        return PortStats(xid, _port_counters(message), more)
    if kind == Stats.VENDOR:
        vendor, subtype = _VENDOR_STATS.unpack_from(message, STATS_HEADER.size)
        if vendor == VENDOR and subtype == Stats.NX_FLOW:
            return FlowStats(xid, _flows(message), more)
        if vendor == VENDOR and subtype == Stats.NX_AGGREGATE:
            packets, octets, flows = _AGGREGATE.unpack_from(message, STATS_HEADER.size + _VENDOR_STATS.size)
            return AggregateStats(xid, packets, octets, flows)
    return Unknown(Type.STATS_REPLY, xid)


def _port_counters(message: bytes) -> tuple[PortCounters, ...]:
    return tuple([PortCounters(*counters) for counters in _PORT_COUNTERS.iter_unpack(message[STATS_HEADER.size :])])


def _flows(message: bytes) -> tuple[Flow, ...]:
    flows: list[Flow] = []
    offset, end = STATS_HEADER.size + _VENDOR_STATS.size, len(message)
    unpack, head_size = _FLOW.unpack_from, _FLOW.size
    pack_key, pack_value = _TABLE_PRIORITY.pack, _COOKIE_IDLE_FLAGS.pack
    while offset < end:
        (
            length, table, seconds, nanoseconds, priority, idle, hard, match_len, idle_age, _hard_age,
            cookie, packets, octets,
        ) = unpack(message, offset)  # fmt: skip
        match_start = offset + head_size
        match_end = match_start + match_len
        actions_start = match_start + (match_len + 7 & ~7)
        offset += length
        if actions_start > offset or offset > end:
            raise ValueError("a flow goes beyond its entry")
        flows.append(
            Flow(
                pack_key(table, priority) + message[match_start:match_end],
                pack_value(cookie, idle, SEND_FLOW_REMOVED if idle else 0) + message[actions_start:offset],
                packets,
                octets,
                seconds + nanoseconds / 1e9,
                idle_age,
                hard,
            )
        )
    return tuple(flows)


_BODIES: dict[int, Callable[[int, bytes], SwitchMessage]] = {
    Type.ERROR: _error,
    Type.ECHO_REQUEST: _echo_request,
    Type.ECHO_REPLY: _echo_reply,
    Type.VENDOR: _vendor,
    Type.FEATURES_REPLY: _features,
    Type.PORT_STATUS: _port_status,
    Type.STATS_REPLY: _stats,
    Type.BARRIER_REPLY: _barrier_reply,
}

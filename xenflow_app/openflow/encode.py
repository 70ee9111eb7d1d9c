"""Messages to a switch, as bytes. `flow_mod` is the one that must be fast: it is two slices and one struct.

Sources: OpenFlow Switch Specification 1.0.0, section 5; nicira-ext.h of Open vSwitch.
"""

from __future__ import annotations

import enum
import struct
from typing import TypeAlias

from xenflow_app.openflow import fields
from xenflow_app.openflow.actions import NONE, VALUE_HEAD, VENDOR, FlowValue
from xenflow_app.openflow.nxm import FlowKey

Xid: TypeAlias = int

HEADER = struct.Struct(">BBHI")
VENDOR_HEADER = struct.Struct(">BBHIII")
STATS_HEADER = struct.Struct(">BBHIHH")
VENDOR_STATS_HEADER = struct.Struct(">BBHIHHII4x")
VERSION = 1
NO_BUFFER = 0xFFFFFFFF
ALL_TABLES = 0xFF
COOKIE_MASKED = fields.masked(fields.COOKIE).to_bytes(4, "big")
_OUR_BITS = bytes.fromhex("ffffff00ffffffff")
"""Mask of the bits of a cookie of ours that are used (see flowtable.cookie). Not all ones: for a cookie without a mask
Open vSwitch walks all flows that have it, one after the other (ofproto.c, collect_rules_strict)."""
PADDING = tuple(bytes(-length % 8) for length in range(8))

_FLOW_MOD = struct.Struct(">BBHIII8sBB2sH2sIH2sH6x")
_PACKET_OUT = struct.Struct(">BBHIIHH")


class Type(enum.IntEnum):
    """OpenFlow 1.0 message types (ofp_type)."""

    HELLO = 0
    ERROR = 1
    ECHO_REQUEST = 2
    ECHO_REPLY = 3
    VENDOR = 4
    FEATURES_REQUEST = 5
    FEATURES_REPLY = 6
    SET_CONFIG = 9
    PACKET_IN = 10
    FLOW_REMOVED = 11
    PORT_STATUS = 12
    PACKET_OUT = 13
    STATS_REQUEST = 16
    STATS_REPLY = 17
    BARRIER_REQUEST = 18
    BARRIER_REPLY = 19


class Nicira(enum.IntEnum):
    """Nicira's messages (nicira_type)."""

    SET_FLOW_FORMAT = 12
    FLOW_MOD = 13
    FLOW_REMOVED = 14
    FLOW_MOD_TABLE_ID = 15
    SET_PACKET_IN_FORMAT = 16
    PACKET_IN = 17


class Stats(enum.IntEnum):
    """Kinds of statistics (ofp_stats_types) and Nicira's own (nicira_stats_type) under VENDOR."""

    NX_FLOW = 0
    NX_AGGREGATE = 1
    PORT = 4
    VENDOR = 0xFFFF


class Command(enum.IntEnum):
    """What a flow-mod does (ofp_flow_mod_command).

    ADD replaces a flow of the same key, and its counters. MODIFY_STRICT keeps counters and sets cookie and actions,
    but not timeouts and flags; without a flow of that key it adds one. DELETE_STRICT is quiet if there is none.
    """

    ADD = 0
    MODIFY_STRICT = 2
    DELETE_STRICT = 4


def hello(xid: Xid = 0) -> bytes:
    """Return the first message of either side: OpenFlow 1.0."""
    return HEADER.pack(VERSION, Type.HELLO, 8, xid)


def echo(xid: Xid, data: bytes = b"", *, reply: bool = False) -> bytes:
    """Return a probe or the answer to one."""
    return HEADER.pack(VERSION, Type.ECHO_REPLY if reply else Type.ECHO_REQUEST, 8 + len(data), xid) + data


def features_request(xid: Xid) -> bytes:
    """Return the question for dpid and ports."""
    return HEADER.pack(VERSION, Type.FEATURES_REQUEST, 8, xid)


def barrier_request(xid: Xid) -> bytes:
    """Return the question whether all before it is done."""
    return HEADER.pack(VERSION, Type.BARRIER_REQUEST, 8, xid)


def set_config(xid: Xid, miss_send_bytes: int = 0xFFFF) -> bytes:
    """Return: fragments as usual, whole packets to the controller."""
    return HEADER.pack(VERSION, Type.SET_CONFIG, 12, xid) + struct.pack(">HH", 0, miss_send_bytes)


def _vendor(subtype: Nicira, xid: Xid, body: bytes) -> bytes:
    return VENDOR_HEADER.pack(VERSION, Type.VENDOR, 16 + len(body), xid, VENDOR, subtype) + body


def set_flow_format(xid: Xid) -> bytes:
    """Return: flow dumps and FlowRemoved as NXM (NXFF_NXM)."""
    return _vendor(Nicira.SET_FLOW_FORMAT, xid, struct.pack(">I", 2))


def flow_mod_table_id(xid: Xid) -> bytes:
    """Return: flow-mods carry a table in the upper half of their command."""
    return _vendor(Nicira.FLOW_MOD_TABLE_ID, xid, struct.pack(">B7x", 1))


def set_packet_in_format(xid: Xid) -> bytes:
    """Return: packets come with table, cookie and registers (NXPIF_NXT_PACKET_IN)."""
    return _vendor(Nicira.SET_PACKET_IN_FORMAT, xid, struct.pack(">I", 1))


def flow_mod(command: Command, key: FlowKey, value: FlowValue = b"", xid: Xid = 0) -> bytes:
    """Return the change of one flow.

    ADD and MODIFY_STRICT take the whole value. DELETE_STRICT with a value deletes the flow only if it has that value's
    cookie (so that a flow of somebody else's under the same key survives); without, whatever the cookie.
    """
    match, actions = key[3:], value[12:]
    if command == Command.DELETE_STRICT:
        if value:
            match += COOKIE_MASKED + value[:8] + _OUR_BITS
        actions, value = b"", bytes(VALUE_HEAD.size)
    match_len = len(match)
    padding = PADDING[match_len & 7]
    return b"".join(
        (
            _FLOW_MOD.pack(
                VERSION,
                4,
                48 + match_len + len(padding) + len(actions),
                xid,
                VENDOR,
                13,
                value[:8],
                key[0],
                command,
                value[8:10],
                0,
                key[1:3],
                NO_BUFFER,
                NONE,
                value[10:12],
                match_len,
            ),
            match,
            padding,
            actions,
        )
    )


def packet_out(actions: bytes, data: bytes, in_port: int = NONE, xid: Xid = 0) -> bytes:
    """Return: do these actions with this frame as if it came in by `in_port`.

    Raises ValueError for what does not fit into a message.
    """
    length = _PACKET_OUT.size + len(actions) + len(data)
    if length > 0xFFFF:
        raise ValueError(f"a packet-out of {length} bytes")
    header = _PACKET_OUT.pack(VERSION, Type.PACKET_OUT, length, xid, NO_BUFFER, in_port, len(actions))
    return header + actions + data


def _cookie_request(kind: Stats, xid: Xid, table: int, cookie: tuple[int, int] | None) -> bytes:
    match = b"" if cookie is None else COOKIE_MASKED + struct.pack(">QQ", cookie[0] & cookie[1], cookie[1])
    body = struct.pack(">HHB3x", NONE, len(match), table) + match + PADDING[len(match) & 7]
    length = VENDOR_STATS_HEADER.size + len(body)
    header = (VERSION, Type.STATS_REQUEST, length, xid, Stats.VENDOR, 0, VENDOR, kind)
    return VENDOR_STATS_HEADER.pack(*header) + body


def flow_dump_request(xid: Xid, table: int = ALL_TABLES, cookie: tuple[int, int] | None = None) -> bytes:
    """Return the question for all flows of a table, or of those whose cookie is (value, mask)."""
    return _cookie_request(Stats.NX_FLOW, xid, table, cookie)


def aggregate_request(xid: Xid, table: int = ALL_TABLES, cookie: tuple[int, int] | None = None) -> bytes:
    """Return the question for the sums over these flows."""
    return _cookie_request(Stats.NX_AGGREGATE, xid, table, cookie)


def port_stats_request(xid: Xid, port: int = NONE) -> bytes:
    """Return the question for a port's counters (NONE: all ports)."""
    return STATS_HEADER.pack(VERSION, Type.STATS_REQUEST, 20, xid, Stats.PORT, 0) + struct.pack(">H6x", port)

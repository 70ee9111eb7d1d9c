"""Actions and flow values, in the form in which Open vSwitch returns them in a flow dump (OpenFlow 1.0).

Each function returns the bytes of one action; a list of actions is their concatenation. Sources: openflow-1.0.h,
nicira-ext.h and ofp-actions.c of Open vSwitch, ovs-actions(7); the contract test compares each with a real dump.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import TypeAlias

from xenflow_app.openflow.fields import Subfield

FlowValue: TypeAlias = bytes
"""Cookie (8 bytes), idle timeout in seconds (2), flags (2), actions."""
VALUE_HEAD = struct.Struct(">QHH")
SEND_FLOW_REMOVED = 1
"""The only flag in use. A dump does not say it, so it is a rule: flows with an idle timeout have it, others do not."""

VENDOR = 0x2320
"""Nicira's vendor id."""

PORT_MAX = 0xFF00
IN_PORT = 0xFFF8
"""Output to the port that the packet came in by, which is otherwise left out."""
TABLE = 0xFFF9
"""In a packet-out only: through the pipeline from table 0."""
FLOOD, ALL, CONTROLLER, LOCAL, NONE = 0xFFFB, 0xFFFC, 0xFFFD, 0xFFFE, 0xFFFF

_OUTPUT = struct.Struct(">HHHH")
_VLAN_VID = struct.Struct(">HHH2x")
_VLAN_PCP = struct.Struct(">HHB3x")
_SET_DL = struct.Struct(">HH6s6x")
_RESUBMIT = struct.Struct(">HHIHHB3x")
_LOAD = struct.Struct(">HHIHHIQ")
_MOVE = struct.Struct(">HHIHHHHII")
_SET_QUEUE = struct.Struct(">HHIH2xI")
_OUTPUT_REG = struct.Struct(">HHIHHIH6x")
_MULTIPATH = struct.Struct(">HHIHHH2xHHI2xHI")
_CHECK_PKT_LARGER = struct.Struct(">HHIHHHI6x")
_CONTROLLER = struct.Struct(">HHIHHHBx")
_LEARN = struct.Struct(">HHIHHHHQHBxHH")
_STRIP_VLAN = bytes.fromhex("0003000800000000")
_DEC_TTL = bytes.fromhex("ffff0010000023200012000000000000")


class Reason(enum.IntEnum):
    """Why a packet came to the controller (ofp_packet_in_reason)."""

    NO_MATCH = 0
    ACTION = 1
    INVALID_TTL = 2


class HashFields(enum.IntEnum):
    """What `multipath` looks at (nx_hash_fields). Only SYMMETRIC_L3 keeps all fragments of a datagram together."""

    ETH_SRC = 0
    SYMMETRIC_L4 = 1
    SYMMETRIC_L3L4 = 2
    SYMMETRIC_L3L4_UDP = 3
    NW_SRC = 4
    NW_DST = 5
    SYMMETRIC_L3 = 6


class Algorithm(enum.IntEnum):
    """How `multipath` turns a hash into a link (nx_mp_algorithm)."""

    MODULO_N = 0
    HASH_THRESHOLD = 1
    HRW = 2
    ITER_HASH = 3


def value(cookie: int, actions: bytes, idle_timeout_s: int = 0) -> FlowValue:
    """Return a flow's value. With an idle timeout the switch says when the flow is gone (FlowRemoved)."""
    flags = SEND_FLOW_REMOVED if idle_timeout_s else 0
    return VALUE_HEAD.pack(cookie, idle_timeout_s, flags) + actions


def drop() -> bytes:
    """Return no action at all."""
    return b""


def output(port: int) -> bytes:
    """Return: send to `port`, a number or one of IN_PORT, TABLE, FLOOD, ALL, LOCAL."""
    return _OUTPUT.pack(0, 8, port, 0)


def last_output(acts: bytes) -> int:
    """Return the port of the `output` that actions end with."""
    return _OUTPUT.unpack(acts[-_OUTPUT.size :])[2]  # type: ignore[no-any-return]


def strip_vlan() -> bytes:
    """Return: remove the outermost VLAN tag, if there is one."""
    return _STRIP_VLAN


def set_vlan_vid(vid: int) -> bytes:
    """Return: set the VLAN id; a packet without a tag gets one."""
    if not 0 <= vid < 4096:
        raise ValueError(f"not a VLAN id: {vid}")
    return _VLAN_VID.pack(1, 8, vid)


def set_vlan_pcp(pcp: int) -> bytes:
    """Return: set the VLAN priority; a packet without a tag gets one with VLAN id 0."""
    if not 0 <= pcp < 8:
        raise ValueError(f"not a VLAN priority: {pcp}")
    return _VLAN_PCP.pack(2, 8, pcp)


def set_dl_src(mac: bytes) -> bytes:
    """Return: set the Ethernet source."""
    return _SET_DL.pack(4, 16, mac)


def set_dl_dst(mac: bytes) -> bytes:
    """Return: set the Ethernet destination."""
    return _SET_DL.pack(5, 16, mac)


def dec_ttl() -> bytes:
    """Return: decrement TTL or hop limit; at 1 or 0 the packet's actions end here, silently."""
    return _DEC_TTL


def resubmit(table: int) -> bytes:
    """Return: look up `table` as well, with the fields as they are now and the same input port."""
    return _RESUBMIT.pack(0xFFFF, 16, VENDOR, 14, IN_PORT, table)


def load(dst: Subfield, number: int) -> bytes:
    """Return: write `number` to a subfield. Raises ValueError if it does not fit."""
    if number >> dst.nbits:
        raise ValueError(f"{number} does not fit into {dst.nbits} bits")
    return _LOAD.pack(0xFFFF, 24, VENDOR, 7, _span(dst), dst.header, number)


def move(src: Subfield, dst: Subfield) -> bytes:
    """Return: copy a subfield to another of the same width."""
    if src.nbits != dst.nbits:
        raise ValueError(f"{src.nbits} bits do not go into {dst.nbits}")
    return _MOVE.pack(0xFFFF, 24, VENDOR, 6, src.nbits, src.ofs, dst.ofs, src.header, dst.header)


def set_queue(queue: int) -> bytes:
    """Return: packets that are output from here on go to this queue (Open vSwitch's id) of their port."""
    return _SET_QUEUE.pack(0xFFFF, 16, VENDOR, 4, queue)


def output_reg(src: Subfield) -> bytes:
    """Return: send to the port whose number is in a subfield."""
    return _OUTPUT_REG.pack(0xFFFF, 24, VENDOR, 15, _span(src), src.header, 0xFFFF)


def multipath(
    links: int, dst: Subfield, basis: int = 0, hashed: HashFields = HashFields.SYMMETRIC_L3, arg: int = 0
) -> bytes:
    """Return: hash the packet and write one of 0..links-1 to `dst` (highest random weight)."""
    if not 1 <= links <= 1 << min(dst.nbits, 16):
        raise ValueError(f"{links} links do not fit into {dst.nbits} bits")
    return _MULTIPATH.pack(0xFFFF, 32, VENDOR, 10, hashed, basis, Algorithm.HRW, links - 1, arg, _span(dst), dst.header)


def check_pkt_larger(size_bytes: int, dst: Subfield) -> bytes:
    """Return: write to the bit `dst` whether the packet (Ethernet header and tag included) is larger."""
    if dst.nbits != 1:
        raise ValueError("the result is one bit")
    return _CHECK_PKT_LARGER.pack(0xFFFF, 24, VENDOR, 49, size_bytes, dst.ofs, dst.header)


def controller(max_bytes: int = 0xFFFF, reason: Reason = Reason.ACTION, controller_id: int = 0) -> bytes:
    """Return: send the first `max_bytes` to the controller, as a PacketIn with this reason."""
    if reason is Reason.ACTION and not controller_id:
        return _OUTPUT.pack(0, 8, CONTROLLER, max_bytes)
    return _CONTROLLER.pack(0xFFFF, 16, VENDOR, 20, max_bytes, controller_id, reason)


def learn_drop(table: int, priority: int, hard_timeout_s: int, cookie: int, same: Sequence[Subfield]) -> bytes:
    """Return: add a flow without actions that matches what this packet has in the subfields `same`.

    It drops its like for `hard_timeout_s`: so a packet goes to the controller at most once in that time.
    """
    specs = b"".join(struct.pack(">HIHIH", each.nbits, each.header, each.ofs, each.header, each.ofs) for each in same)
    specs += bytes(-(_LEARN.size + len(specs)) % 8)
    length = _LEARN.size + len(specs)
    return _LEARN.pack(0xFFFF, length, VENDOR, 16, 0, hard_timeout_s, priority, cookie, 0, table, 0, 0) + specs


def _span(part: Subfield) -> int:
    """Return offset and width of a subfield as one number (ofs_nbits of nicira-ext.h)."""
    return part.ofs << 6 | (part.nbits - 1)

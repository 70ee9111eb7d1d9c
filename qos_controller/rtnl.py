"""Traffic control messages of rtnetlink as bytes: our operations encoded, dumps parsed (pure; linux/pkt_sched.h).

Place in the flow: `tree.Operation` -> *bytes* -> `htb` -> kernel -> *bytes* -> `tree.Tree` and `Counters`.

Why not the library's own coder: it makes 2 KiB of rate tables for each class, which the kernel has not read since 3.8,
and takes 0.15 ms to decode one; with 1,000 classes measured five times a second that would be most of a core.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from qos_controller.tree import (
    FRAME_BYTES,
    OUR_ROOT,
    AddRoot,
    DeleteClass,
    DeleteProgram,
    DeleteRoot,
    HtbClass,
    Operation,
    Program,
    PutClass,
    PutLeaf,
    PutProgram,
    Root,
)

NEW_QDISC, DELETE_QDISC, GET_QDISC = 36, 37, 38
NEW_CLASS, DELETE_CLASS, GET_CLASS = 40, 41, 42
NEW_FILTER, DELETE_FILTER, GET_FILTER = 44, 45, 46
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400

ROOT: Final = 0xFFFFFFFF
"""Parent of a root qdisc (TC_H_ROOT)."""
_ALL_PROTOCOLS: Final = 0x0300  # ETH_P_ALL in network order
_HEADER_BYTES: Final = 36  # struct nlmsghdr and struct tcmsg
_MAX_U32: Final = 0xFFFFFFFF
_ETHERNET: Final = 1  # TC_LINKLAYER_ETHERNET: no rate tables

_HEAD_DROP: Final = "pfifo_head_drop"
_KIND, _OPTIONS, _STATS2 = 1, 2, 7
_HTB_PARMS, _HTB_INIT, _HTB_RATE64, _HTB_CEIL64 = 1, 2, 6, 7
_BPF_OPS_LEN, _BPF_OPS = 4, 5
_BASIC, _QUEUE, _PACKETS64 = 1, 3, 8

_ATTRIBUTE = struct.Struct("=HH")
_TCMSG = struct.Struct("=BxxxiIII")
_RATE = struct.Struct("=BBHhHI")
_PARMS = struct.Struct("=12s12sIIIII")
_GLOBAL = struct.Struct("=IIIII")


class Request(NamedTuple):
    """A message to the kernel: its type and flags, handle, parent and `info`, then attributes as (type, bytes)."""

    kind: int
    flags: int
    handle: int
    parent: int
    info: int = 0
    attributes: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Counters:
    """What a class has counted since it was made, and what waits in it now."""

    bytes: int
    packets: int
    drops: int
    backlog_bytes: int


@dataclass(frozen=True, slots=True)
class FoundClass:
    """A class as a dump shows it; the bound of its queue is in another dump."""

    item: HtbClass
    counters: Counters


@dataclass(frozen=True, slots=True)
class FoundQdisc:
    """A qdisc as a dump shows it: a root, or the queue of class `parent`."""

    index: int
    parent: int
    root: Root
    limit_bytes: int
    head_drop: bool = False


def encode(operation: Operation) -> Request:
    """Return the message that carries out an operation on a device."""
    major = OUR_ROOT.handle
    match operation:
        case AddRoot():
            options = _attribute(_HTB_INIT, _GLOBAL.pack(3, OUR_ROOT.r2q, OUR_ROOT.default, 0, 0))
            flags = REQUEST | ACK | CREATE | EXCLUSIVE
            return Request(NEW_QDISC, flags, major, ROOT, 0, _kind("htb", options))
        case DeleteRoot():
            return Request(DELETE_QDISC, REQUEST | ACK, major, ROOT)
        case PutClass(item, is_new):
            flags = REQUEST | ACK | (CREATE | EXCLUSIVE if is_new else REPLACE)
            return Request(NEW_CLASS, flags, major | item.minor, major | item.parent, 0, _kind("htb", _class(item)))
        case PutLeaf(minor, limit_bytes, head_drop):
            flags = REQUEST | ACK | CREATE | REPLACE
            kind, limit = (_HEAD_DROP, limit_bytes // FRAME_BYTES) if head_drop else ("bfifo", limit_bytes)
            return Request(NEW_QDISC, flags, 0, major | minor, 0, _kind(kind, struct.pack("=I", limit)))
        case DeleteClass(minor):
            return Request(DELETE_CLASS, REQUEST | ACK, major | minor, 0)
        case PutProgram(program):
            code = _attribute(_BPF_OPS_LEN, struct.pack("=H", len(program.code) // 8))
            attributes = _kind("bpf", code + _attribute(_BPF_OPS, program.code))
            flags = REQUEST | ACK | CREATE | REPLACE
            return Request(NEW_FILTER, flags, 1, major, _filter_info(program.preference), attributes)
        case DeleteProgram(preference):
            return Request(DELETE_FILTER, REQUEST | ACK, 0, major, _filter_info(preference))


def parse_class(data: bytes, offset: int, length: int) -> FoundClass | None:
    """Return the HTB class in a message of a class dump, None if it is none of our qdisc's."""
    _, _, handle, parent, _ = _TCMSG.unpack_from(data, offset + 16)
    if handle & 0xFFFF0000 != OUR_ROOT.handle:
        return None
    found = dict(_attributes(data, offset + _HEADER_BYTES, offset + length))
    if _text(data, found.get(_KIND)) != "htb":
        return None
    options = dict(_attributes(data, *found[_OPTIONS]))
    rate, ceil, buffer, cbuffer, quantum, _, prio = _PARMS.unpack_from(data, options[_HTB_PARMS][0])
    item = HtbClass(
        minor=handle & 0xFFFF,
        parent=0 if parent == ROOT else parent & 0xFFFF,
        rate=_rate64(data, options.get(_HTB_RATE64), rate),
        ceil=_rate64(data, options.get(_HTB_CEIL64), ceil),
        buffer=buffer,
        cbuffer=cbuffer,
        quantum=quantum,
        prio=prio,
    )
    return FoundClass(item, _counters(data, found.get(_STATS2)))


def parse_qdisc(data: bytes, offset: int, length: int) -> FoundQdisc:
    """Return the qdisc in a message of a dump."""
    _, index, handle, parent, _ = _TCMSG.unpack_from(data, offset + 16)
    found = dict(_attributes(data, offset + _HEADER_BYTES, offset + length))
    kind = _text(data, found.get(_KIND))
    r2q = default = limit = 0
    if _OPTIONS in found:
        begin, end = found[_OPTIONS]
        if kind == "htb":
            _, r2q, default, _, _ = _GLOBAL.unpack_from(data, dict(_attributes(data, begin, end))[_HTB_INIT][0])
        elif kind in ("bfifo", _HEAD_DROP):
            (limit,) = struct.unpack_from("=I", data, begin)
    head_drop = kind == _HEAD_DROP
    limit_bytes = limit * FRAME_BYTES if head_drop else limit
    return FoundQdisc(index, parent, Root(kind, handle, r2q, default), limit_bytes, head_drop)


def parse_filter(data: bytes, offset: int, length: int) -> Program | None:
    """Return the classic program in a message of a filter dump, None for another kind (or for a chain's head)."""
    _, _, _, _, info = _TCMSG.unpack_from(data, offset + 16)
    found = dict(_attributes(data, offset + _HEADER_BYTES, offset + length))
    if _text(data, found.get(_KIND)) != "bpf" or _OPTIONS not in found:
        return None
    options = dict(_attributes(data, *found[_OPTIONS]))
    if _BPF_OPS not in options:
        return None
    begin, end = options[_BPF_OPS]
    return Program(info >> 16, data[begin:end])


def _filter_info(preference: int) -> int:
    return preference << 16 | _ALL_PROTOCOLS


def _class(item: HtbClass) -> bytes:
    rate, ceil = (
        _RATE.pack(0, _ETHERNET, 0, 0, 0, min(bytes_per_s, _MAX_U32)) for bytes_per_s in (item.rate, item.ceil)
    )
    options = _attribute(_HTB_PARMS, _PARMS.pack(rate, ceil, item.buffer, item.cbuffer, item.quantum, 0, item.prio))
    if item.rate >= _MAX_U32:
        options += _attribute(_HTB_RATE64, struct.pack("=Q", item.rate))
    if item.ceil >= _MAX_U32:
        options += _attribute(_HTB_CEIL64, struct.pack("=Q", item.ceil))
    return options


def _kind(name: str, options: bytes) -> tuple[tuple[int, bytes], ...]:
    return ((_KIND, name.encode() + b"\0"), (_OPTIONS, options))


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes, offset: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the type of each attribute and where its value begins and ends."""
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, (offset + 4, offset + length)
        offset += length + 3 & ~3


def _text(data: bytes, where: tuple[int, int] | None) -> str:
    return data[where[0] : where[1]].rstrip(b"\0").decode("ascii", "replace") if where else ""


def _rate64(data: bytes, where: tuple[int, int] | None, spec: bytes) -> int:
    if where is not None:
        return int(struct.unpack_from("=Q", data, where[0])[0])
    return int(_RATE.unpack(spec)[5])


def _counters(data: bytes, where: tuple[int, int] | None) -> Counters:
    if where is None:
        return Counters(0, 0, 0, 0)
    stats = dict(_attributes(data, *where))
    count, packets = struct.unpack_from("=QI", data, stats[_BASIC][0])
    if _PACKETS64 in stats:
        (packets,) = struct.unpack_from("=Q", data, stats[_PACKETS64][0])
    _, backlog, drops = struct.unpack_from("=III", data, stats[_QUEUE][0])
    return Counters(count, packets, drops, backlog)

"""Netlink messages as the kernel writes them, for the model; after the kernel's headers, not the decoder."""

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol

NLM_F_MULTI, NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x2, 0x100, 0x200, 0x400, 0x800
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE = 24, 25
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30


class RawHop(NamedTuple):
    link: int
    gateway: bytes = b""
    weight: int = 1


class LinkLike(Protocol):
    index: int
    name: str
    mac: bytes
    mtu: int

    @property
    def flags(self) -> int: ...


class RouteLike(Protocol):
    @property
    def prefix(self) -> bytes: ...
    @property
    def metric(self) -> int: ...
    @property
    def tos(self) -> int: ...
    @property
    def type(self) -> int: ...
    @property
    def hops(self) -> tuple[RawHop, ...]: ...
    @property
    def protocol(self) -> int: ...
    @property
    def encap(self) -> bool: ...


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def word(value: int) -> bytes:
    return struct.pack("=I", value)


def message(kind: int, flags: int, body: bytes, seq: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, seq, 0) + body


def as_dump(data: bytes, seq: int) -> bytes:
    length, kind, flags, _, _ = struct.unpack_from("=IHHII", data)
    return struct.pack("=IHHII", length, kind, flags | NLM_F_MULTI, seq, 1) + data[16:]


def done(seq: int) -> bytes:
    return message(3, NLM_F_MULTI, bytes(4), seq)


def link(one: LinkLike, gone: bool = False) -> bytes:
    body = struct.pack("=BxHiII", 0, 1, one.index, one.flags, 0)
    body += attribute(3, one.name.encode() + b"\0") + attribute(4, word(one.mtu)) + attribute(1, one.mac)
    return message(RTM_DELLINK if gone else RTM_NEWLINK, 0, body)


def address(index: int, packed: bytes, gone: bool = False) -> bytes:
    ipv4 = len(packed) == 5
    body = struct.pack("=BBBBi", 2 if ipv4 else 10, packed[-1], 0x80, 0, index) + attribute(1, packed[:-1])
    body += attribute(2, packed[:-1]) if ipv4 else b""
    return message(RTM_DELADDR if gone else RTM_NEWADDR, 0, body + attribute(8, word(0x80)))


def neighbor(index: int, packed: bytes, mac: bytes, state: int, gone: bool = False) -> bytes:
    body = struct.pack("=BxxxiHBB", 2 if len(packed) == 4 else 10, index, state, 0, 1) + attribute(1, packed)
    body += attribute(2, mac) if mac and state & ~0x21 else b""
    return message(RTM_DELNEIGH if gone else RTM_NEWNEIGH, 0, body + attribute(4, word(0)))


def route(one: RouteLike, flags: int, gone: bool = False) -> bytes:
    ipv4 = len(one.prefix) == 5
    family = 2 if ipv4 else 10
    body = struct.pack("=BBBBBBBBI", family, one.prefix[-1], 0, one.tos, 254, one.protocol, 0, one.type, 0)
    body += attribute(15, word(254))
    if one.prefix[-1]:
        body += attribute(1, one.prefix[:-1])
    if one.metric:
        body += attribute(6, word(one.metric))
    if one.encap:
        body += attribute(21, struct.pack("=H", 1)) + attribute(22, bytes(8))
    if len(one.hops) == 1:
        body += _gateway(one.hops[0], ipv4) + attribute(4, word(one.hops[0].link))
    elif one.hops:
        body += attribute(9, b"".join(_multipath(hop, ipv4) for hop in one.hops))
    elif not ipv4:
        body += attribute(4, word(1))
    return message(RTM_DELROUTE if gone else RTM_NEWROUTE, flags, body)


def _gateway(hop: RawHop, ipv4: bool) -> bytes:
    if not hop.gateway:
        return b""
    if ipv4 and len(hop.gateway) == 16:
        return attribute(18, struct.pack("=H", 10) + hop.gateway)
    return attribute(5, hop.gateway)


def _multipath(hop: RawHop, ipv4: bool) -> bytes:
    nested = _gateway(hop, ipv4)
    return struct.pack("=HBBi", 8 + len(nested), 0, hop.weight - 1, hop.link) + nested


def parse_request(data: bytes) -> tuple[int, int, bytes]:
    length, kind, _, seq, _ = struct.unpack_from("=IHHII", data)
    return kind, seq, data[16:length]


def parse_neighbor_request(body: bytes) -> tuple[int, bytes, int, int]:
    _, index, state, flags, _ = struct.unpack_from("=BxxxiHBB", body)
    length, kind = struct.unpack_from("=HH", body, 12)
    assert kind == 1
    return index, body[16 : 12 + length], state, flags

"""Flows decoded into values, for whoever reads or follows them; the codec itself keeps them as bytes (pure).

Place in the flow: FlowTable.actual -> *Rule* -> walk, words for operators. Only what this program writes is known; any
other action is an `Unknown`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from xenflow_app.flowtable import FlowKey, FlowValue
from xenflow_app.openflow import actions as act
from xenflow_app.openflow import fields, nxm
from xenflow_app.openflow.decode import entries
from xenflow_app.openflow.fields import Subfield


@dataclass(frozen=True, slots=True)
class Output:
    """Send to a port."""

    port: int


@dataclass(frozen=True, slots=True)
class OutputReg:
    """Send to the port whose number is in a subfield."""

    source: Subfield


@dataclass(frozen=True, slots=True)
class SetVid:
    """Set the VLAN id; push a tag if there is none."""

    vid: int


@dataclass(frozen=True, slots=True)
class SetPcp:
    """Set the VLAN priority; push a tag if there is none."""

    pcp: int


@dataclass(frozen=True, slots=True)
class StripVlan:
    """Remove the tag, if there is one."""


@dataclass(frozen=True, slots=True)
class SetMac:
    """Set Ethernet source or destination (`header` says which)."""

    header: int
    mac: bytes


@dataclass(frozen=True, slots=True)
class SetQueue:
    """Use this queue for what is output from here on."""

    queue: int


@dataclass(frozen=True, slots=True)
class Load:
    """Write a number to a subfield."""

    target: Subfield
    number: int


@dataclass(frozen=True, slots=True)
class Move:
    """Copy a subfield."""

    source: Subfield
    target: Subfield


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Look up another table as well."""

    table: int


@dataclass(frozen=True, slots=True)
class Multipath:
    """Write one of 0..links-1, by a hash of the packet."""

    links: int
    target: Subfield


@dataclass(frozen=True, slots=True)
class CheckLarger:
    """Write to a bit whether the frame is larger."""

    size_bytes: int
    target: Subfield


@dataclass(frozen=True, slots=True)
class DecTtl:
    """Decrement TTL or hop limit; at 1 or 0 the actions end."""


@dataclass(frozen=True, slots=True)
class ToController:
    """Send to the controller."""

    reason: int = act.Reason.ACTION


@dataclass(frozen=True, slots=True)
class Learn:
    """Add a flow to a table; nothing happens to the packet."""

    table: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """An action that this program does not use."""

    action: bytes


Action: TypeAlias = (
    Output
    | OutputReg
    | SetVid
    | SetPcp
    | StripVlan
    | SetMac
    | SetQueue
    | Load
    | Move
    | Resubmit
    | Multipath
    | CheckLarger
    | DecTtl
    | ToController
    | Learn
    | Unknown
)


@dataclass(frozen=True)
class Rule:
    """One flow; what is asked of it more than once is decoded once."""

    key: FlowKey
    value: FlowValue

    @property
    def table(self) -> int:
        """The flow's table."""
        return self.key[0]

    @property
    def priority(self) -> int:
        """The flow's priority."""
        return int.from_bytes(self.key[1:3], "big")

    @cached_property
    def matched(self) -> Mapping[int, tuple[int, int]]:
        """Value and mask of each field, by its header without mask."""
        return dict(conditions(self.key))

    @cached_property
    def actions(self) -> list[Action]:
        """The flow's actions, in order."""
        return list(actions(self.value))

    def number(self, header: int) -> int | None:
        """Return the value that a field must have, None if the flow does not look at it."""
        found = self.matched.get(header)
        return None if found is None else found[0]

    def packed(self, header: int) -> bytes:
        """Return the same as bytes, empty if the flow does not look at it."""
        found = self.matched.get(header)
        return b"" if found is None else found[0].to_bytes(header & 0xFF, "big")

    def loads(self, target: Subfield) -> int | None:
        """Return the number that the flow writes to a subfield, None if it does not."""
        found = (item.number for item in self.actions if isinstance(item, Load) and item.target == target)
        return next(found, None)

    def goes_to(self) -> list[int]:
        """Return the tables that the flow continues in."""
        return [item.table for item in self.actions if isinstance(item, Resubmit)]


def conditions(key: FlowKey) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield header (without mask), value and mask of what a flow's key matches. Raises ValueError if malformed."""
    for header, body in entries(key[nxm.KEY_HEAD.size :]):
        if header & 0x100:
            half = len(body) // 2
            plain = (header & ~0x1FF) | half
            yield plain, (int.from_bytes(body[:half], "big"), int.from_bytes(body[half:], "big"))
        else:
            yield header, (int.from_bytes(body, "big"), (1 << len(body) * 8) - 1)


def actions(value: FlowValue) -> Iterator[Action]:
    """Yield the actions of a flow's value. Raises ValueError if malformed."""
    offset = act.VALUE_HEAD.size
    while offset < len(value):
        length = int.from_bytes(value[offset + 2 : offset + 4], "big")
        if length < 8 or offset + length > len(value):
            raise ValueError(f"an action of {length} bytes at {offset}")
        yield _action(value[offset : offset + length])
        offset += length


def _action(action: bytes) -> Action:
    kind = int.from_bytes(action[:2], "big")
    try:
        if kind != 0xFFFF:
            return _standard(kind, action)
        vendor, subtype = struct.unpack_from(">IH", action, 4)
        return _nicira(subtype, action) if vendor == act.VENDOR else Unknown(action)
    except struct.error as error:
        raise ValueError(f"action {action.hex()}: {error}") from error


def _standard(kind: int, action: bytes) -> Action:
    match kind:
        case 0:
            port = int.from_bytes(action[4:6], "big")
            return ToController() if port == act.CONTROLLER else Output(port)
        case 1:
            return SetVid(int.from_bytes(action[4:6], "big"))
        case 2:
            return SetPcp(action[4])
        case 3:
            return StripVlan()
        case 4 | 5:
            return SetMac(fields.ETH_SRC if kind == 4 else fields.ETH_DST, action[4:10])
    return Unknown(action)


def _nicira(subtype: int, action: bytes) -> Action:
    match subtype:
        case 4:
            return SetQueue(struct.unpack_from(">I", action, 12)[0])
        case 6:
            bits, from_bit, to_bit, source, target = struct.unpack_from(">HHHII", action, 10)
            return Move(Subfield(source, from_bit, bits), Subfield(target, to_bit, bits))
        case 7:
            span, header, number = struct.unpack_from(">HIQ", action, 10)
            return Load(_subfield(span, header), number)
        case 10:
            last, span, header = struct.unpack_from(">H4x2xHI", action, 18)
            return Multipath(last + 1, _subfield(span, header))
        case 14:
            return Resubmit(action[12])
        case 15:
            span, header = struct.unpack_from(">HI", action, 10)
            return OutputReg(_subfield(span, header))
        case 16:
            return Learn(struct.unpack_from(">B", action, 26)[0])
        case 18:
            return DecTtl()
        case 20:
            return ToController(action[14])
        case 49:
            size, bit, header = struct.unpack_from(">HHI", action, 10)
            return CheckLarger(size, Subfield(header, bit, 1))
    return Unknown(action)


def _subfield(span: int, header: int) -> Subfield:
    return Subfield(header, span >> 6, (span & 0x3F) + 1)

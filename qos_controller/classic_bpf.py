"""An assembler for classic BPF (the kernel's Documentation/networking/filter.rst): tests with labels become bytes.

Place in the flow: `filters` writes programs with it. Only what a classifier needs; jumps go forward, as they must.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

MAX_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS."""
INSTRUCTION: Final = struct.Struct("=HBBI")
_SHORT: Final = 255
VLAN_TAG: Final = 0xFFFFF000 + 44
"""Load offset of the tag that the kernel keeps beside the frame (SKF_AD_OFF + SKF_AD_VLAN_TAG)."""
VLAN_PRESENT: Final = 0xFFFFF000 + 48


class Op(enum.IntEnum):
    """Instruction codes (linux/bpf_common.h)."""

    LOAD_WORD = 0x20
    LOAD_HALF = 0x28
    LOAD_BYTE = 0x30
    LOAD_WORD_X = 0x40
    """At X + k; likewise the next two."""
    LOAD_HALF_X = 0x48
    LOAD_BYTE_X = 0x50
    LOAD_CONSTANT = 0x00
    LOAD_KEPT = 0x60
    """From the scratch memory; A."""
    X_CONSTANT = 0x01
    X_KEPT = 0x61
    KEEP = 0x02
    """A into the scratch memory."""
    KEEP_X = 0x03
    AND = 0x54
    SHIFT_RIGHT = 0x74
    SHIFT_LEFT = 0x64
    ADD_X = 0x0C
    A_TO_X = 0x07
    JUMP = 0x05
    EQUAL = 0x15
    GREATER = 0x25
    AT_LEAST = 0x35
    ANY_BIT = 0x45
    RETURN = 0x06


class Label:
    """A place that is fixed later."""

    __slots__ = ("place",)

    def __init__(self) -> None:
        self.place = -1


class Assembler:
    """Collects instructions; `code` resolves the labels."""

    def __init__(self) -> None:
        self._lines: list[tuple[Op, int, Label | None, Label | None]] = []

    def __len__(self) -> int:
        return len(self._lines)

    def do(self, op: Op, k: int = 0) -> None:
        """Append an instruction that goes on with the next."""
        self._lines.append((op, k, None, None))

    def need(self, op: Op, k: int, otherwise: Label) -> None:
        """Go on if the test holds, else to `otherwise`."""
        self._lines.append((op, k, None, otherwise))

    def reject(self, op: Op, k: int, otherwise: Label) -> None:
        """Go on if the test does not hold, else to `otherwise`."""
        self._lines.append((op, k, otherwise, None))

    def jump(self, to: Label) -> None:
        """Go to `to`, however far."""
        self._lines.append((Op.JUMP, 0, to, None))

    def here(self, label: Label) -> None:
        """Fix a label."""
        label.place = len(self._lines)

    def code(self) -> bytes:
        """Return the program. Raises ValueError if it is longer than the kernel takes, or a test jumps too far."""
        if len(self._lines) > MAX_INSTRUCTIONS:
            raise ValueError(f"{len(self._lines)} instructions; a program has {MAX_INSTRUCTIONS} at the most")
        return b"".join(self._encode(place, *line) for place, line in enumerate(self._lines))

    def _encode(self, place: int, op: Op, k: int, yes: Label | None, no: Label | None) -> bytes:
        far = [label.place - place - 1 if label is not None else 0 for label in (yes, no)]
        if op is Op.JUMP:
            return INSTRUCTION.pack(op, 0, 0, far[0])
        if min(far) < 0 or max(far) > _SHORT:
            raise ValueError(f"a test jumps over {max(far)} instructions")
        return INSTRUCTION.pack(op, far[0], far[1], k)

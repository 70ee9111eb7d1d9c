"""Classic BPF as a kernel interprets it (net/core/filter.c), for the instructions that `qos_controller` uses."""

from __future__ import annotations

from qos_controller.classic_bpf import INSTRUCTION, VLAN_PRESENT, VLAN_TAG, Op

_WIDTH = {Op.LOAD_WORD: 4, Op.LOAD_HALF: 2, Op.LOAD_BYTE: 1, Op.LOAD_WORD_X: 4, Op.LOAD_HALF_X: 2, Op.LOAD_BYTE_X: 1}
_RELATIVE = {Op.LOAD_WORD_X, Op.LOAD_HALF_X, Op.LOAD_BYTE_X}
_TESTS = {Op.EQUAL, Op.GREATER, Op.AT_LEAST, Op.ANY_BIT}


def run(code: bytes, frame: bytes, tag: int | None = None) -> int:
    """Return what a program says of a frame; `tag` is the one beside the frame. A load beyond its end is 0."""
    lines = list(INSTRUCTION.iter_unpack(code))
    accumulator = index = place = 0
    memory = [0] * 16
    while True:
        number, yes, no, k = lines[place]
        op = Op(number)
        place += 1
        if op in _WIDTH:
            if k in (VLAN_TAG, VLAN_PRESENT):
                accumulator = (tag or 0) if k == VLAN_TAG else int(tag is not None)
                continue
            begin = k + (index if op in _RELATIVE else 0)
            if begin + _WIDTH[op] > len(frame):
                return 0
            accumulator = int.from_bytes(frame[begin : begin + _WIDTH[op]], "big")
        elif op in _TESTS:
            holds = {
                Op.EQUAL: accumulator == k,
                Op.GREATER: accumulator > k,
                Op.AT_LEAST: accumulator >= k,
                Op.ANY_BIT: bool(accumulator & k),
            }[op]
            place += yes if holds else no
        elif op is Op.RETURN:
            return k
        elif op is Op.JUMP:
            place += k
        elif op is Op.LOAD_KEPT:
            accumulator = memory[k]
        elif op is Op.X_KEPT:
            index = memory[k]
        elif op is Op.KEEP:
            memory[k] = accumulator
        elif op is Op.KEEP_X:
            memory[k] = index
        else:
            accumulator, index = _compute(op, k, accumulator, index)


def _compute(op: Op, k: int, accumulator: int, index: int) -> tuple[int, int]:
    match op:
        case Op.LOAD_CONSTANT:
            return k, index
        case Op.X_CONSTANT:
            return accumulator, k
        case Op.A_TO_X:
            return accumulator, accumulator
        case Op.AND:
            return accumulator & k, index
        case Op.SHIFT_RIGHT:
            return accumulator >> k, index
        case Op.SHIFT_LEFT:
            return accumulator << k & 0xFFFFFFFF, index
        case Op.ADD_X:
            return accumulator + index & 0xFFFFFFFF, index
    raise AssertionError(op)

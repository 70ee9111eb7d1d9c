"""Says when announcements leave a machine: ``python -m bench.departures INTERFACE...`` on it, until it is killed.

A line for each frame: interface, and time in ns of CLOCK_REALTIME, as the kernel noted it when the interface's queue
let the frame go. The kernel filters (classic BPF), so a flood beside them costs nothing here.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct
import sys
from collections.abc import Sequence

from xenflow.model import ANNOUNCEMENT_MAC

_ETH_P_ALL = 3
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_PACKET_OUTGOING = 4
_INSTRUCTION = struct.Struct("@HBBI")
_LOAD_WORD, _LOAD_HALF, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
"""Opcodes of classic BPF (linux/filter.h)."""
_WORD, _HALF = struct.unpack(">IH", ANNOUNCEMENT_MAC)
_PROGRAM = (
    (_LOAD_WORD, 0, 0, 0),
    (_JUMP_EQUAL, 0, 3, _WORD),
    (_LOAD_HALF, 0, 0, 4),
    (_JUMP_EQUAL, 0, 1, _HALF),
    (_RETURN, 0, 0, 0xFFFF),
    (_RETURN, 0, 0, 0),
)
"""Frames to the announcement's address, and no others."""


def watch(interface: str) -> socket.socket:
    """Return a packet socket that gets the announcements on an interface. Raises OSError."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    program = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*instruction) for instruction in _PROGRAM))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_PROGRAM), ctypes.addressof(program)))
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.bind((interface, _ETH_P_ALL))
    return sock


def left_ns(sock: socket.socket) -> int | None:
    """Take a frame; return when it left, None if it came in."""
    _data, control, _flags, source = sock.recvmsg(64, 64)
    if source[2] != _PACKET_OUTGOING:
        return None
    for level, kind, body in control:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack_from("@qq", body)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return None


def main(interfaces: Sequence[str]) -> None:
    """Watch for ever."""
    sockets = {watch(interface): interface for interface in interfaces}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for sock in select.select([*sockets], [], [])[0]:
            if (at_ns := left_ns(sock)) is not None:
                sys.stdout.write(f"{sockets[sock]} {at_ns}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

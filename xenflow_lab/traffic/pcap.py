"""Writes frames to a file that tcpdump and Wireshark read (pcap with nanoseconds)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from xenflow_lab.traffic.frames import Tag

_MAGIC_NANOSECONDS = 0xA1B23C4D
_LINKTYPE_ETHERNET = 1


class PcapFile:
    """A pcap file that grows to at most `limit` frames; tags that the kernel has taken off are put back."""

    def __init__(self, path: Path, snap_bytes: int, limit: int) -> None:
        self._file: BinaryIO = path.open("wb")
        self._left = limit
        self._file.write(struct.pack("=IHHiIII", _MAGIC_NANOSECONDS, 2, 4, 0, 0, snap_bytes + 4, _LINKTYPE_ETHERNET))

    def write(self, wall_ns: int, content: memoryview, length_bytes: int, outer: Tag | None) -> None:
        """Add a frame of `length_bytes`, of which `content` was captured."""
        if self._left <= 0:
            return
        self._left -= 1
        body = bytes(content)
        if outer:
            body = body[:12] + struct.pack("!HH", outer.tpid, outer.tci) + body[12:]
            length_bytes += 4
        self._file.write(struct.pack("=IIII", *divmod(wall_ns, 1_000_000_000), len(body), length_bytes) + body)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

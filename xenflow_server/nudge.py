"""Adapter: makes ovs-vswitchd's revalidators run now, by the smallest change of a flow table that there is.

They run by themselves every `max-revalidator` (500 ms), and at once when a table has changed. A flow that can match
nothing and is marked as ours, added through the bridge's local management socket, is such a change. It is removed in
the same breath, since its going is another change; if that should not come to pass, it goes after a second.

Sources: openflow-1.0.h, ovs-vswitchd.conf.db(5), ofproto-dpif-upcall.c of Open vSwitch.
"""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

_HELLO = struct.pack(">BBHI", 1, 0, 8, 0)
_BARRIER = struct.pack(">BBHI", 1, 18, 8, 2)
_BARRIER_REPLY = struct.pack(">BBHI", 1, 19, 8, 2)
_WILDCARDS_BUT_PORT = 0x3FFFFE
_NO_SUCH_PORT = 0xFEFF
_COOKIE = 0x58460C << 40
"""Ours, and of the kind that the controller does not account for (pipeline.Kind.LIMIT)."""
_ADD, _DELETE_STRICT = 0, 4


def _flow_mod(command: int) -> bytes:
    return (
        struct.pack(">BBHI", 1, 14, 72, 1)
        + struct.pack(">IH34x", _WILDCARDS_BUT_PORT, _NO_SUCH_PORT)
        + struct.pack(">QHHHHIHH", _COOKIE, command, 0, 1, 0, 0xFFFFFFFF, 0xFFFF, 0)
    )


_CHANGE = _flow_mod(_ADD) + _flow_mod(_DELETE_STRICT)


async def nudge(rundir: Path, bridge: str) -> None:
    """Change the bridge's table 0 in a way that concerns no packet. Raises OSError if it cannot be reached."""
    reader, writer = await asyncio.open_unix_connection(str(rundir / f"{bridge}.mgmt"))
    try:
        writer.write(_HELLO + _CHANGE + _BARRIER)
        received = b""
        while _BARRIER_REPLY not in received and (chunk := await reader.read(4096)):
            received += chunk
    finally:
        writer.close()

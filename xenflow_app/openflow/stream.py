"""Framing: a byte stream from a switch, split anywhere, becomes whole messages.

At the most one message (64 KiB, which its length field cannot exceed) waits to be completed.
"""

from __future__ import annotations

from xenflow.errors import Fault, RemoteProtocolError
from xenflow_app.openflow.encode import HEADER, VERSION, Type


class Framer:
    """Keeps the beginning of the message that has not arrived in full."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def waiting_bytes(self) -> int:
        """How much of an unfinished message is here."""
        return len(self._rest)

    def receive(self, data: bytes) -> list[bytes]:
        """Return the messages that are complete now.

        Raises RemoteProtocolError for an impossible length or another version; the stream is of no use then.
        """
        stream = self._rest + data if self._rest else data
        messages, offset, end = [], 0, len(stream)
        while end - offset >= HEADER.size:
            version, kind, length, _xid = HEADER.unpack_from(stream, offset)
            if length < HEADER.size or (version != VERSION and kind != Type.HELLO):
                header = stream[offset : offset + HEADER.size].hex()
                raise RemoteProtocolError(f"not OpenFlow 1.0: {header}", Fault.GARBAGE)
            if offset + length > end:
                break
            messages.append(stream[offset : offset + length])
            offset += length
        self._rest = stream[offset:]
        return messages

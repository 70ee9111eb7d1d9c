"""Cuts a byte stream into frames: four bytes of length, then as many bytes of body."""

from __future__ import annotations

from xenflow.errors import Fault, RemoteProtocolError

_HEADER_BYTES = 4


class FrameBuffer:
    """Bytes that came in and are no whole frame yet; never more than one frame and what was last added.

    A length is judged as soon as its four bytes are there, before anything is kept for it.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes)

    def add(self, data: bytes) -> None:
        """Append what was read."""
        self._bytes += data

    def clear(self) -> None:
        """Forget everything."""
        self._bytes.clear()

    def pop(self, max_bytes: int) -> bytes | None:
        """Return the body of the next whole frame, None if there is none yet.

        Raises RemoteProtocolError at a length above `max_bytes`.
        """
        held = self._bytes
        if len(held) < _HEADER_BYTES:
            return None
        size = int.from_bytes(held[:_HEADER_BYTES], "big")
        if size > max_bytes:
            raise RemoteProtocolError(f"a frame of {size} bytes; at most {max_bytes} now", Fault.OVERSIZED)
        end = _HEADER_BYTES + size
        if len(held) < end:
            return None
        body = bytes(held[_HEADER_BYTES:end])
        del held[:end]
        return body

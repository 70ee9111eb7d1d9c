"""Two ends of a connection in memory, with what programs use of a `Channel`."""

from __future__ import annotations

import asyncio

from xenflow.identity import Identity
from xenflow.wire import Message, decode, encode

RESET = "connection lost"


class FakeStream:
    """One end; made by `pair`. Messages pass through the wire's encoding, so nothing is shared between the ends."""

    def __init__(self, peer: Identity) -> None:
        self.peer = peer
        self.reason = ""
        self._other: FakeStream | None = None
        self._arrived: asyncio.Queue[Message | None] = asyncio.Queue()
        self._reads = asyncio.Event()
        self._reads.set()

    async def send(self, *messages: Message) -> None:
        if self.reason or self._other is None:
            raise ConnectionResetError(self.reason)
        await self._other._reads.wait()
        for message in messages:
            self._other._arrived.put_nowait(decode(encode(message)[4:]))
        await asyncio.sleep(0)

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> Message:
        message = await self._arrived.get()
        if message is None:
            raise StopAsyncIteration
        return message

    async def close(self, reason: str) -> None:
        for end in (self, self._other):
            if end is not None and not end.reason:
                end.reason = reason
                end._arrived.put_nowait(None)

    def abort(self, reason: str) -> None:
        """End it; the other side is not told why."""
        for end, why in ((self, reason), (self._other, RESET)):
            if end is not None and not end.reason:
                end.reason = why
                end._arrived.put_nowait(None)

    def stop_reading(self) -> None:
        """What the other side sends from now on waits for `resume_reading`."""
        self._reads.clear()

    def resume_reading(self) -> None:
        self._reads.set()


def pair(first: Identity, second: Identity) -> tuple[FakeStream, FakeStream]:
    """Return the ends that `first` and `second` hold."""
    ends = FakeStream(second), FakeStream(first)
    ends[0]._other, ends[1]._other = ends[1], ends[0]
    return ends

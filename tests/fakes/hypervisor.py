"""A working model of a hypervisor, as far as the server's `Watcher` seam shows it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

from xenflow_server.domains import Domain, Ended, Lost, Phase, Saying, Seen, Snapshot


class FakeHypervisor:
    """Machines that people start, pause, move and destroy; what happens while its daemon is away is told afterwards."""

    def __init__(self, *, answers: bool = True) -> None:
        self._domains: dict[str, Domain] = {}
        self._moved: set[str] = set()
        self._answers = answers
        self._queue: asyncio.Queue[Saying] = asyncio.Queue()

    async def run(self, on_saying: Callable[[Saying], None]) -> None:
        self._queue.put_nowait(self._snapshot() if self._answers else Lost("nobody answers"))
        while True:
            on_saying(await self._queue.get())

    # what a person or another host does

    def start(self, uuid: str, name: str, *macs: bytes, phase: Phase = Phase.RUNNING) -> None:
        self._moved.discard(uuid)
        self._domains[uuid] = Domain(uuid, name, frozenset(macs), phase)
        self._say(Seen(self._domains[uuid]))

    def pause(self, uuid: str) -> None:
        self._change(uuid, phase=Phase.RUNNING)

    def resume(self, uuid: str) -> None:
        self._change(uuid, phase=Phase.RUNNING)

    def leave(self, uuid: str) -> None:
        self._change(uuid, phase=Phase.LEAVING)

    def plug(self, uuid: str, *macs: bytes) -> None:
        self._change(uuid, macs=frozenset(macs))

    def end(self, uuid: str, *, moved: bool = False) -> None:
        del self._domains[uuid]
        if moved:
            self._moved.add(uuid)
        self._say(Ended(uuid, moved))

    def daemon_dies(self) -> None:
        self._say(Lost("nobody answers"))
        self._answers = False

    def daemon_starts(self) -> None:
        self._answers = True
        self._say(self._snapshot())

    def _change(self, uuid: str, **fields: object) -> None:
        self._domains[uuid] = dataclasses.replace(self._domains[uuid], **fields)  # type: ignore[arg-type]
        self._say(Seen(self._domains[uuid]))

    def _say(self, saying: Saying) -> None:
        if self._answers:
            self._queue.put_nowait(saying)

    def _snapshot(self) -> Snapshot:
        return Snapshot(tuple(self._domains.values()), frozenset(self._moved))

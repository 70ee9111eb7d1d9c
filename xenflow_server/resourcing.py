"""Adapter: asks the hypervisor for what machines are to have, in a thread of its own, one machine after the other.

    Granting.due -> Resourcing.run -- thread "resources": read, change, read --> Granting.take -> node's facts

Hypervisors make callers wait: the server's loop never does. The thread does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

from xenflow.errors import DataplaneError
from xenflow.resources import Resources
from xenflow_server.granting import Adjustable, Grant, Granting, ResourceControl, fit

Find: TypeAlias = Callable[[str], Adjustable]
"""Returns the machine with a uuid that runs here. Raises DataplaneError."""
_Job: TypeAlias = tuple[str, Resources, Callable[[Grant | DataplaneError], None]]


class InThread:
    """A hypervisor whose calls wait, as a ResourceControl."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def grant(self, uuid: str, wanted: Resources) -> Grant:
        """Return what the machine has, after what is wanted has been tried. Raises DataplaneError."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="resources", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Grant | DataplaneError] = loop.create_future()

        def settle(result: Grant | DataplaneError) -> None:
            if not answer.done():
                answer.set_result(result)

        def post(result: Grant | DataplaneError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, result)

        self._jobs.put((uuid, wanted, post))
        result = await answer
        if isinstance(result, DataplaneError):
            raise result
        return result

    def _work(self) -> None:
        while True:
            uuid, wanted, post = self._jobs.get()
            try:
                post(fit(self._find(uuid), wanted))
            except DataplaneError as error:
                post(error)


class Resourcing:
    """Asks for what is due; `changed` is called when what machines have is not what was told before."""

    def __init__(self, granting: Granting, control: ResourceControl, changed: Callable[[], None]) -> None:
        self._granting, self._control, self._changed = granting, control, changed
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something may be due."""
        self._wake.set()

    async def run(self) -> None:
        """Ask, for ever."""
        clock = asyncio.get_running_loop().time
        while True:
            self._wake.clear()
            wish = self._granting.due(clock())
            if wish is None:
                await self._wait(clock())
                continue
            try:
                grant = await self._control.grant(wish.uuid, wish.wanted)
            except DataplaneError as error:
                grant = Grant(Resources(), (f"processor and memory: {error}",))
            if self._granting.take(wish, grant, clock()):
                self._changed()

    async def _wait(self, now: float) -> None:
        deadline = self._granting.next_deadline()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if deadline is None else max(deadline - now, 0)):
                await self._wake.wait()

"""Adapter: has the hypervisor move a router's machine, by a command: the owner's, or our own (`moving`).

    Move -> ARGV -> "42%" on standard output -> Progress(percent), the same one again while the command goes on printing
    CancelMove -> SIGTERM            exit code, last line of standard error -> Progress(done)

Rules: one move of a router at a time. The command is a process of its own: it goes on when the app goes away, and when
this server stops or is killed, for a move half done is worse than one not told. The next run of the server finds it
again (`adopt`), and tells how it ends.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from collections.abc import Callable
from pathlib import Path

from xenflow.errors import ConfigError
from xenflow.wire import Move, Progress
from xenflow_server.command import Command
from xenflow_server.moving import MovePlan

log = logging.getLogger(__name__)
_PERCENT = re.compile(r"(\d{1,3})\s*%")
AGAIN_S = 5.0
"""How often the app is told the same percentage again, so that it knows that the move is not stuck."""
SEEN_S = 1.0
"""How long after the end of a command its machine may still seem to be here: Open vSwitch says so a little later."""
STILL_HERE = "the hypervisor's command has ended while this server did not run, and the router is still here"


class Mover:
    """Runs moves. `say` tells the app how each goes; `runs_here` says whether a router's machine is on this node."""

    def __init__(
        self,
        plan: MovePlan,
        directory: Path,
        say: Callable[[Progress], None],
        runs_here: Callable[[str], bool],
        seen_s: float = SEEN_S,
        again_s: float = AGAIN_S,
    ) -> None:
        self._plan = plan
        self._directory = directory
        self._say = say
        self._runs_here = runs_here
        self._seen_s = seen_s
        self._again_s = again_s
        self._moves: dict[str, Command] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def adopt(self) -> None:
        """Follow what an earlier run of this server has started."""
        for command in Command.kept(self._directory):
            if command.record.name not in self._moves:
                log.info("move %s to=%s from=unknown to=running", command.record.name, command.record.target)
                self._begin(command)

    def start(self, order: Move) -> None:
        """Begin a move; one that runs already under this number goes on. Raises ConfigError with the reason why not."""
        running = self._moves.get(order.name)
        if running is not None:
            if running.record.number == order.number:
                return
            raise ConfigError([f"router {order.name} is being moved already, to {running.record.target}"])
        argv = self._plan(order)
        try:
            command = Command.start(self._directory, argv, order)
        except OSError as error:
            reason = f"{argv[0]}: cannot be run: {error.strerror} ({error.filename}); correct [hypervisor] move"
            raise ConfigError([reason]) from error
        log.info("move %s to=%s from=asked to=running pid=%d", order.name, order.target, command.record.pid)
        self._begin(command)

    def cancel(self, number: int) -> bool:
        """Ask the command of that number to stop; False if there is none."""
        for name, running in self._moves.items():
            if running.record.number == number:
                log.info("move %s: told to stop", name)
                running.terminate()
                return True
        return False

    def _begin(self, command: Command) -> None:
        self._moves[command.record.name] = command
        task = asyncio.create_task(self._follow(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, command: Command) -> None:
        record = command.record
        percent, complaint, clock = 0, "", asyncio.get_running_loop().time
        told_s = clock()

        def progress(line: str) -> None:
            nonlocal percent, told_s
            found = _PERCENT.search(line)
            now = min(int(found[1]), 100) if found else percent
            if now != percent or clock() - told_s >= self._again_s:
                percent, told_s = now, clock()
                self._say(Progress(record.number, False, "", percent))

        def complain(line: str) -> None:
            nonlocal complaint
            log.info("move %s: %s", record.name, line)
            complaint = line
            progress("")

        await command.follow(progress, complain)
        error = await self._why_not(command, complaint)
        del self._moves[record.name]
        command.forget()
        log.info("move %s from=running to=%s", record.name, error or "done")
        self._say(Progress(record.number, True, error, 0 if error else 100))

    async def _why_not(self, command: Command, complaint: str) -> str:
        """Return why it failed, empty if it did not; without its exit code the machine's place tells."""
        code = command.code
        if code == 0:
            return ""
        if code is None:
            await asyncio.sleep(self._seen_s)
            return (complaint or STILL_HERE) if self._runs_here(command.record.name) else ""
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return complaint or f"the hypervisor's command failed: {how}"

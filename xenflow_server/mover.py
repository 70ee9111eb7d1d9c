"""Adapter: has the hypervisor move a router's machine, by a command that the owner chose (`[hypervisor] move`).

    Move -> ARGV... ROUTER TARGET -> "42%" on standard output -> Progress(percent)
    CancelMove -> SIGTERM            exit code, last line of standard error -> Progress(done)

Rules: one move of a router at a time. The command is a process of its own: it goes on when the app goes away, and when
this server stops (asyncio's own subprocesses would be killed then), for a move half done is worse than one not told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import IO

from xenflow.errors import ConfigError
from xenflow.wire import Move, Progress

log = logging.getLogger(__name__)
_PERCENT = re.compile(r"(\d{1,3})\s*%")
_LINE_BYTES = 4096
_LAST_WORDS_S = 1.0
"""How long output may come after the end of the command (its own children hold the pipe)."""
NO_COMMAND = "this node's hypervisor cannot move machines: set [hypervisor] move"


class Mover:
    """Runs moves. `say` tells the app how each goes."""

    def __init__(self, command: Sequence[str], say: Callable[[Progress], None]) -> None:
        self._command = tuple(command)
        self._say = say
        self._moves: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, order: Move) -> None:
        """Begin a move. Raises ConfigError with the reason why not."""
        if not self._command:
            raise ConfigError([NO_COMMAND])
        if order.name in self._moves:
            raise ConfigError([f"router {order.name} is being moved already, to {self._moves[order.name].target}"])
        try:
            process = subprocess.Popen(
                [*self._command, order.name, order.target],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            reason = f"{self._command[0]}: cannot be run: {error.strerror}; correct [hypervisor] move"
            raise ConfigError([reason]) from error
        log.info("move %s to=%s from=asked to=running pid=%d", order.name, order.target, process.pid)
        running = self._moves[order.name] = _Running(order, process, self._say)
        task = asyncio.create_task(self._follow(running))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, number: int) -> bool:
        """Ask the command of that number to stop; False if there is none."""
        for name, running in self._moves.items():
            if running.number == number:
                log.info("move %s: told to stop", name)
                running.process.send_signal(signal.SIGTERM)
                return True
        return False

    async def _follow(self, running: _Running) -> None:
        error = await running.finish()
        del self._moves[running.name]
        log.info("move %s from=running to=%s", running.name, error or "done")
        self._say(Progress(running.number, True, error, 0 if error else 100))


class _Running:
    """One command from its start to its end."""

    def __init__(self, order: Move, process: subprocess.Popen[bytes], say: Callable[[Progress], None]) -> None:
        self.number, self.name, self.target = order.number, order.name, order.target
        self.process = process
        self._say = say
        self._percent = 0
        self._last_error = ""

    async def finish(self) -> str:
        """Follow the command to its end; return why it failed, empty if it did not."""
        out, err = self.process.stdout, self.process.stderr
        assert out is not None  # a pipe, as is err
        assert err is not None
        reading = [asyncio.create_task(_lines(out, self._progress)), asyncio.create_task(_lines(err, self._complaint))]
        try:
            await _ended(self.process.pid)
            code = self.process.wait()
            await asyncio.wait(reading, timeout=_LAST_WORDS_S)
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
        if code == 0:
            return ""
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return self._last_error or f"the hypervisor's command failed: {how}"

    def _progress(self, line: str) -> None:
        found = _PERCENT.search(line)
        percent = min(int(found[1]), 100) if found else self._percent
        if percent != self._percent:
            self._percent = percent
            self._say(Progress(self.number, False, "", percent))

    def _complaint(self, line: str) -> None:
        log.info("move %s: %s", self.name, line)
        self._last_error = line


async def _ended(pid: int) -> None:
    """Return when the process has ended."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    descriptor = os.pidfd_open(pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _lines(pipe: IO[bytes], take: Callable[[str], None]) -> None:
    """Call `take` with each line that is not empty, until the pipe ends; what is too long is cut."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    left = b""
    with contextlib.closing(transport):
        while data := await reader.read(_LINE_BYTES):
            *lines, left = re.split(rb"[\r\n]", left + data)
            for line in (*lines, left[_LINE_BYTES:]):
                _take_line(line, take)
            left = left[:_LINE_BYTES]
    _take_line(left, take)


def _take_line(line: bytes, take: Callable[[str], None]) -> None:
    text = "".join(c if c.isprintable() else "?" for c in line[:_LINE_BYTES].decode(errors="replace")).strip()
    if text:
        take(text)

"""Adapter: a hypervisor's command that outlives this server: told by its files, followed to its end.

    STATE/moves/NAME.json   {"number": 7, "name": "r1", "target": "n2", "pid": 123, "ticks": 456}
    STATE/moves/NAME.out, NAME.err   what it prints: files, so that nobody need read them for it to go on

Rules: a process is told by its pid and the time of its start (proc(5), field 22); the files go when its end has been
told. Who has not started a process does not get its exit code, only that it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from xenflow.wire import Move

log = logging.getLogger(__name__)
TAIL_S = 0.1
"""How often what it prints is read."""
_LINE_BYTES = 4096


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command that was started."""

    number: int
    name: str
    target: str
    pid: int
    ticks: int


class Command:
    """One command. `code` is its exit code once it has ended, None if that cannot be known."""

    def __init__(self, directory: Path, record: Record, process: subprocess.Popen[bytes] | None = None) -> None:
        self.record = record
        self.code: int | None = None
        self._directory = directory
        self._process = process
        self._descriptor = _open_process(record)

    @classmethod
    def start(cls, directory: Path, argv: Sequence[str], order: Move) -> Command:
        """Run a command in a session of its own. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{order.name}.out").open("wb") as out, (directory / f"{order.name}.err").open("wb") as err:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        record = Record(order.number, order.name, order.target, process.pid, start_ticks(process.pid))
        fresh = directory / f"{order.name}.new"
        try:
            fresh.write_bytes(msgspec.json.encode(record))
            fresh.replace(directory / f"{order.name}.json")
        except OSError as error:
            log.warning("%s: cannot be kept (%s): a restart will not know of this move", fresh, error.strerror)
        return cls(directory, record, process)

    @classmethod
    def kept(cls, directory: Path) -> Iterator[Command]:
        """Yield what another run of this server has started, and has not told the end of."""
        for path in sorted(directory.glob("*.json")):
            with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
                record = msgspec.json.decode(path.read_bytes(), type=Record)
                if record.name == path.stem:
                    yield cls(directory, record)

    def terminate(self) -> None:
        """Ask it to stop; harmless when it has ended."""
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGTERM)

    async def follow(self, on_output: Callable[[str], None], on_error: Callable[[str], None]) -> None:
        """Return when it has ended; both functions get lines as they are printed."""
        out, err = _Tail(self._path("out")), _Tail(self._path("err"))
        ended = asyncio.create_task(self._ended())
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=TAIL_S)
                for tail, take in ((out, on_output), (err, on_error)):
                    for line in tail.lines(last=ended.done()):
                        take(line)
        finally:
            ended.cancel()
        self.code = None if self._process is None else self._process.wait()

    def forget(self) -> None:
        """Its end has been told."""
        for suffix in ("json", "out", "err"):
            self._path(suffix).unlink(missing_ok=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _path(self, suffix: str) -> Path:
        return self._directory / f"{self.record.name}.{suffix}"

    async def _ended(self) -> None:
        if self._descriptor is None:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._descriptor)


class _Tail:
    """What is appended to a file, line by line; what is too long is cut."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._left = b""

    def lines(self, *, last: bool) -> Iterator[str]:
        """Yield the lines that are complete; with `last`, also one that is not."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except OSError:
            data = b""
        self._at += len(data)
        *complete, left = re.split(rb"[\r\n]", self._left + data)
        self._left = b"" if last else left[:_LINE_BYTES]
        for line in (*complete, left) if last else complete:
            text = line[:_LINE_BYTES].decode(errors="replace")
            text = "".join(c if c.isprintable() else "?" for c in text).strip()
            if text:
                yield text


def start_ticks(pid: int) -> int:
    """Return when a process has started, 0 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[19])


def _open_process(record: Record) -> int | None:
    """Return a descriptor of exactly this process, None if it is gone."""
    try:
        descriptor = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return None
    if start_ticks(record.pid) == record.ticks:
        return descriptor
    os.close(descriptor)
    return None

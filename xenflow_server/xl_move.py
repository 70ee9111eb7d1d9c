"""Adapter: a live migration by Xen's own tool, from the source's side.

    xl migrate --> libxl-save-helper ==memory==> transport (ssh, socat) ==> xl migrate-receive on the target

Rules: xl itself is never told to end, for only it can have the machine go on here. Who wants the machine to stay ends
the transport: xl notices, and resumes the machine. Once xl has let the target start it, it is too late for that.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from xenflow.errors import DataplaneError, RemoteProtocolError
from xenflow_server.domains import Domain, Phase
from xenflow_server.xl import parse_list

PATIENCE_S = 300.0
"""How long xl may take to answer: a host that forwards with all it has is to move its machines all the same."""
LEFT_SUSPENDED = "the machine is left suspended here: xl has not resumed it"
_HELPERS = ("xl", "libxl-save-help")
"""Children of xl that are no transport, as proc(5) cuts names: one that has not become its program yet, the saver."""
_LET_GO = ("migration sender: Target has acknowledged", "migration sender: Giving target permission")
_UNDEFINED = "** Migration failed during final handshake **"
_PERCENT = re.compile(r"(\d{1,3})\s*%")
_PLACE = re.compile(
    r"(ssh|tcp)://((?:[A-Za-z0-9_.-]+@)?)([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?/?"
)
_STATE = re.compile(r"\s[r-][b-][p-]([s-])(\S)[d-]\s+[\d.]+\s*$", re.MULTILINE)


def migrate_argv(domid: int, target: str) -> list[str]:
    """Return the command that migrates a machine to ``ssh://[USER@]HOST`` or ``tcp://HOST:PORT``.

    At a TCP port, something like socat has to run `xl migrate-receive` there. Raises RemoteProtocolError for another
    form: xl hands the place to a shell, so nothing but plain names and addresses gets there. The shell becomes the
    transport (xl sees to that for ssh), so that ending xl's child ends the stream.
    """
    found = _PLACE.fullmatch(target)
    if found is None:
        raise RemoteProtocolError(f"{target!r}: must look like ssh://HOST, ssh://USER@HOST or tcp://HOST:PORT")
    scheme, user, host, port = found.groups()
    if scheme == "tcp":
        if user or not port:
            raise RemoteProtocolError(f"{target!r}: must look like tcp://HOST:PORT")
        return ["xl", "migrate", "-s", "", str(domid), f"exec socat - TCP:{host}:{port}"]
    ssh = ["-s", f"ssh -p {port}"] if port else []
    return ["xl", "migrate", *ssh, str(domid), f"{user}{host.strip('[]')}"]


def percent_of(line: str) -> int | None:
    """Return how much a line of `xl migrate` says to be done; 100 is for the end alone."""
    found = _PERCENT.findall(line)
    return min(int(found[-1]), 99) if found else None


def is_suspended(text: str) -> bool:
    """Tell whether `xl list DOMID` shows a machine that has been suspended and not resumed (state ---ss-)."""
    found = _STATE.search(text)
    return found is not None and found.groups() == ("s", "s")


class XlMove:
    """One live migration by xl. `tool` stands for the program in tests."""

    def __init__(self, uuid: str, target: str, tool: Sequence[str] = ("xl",)) -> None:
        self._uuid, self._target, self._tool = uuid, target, tuple(tool)
        self._process: subprocess.Popen[bytes] | None = None
        self._percent = self._said = 0
        self._lock = threading.Lock()
        self._cancelled = self._let_go = False

    def run(self) -> None:
        """Return when the machine is on the target. Raises DataplaneError with the reason why it is not."""
        try:
            process = self._start()
            complaint = self._follow(process)
            code = process.wait()
        except (OSError, RemoteProtocolError) as error:
            raise DataplaneError(str(error)) from error
        if code:
            how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise DataplaneError(complaint if complaint and code > 0 else f"xl migrate: {how}")

    def percent(self) -> int:
        """Return how much is done."""
        return self._percent

    def moved(self) -> int:
        """Return how many bytes have gone into the stream, and how many lines xl has printed, in one number."""
        with self._lock:
            process = self._process
        pids = self._transports(process) if process is not None and process.poll() is None else []
        return self._said + sum(_bytes_read(pid) for pid in pids)

    def cancel(self) -> bool:
        """Have the machine stay, by ending the stream to the target; False if there is none yet, or it is too late."""
        with self._lock:
            self._cancelled = True
            if self._process is None:
                return True
            if self._let_go or self._process.poll() is not None:
                return False
            transports = self._transports(self._process)
            for pid in transports:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            return bool(transports)

    def here(self) -> bool | None:
        """Whether the machine is here; None if that cannot be known: xl has let the target start it."""
        try:
            phases = {domain.phase for domain in self._list().values() if domain.uuid == self._uuid}
        except (OSError, RemoteProtocolError):
            return None
        return None if Phase.LEAVING in phases else Phase.RUNNING in phases

    def there(self) -> bool | None:
        """Return None: the other host is not asked."""
        return None

    def recover(self) -> str:
        """Have the machine go on here, if xl was killed before it could; return why it does not, empty if it does.

        Newer ones have `xl resume`; others refuse it, and change nothing.
        """
        try:
            number = str(self._domid())
            if not self._is_suspended(number):
                return ""
            self._run("resume", number)
            return LEFT_SUSPENDED if self._is_suspended(number) else ""
        except (OSError, RemoteProtocolError) as error:
            return f"whether the machine goes on is not known: {error}"

    @staticmethod
    def _transports(process: subprocess.Popen[bytes]) -> list[int]:
        return [pid for pid, name in _children(process.pid) if name not in _HELPERS]

    def _start(self) -> subprocess.Popen[bytes]:
        argv = migrate_argv(self._domid(), self._target)
        with self._lock:
            if self._cancelled:
                raise RemoteProtocolError("cancelled before it began")
            self._process = subprocess.Popen(
                [*self._tool, *argv[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        return self._process

    def _follow(self, process: subprocess.Popen[bytes]) -> str:
        """Take what xl prints, to its end; return what it complains of."""
        complaint = ""
        for line in _lines(process):
            self._said += 1
            percent = percent_of(line)
            if percent is not None:
                self._percent = percent
            elif complaint != _UNDEFINED:  # more lines follow it, for who sits there
                complaint = line
            if line.startswith(_LET_GO):
                self._let_go = True
        return complaint

    def _is_suspended(self, number: str) -> bool:
        return is_suspended(self._run("list", number).decode(errors="replace"))

    def _domid(self) -> int:
        for domid, domain in self._list().items():
            if domain.uuid == self._uuid:
                return domid
        raise RemoteProtocolError(f"xl: no machine with uuid {self._uuid} runs here")

    def _list(self) -> dict[int, Domain]:
        return parse_list(self._run("list", "-l"))

    def _run(self, *arguments: str) -> bytes:
        """Return what xl prints. Raises OSError, or RemoteProtocolError if it does not end."""
        command = [*self._tool, *arguments]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RemoteProtocolError(f"xl {' '.join(arguments)}: no answer within {PATIENCE_S:g} s") from error
        return done.stdout


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield what a program prints, as soon as a newline or a carriage return ends a line; empty ones are left out."""
    left = b""
    descriptor = process.stdout.fileno() if process.stdout is not None else -1
    while data := os.read(descriptor, 4096):
        *complete, left = re.split(rb"[\r\n]", left + data)
        yield from (line.decode(errors="replace").strip() for line in complete if line.strip())
    if left.strip():
        yield left.decode(errors="replace").strip()


def _bytes_read(pid: int) -> int:
    """Return how much a process has read, 0 if that cannot be known."""
    try:
        found = re.search(r"^rchar: (\d+)$", Path(f"/proc/{pid}/io").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _children(pid: int) -> Iterator[tuple[int, str]]:
    """Yield pid and name (15 characters at most) of a process's children."""
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in listed.read_text(encoding="ascii").split():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    name = Path(f"/proc/{child}/comm").read_text(encoding="ascii", errors="replace")
                    yield int(child), name.strip()

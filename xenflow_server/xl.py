"""Adapter: Xen's own tool -> `domains`, and a live migration by it, where libvirt's Xen driver is missing.

    xl list -l -----------------------------------> Snapshot
    xenstore-watch @introduceDomain @releaseDomain -> look again

Rules: programs are run by their arguments, never by a shell's line; what xl prints is checked before it is used. xl has
no events of its own: what tells a move is how it renames the machine, NAME--incoming on the target until it runs there,
NAME--migratedaway on the source before it is destroyed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence

import msgspec

from xenflow.errors import DataplaneError, RemoteProtocolError
from xenflow.model import pack_mac
from xenflow_server.domains import Domain, Lost, Phase, Saying, Snapshot

log = logging.getLogger(__name__)
LOOK_S = 1.0
"""How often to look without a reason: renames are no event."""
REST = 2.0
"""On a slow host, so many times as long as a look takes: looking leaves two thirds of a processor to others."""
SETTLE_S = 0.05
ANSWER_S = 30.0
INCOMING, AWAY = "--incoming", "--migratedaway"
_PERCENT = re.compile(r"(\d{1,3})\s*%")
_PLACE = re.compile(
    r"(ssh|tcp)://((?:[A-Za-z0-9_.-]+@)?)([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?/?"
)


class _Nic(msgspec.Struct):
    mac: str = ""


class _Create(msgspec.Struct):
    name: str | None = None
    uuid: str = ""


class _Config(msgspec.Struct):
    c_info: _Create = msgspec.field(default_factory=_Create)
    nics: list[_Nic] = []


class _Entry(msgspec.Struct):
    domid: int
    config: _Config = msgspec.field(default_factory=_Config)


def parse_list(text: bytes) -> dict[int, Domain]:
    """Return by domain id what `xl list -l` shows, without Dom0. Raises RemoteProtocolError for anything else.

    What the tool prints before the JSON (warnings of its libraries) is skipped. A machine that has no uuid yet, because
    it is being built, is left out.
    """
    start = text.find(b"[")
    try:
        entries = msgspec.json.decode(text[start:] if start >= 0 else b"", type=list[_Entry])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"xl list -l: cannot be understood: {error}") from error
    domains = {}
    for entry in entries:
        uuid = entry.config.c_info.uuid.lower()
        if entry.domid == 0 or not uuid:
            continue
        name, phase = entry.config.c_info.name or "", Phase.RUNNING
        if name.endswith(INCOMING):
            name, phase = name.removesuffix(INCOMING), Phase.INCOMING
        elif name.endswith(AWAY):
            name, phase = name.removesuffix(AWAY), Phase.LEAVING
        macs = set()
        for nic in entry.config.nics:
            with contextlib.suppress(ValueError):
                macs.add(pack_mac(nic.mac))
        domains[entry.domid] = Domain(uuid, name, frozenset(macs), phase)
    return domains


def migrate_argv(domid: int, target: str) -> list[str]:
    """Return the command that migrates a machine to ``ssh://[USER@]HOST`` or ``tcp://HOST:PORT``.

    At a TCP port, something like socat has to run `xl migrate-receive` there. Raises RemoteProtocolError for another
    form: xl hands the place to a shell, so nothing but plain names and addresses gets there.
    """
    found = _PLACE.fullmatch(target)
    if found is None:
        raise RemoteProtocolError(f"{target!r}: must look like ssh://HOST, ssh://USER@HOST or tcp://HOST:PORT")
    scheme, user, host, port = found.groups()
    if scheme == "tcp":
        if user or not port:
            raise RemoteProtocolError(f"{target!r}: must look like tcp://HOST:PORT")
        return ["xl", "migrate", "-s", "", str(domid), f"socat - TCP:{host}:{port}"]
    ssh = ["-s", f"ssh -p {port}"] if port else []
    return ["xl", "migrate", *ssh, str(domid), f"{user}{host.strip('[]')}"]


def percent_of(line: str) -> int | None:
    """Return how much a line of `xl migrate` says to be done; 100 is for the end alone."""
    found = _PERCENT.findall(line)
    return min(int(found[-1]), 99) if found else None


class XlWatcher:
    """Follows all machines of this Xen host. `tool` and `watch` stand for the programs in tests."""

    def __init__(
        self,
        tool: Sequence[str] = ("xl",),
        watch: Sequence[str] = ("xenstore-watch", "@introduceDomain", "@releaseDomain"),
        look_s: float = LOOK_S,
    ) -> None:
        self._tool, self._watch, self._look_s = tuple(tool), tuple(watch), look_s
        self._changed = asyncio.Event()

    async def run(self, on_saying: Callable[[Saying], None]) -> None:
        """Call `on_saying` with what xl shows, and whenever it shows something else, for ever."""
        watching = asyncio.create_task(self._wait_for_news())
        told: Saying | None = None
        try:
            while True:
                self._changed.clear()
                began_s = asyncio.get_running_loop().time()
                saying = await self._look()
                took_s = asyncio.get_running_loop().time() - began_s
                if saying != told:
                    told = saying
                    on_saying(saying)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), max(self._look_s, REST * took_s))
                    await asyncio.sleep(SETTLE_S)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _look(self) -> Saying:
        try:
            domains = parse_list(await _output([*self._tool, "list", "-l"]))
        except (OSError, RemoteProtocolError) as error:
            return Lost(f"xl: {error}")
        return Snapshot(tuple(sorted(domains.values(), key=lambda domain: domain.uuid)))

    async def _wait_for_news(self) -> None:
        """Each line of xenstore-watch is a machine that comes or goes; without it, looking now and then must do."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._watch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            log.warning("%s (%s): machines are looked at every %g s", self._watch[0], error.strerror, self._look_s)
            return
        try:
            if process.stdout is not None:
                async for _ in process.stdout:
                    self._changed.set()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _output(argv: Sequence[str]) -> bytes:
    """Return what a program prints. Raises OSError, or RemoteProtocolError with what it complains of."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(ANSWER_S):
            out, complaint = await process.communicate()
    except TimeoutError:
        raise RemoteProtocolError(f"{' '.join(argv)}: no answer within {ANSWER_S:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        last = complaint.decode(errors="replace").strip().splitlines()[-1:]
        raise RemoteProtocolError(f"{' '.join(argv)}: {last[0] if last else f'exit code {process.returncode}'}")
    return out


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield what a program prints, as soon as a newline or a carriage return ends a line; empty ones are left out."""
    left = b""
    descriptor = process.stdout.fileno() if process.stdout is not None else -1
    while data := os.read(descriptor, 4096):
        *complete, left = re.split(rb"[\r\n]", left + data)
        yield from (line.decode(errors="replace").strip() for line in complete if line.strip())
    if left.strip():
        yield left.decode(errors="replace").strip()


class XlMove:
    """One live migration by xl, from the source's side."""

    def __init__(self, uuid: str, target: str, tool: Sequence[str] = ("xl",)) -> None:
        self._uuid, self._target, self._tool = uuid, target, tuple(tool)
        self._process: subprocess.Popen[bytes] | None = None
        self._percent = 0
        self._lock = threading.Lock()
        self._cancelled = False

    def run(self) -> None:
        """Return when the machine is on the target. Raises DataplaneError with the reason why it is not."""
        complaint = ""
        try:
            argv = migrate_argv(self._domid(), self._target)
            with self._lock:
                if self._cancelled:
                    raise DataplaneError("cancelled: the machine stays here")
                self._process = subprocess.Popen(
                    [*self._tool, *argv[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            for line in _lines(self._process):
                percent = percent_of(line)
                if percent is not None:
                    self._percent = percent
                else:
                    complaint = line
            code = self._process.wait()
        except (OSError, RemoteProtocolError) as error:
            raise DataplaneError(str(error)) from error
        if code:
            why = "cancelled: the machine stays here" if self._cancelled else complaint
            raise DataplaneError(why or f"xl migrate: exit code {code}")

    def percent(self) -> int:
        """Return how much is done."""
        return self._percent

    def cancel(self) -> bool:
        """Have the machine stay: xl resumes it when the stream to the target ends."""
        with self._lock:
            self._cancelled = True
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()
        return True

    def here(self) -> bool | None:
        """Whether the machine runs here; None if that cannot be known."""
        try:
            return any(domain.uuid == self._uuid and domain.phase is Phase.RUNNING for domain in self._list().values())
        except (OSError, RemoteProtocolError):
            return None

    def there(self) -> bool | None:
        """Return None: the other host is not asked."""
        return None

    def _domid(self) -> int:
        for domid, domain in self._list().items():
            if domain.uuid == self._uuid:
                return domid
        raise RemoteProtocolError(f"xl: no machine with uuid {self._uuid} runs here")

    def _list(self) -> dict[int, Domain]:
        try:
            done = subprocess.run(
                [*self._tool, "list", "-l"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=ANSWER_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RemoteProtocolError(f"xl list -l: no answer within {ANSWER_S:g} s") from error
        return parse_list(done.stdout)

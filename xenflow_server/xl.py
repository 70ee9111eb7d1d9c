"""Adapter: Xen's own tool -> `domains`, where libvirt's Xen driver is missing (`xl_move` has it migrate machines).

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
import subprocess
from collections.abc import Callable, Sequence

import msgspec

from xenflow.backoff import Backoff
from xenflow.errors import RemoteProtocolError
from xenflow.model import pack_mac
from xenflow_server.domains import Domain, Lost, Phase, Saying, Snapshot

log = logging.getLogger(__name__)
LOOK_S = 1.0
"""How often to look without a reason: renames are no event."""
REST = 2.0
"""On a slow host, so many times as long as a look takes: looking leaves two thirds of a processor to others."""
SETTLE_S = 0.05
WATCH_AGAIN_S = (0.2, 30.0)
"""How long to wait before xenstore-watch is started again: xenstored may not be there yet, or be started anew."""
ANSWER_S = 30.0
INCOMING, AWAY = "--incoming", "--migratedaway"


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
                    async with asyncio.timeout(max(self._look_s, REST * took_s)):
                        await self._changed.wait()
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
        """Have xenstore-watch run, and run again when it ends; without it, looking now and then must do."""
        loop, backoff = asyncio.get_running_loop(), Backoff(*WATCH_AGAIN_S)
        while True:
            began_s = loop.time()
            try:
                why = f"ended, {await self._watch_once()}"
            except OSError as error:
                why = str(error.strerror)
            if loop.time() - began_s >= backoff.maximum_s:
                backoff.reset()
            if backoff.attempts == 0:
                log.warning("%s: %s: meanwhile machines are looked at every %g s", self._watch[0], why, self._look_s)
            await asyncio.sleep(backoff.next())

    async def _watch_once(self) -> str:
        """Take each line of xenstore-watch as a machine that comes or goes; return how it has ended. Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            *self._watch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            if process.stdout is not None:
                async for _ in process.stdout:
                    self._changed.set()
            return f"exit code {await process.wait()}"
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

"""Adapter: asks ovs-vswitchd to say when packets follow the flows that are installed now.

A barrier reply says that the tables have changed; the datapath's cache follows when the revalidators have run.
``ovs-appctl revalidator/wait`` returns when a round of theirs has ended: one that may have begun before the change, so
two rounds are waited for, and a `nudge` makes them begin at once. It is a JSON-RPC call over a local socket, which
needs no library. Who asks during a round has the next two; the first of them is the second one of who asked before.

A nudge makes another round follow, in which every cached flow is looked up anew: with 20,000 of them that takes two
tenths of a second, and takes the processor from packets. So ovs-vswitchd is asked how long its last round took, and
where that is long, the next nudge waits until the round that is under way has ended. How long the *answer* took says
little: on a busy machine the question may be read after the round that the nudge beside it has caused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from xenflow.errors import DataplaneError
from xenflow_server.nudge import nudge

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
ROUNDS = 2
NUDGE_S = 0.01
"""How long after the question the revalidators are made to run: the question must be there first."""
LONG_S = 5 * NUDGE_S
"""A round that lasts longer was nudged while it ran."""
AGAIN = 1.5
"""How much longer than such a round the next one may take until it is nudged, too."""
RETRY_S = 0.5
_DUMP = re.compile(r"dump duration *: *(\d+)ms")


class _Reply(msgspec.Struct):
    result: str | None = None
    error: str | None = None


async def appctl(rundir: Path, command: str, *arguments: str) -> str:
    """Return what ``ovs-appctl COMMAND ARGUMENTS`` of the ovs-vswitchd with this run directory prints.

    Raises DataplaneError if it does not run, refuses, or does not answer within TIMEOUT_S.
    """
    try:
        process_id = (rundir / "ovs-vswitchd.pid").read_text().strip()
        async with asyncio.timeout(TIMEOUT_S):
            reply = await _call(rundir / f"ovs-vswitchd.{process_id}.ctl", command, list(arguments))
    except TimeoutError as error:
        raise DataplaneError(f"ovs-vswitchd did not answer {command} within {TIMEOUT_S:g} s") from error
    except (OSError, msgspec.DecodeError) as error:
        raise DataplaneError(f"ovs-vswitchd in {rundir} cannot be asked: {error}") from error
    if reply.error is not None:
        raise DataplaneError(f"ovs-vswitchd refused {command}: {reply.error.strip()}")
    return reply.result or ""


async def _call(socket: Path, command: str, arguments: list[str]) -> _Reply:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(msgspec.json.encode({"id": 0, "method": command, "params": arguments}))
        received = b""
        while chunk := await reader.read(65536):
            received += chunk
            if received.endswith(b"}") and (reply := _decode(received)) is not None:
                return reply
        return msgspec.json.decode(received, type=_Reply)
    finally:
        writer.close()


def _decode(received: bytes) -> _Reply | None:
    """Return the reply, None while it is not complete: there is no other mark of its end."""
    try:
        return msgspec.json.decode(received, type=_Reply)
    except msgspec.DecodeError:
        return None


class Confirmer:
    """Answers tokens in `confirmed` once two rounds of the revalidators have ended since they were asked for."""

    def __init__(self, rundir: Path, bridge: str, confirmed: Callable[[int], None]) -> None:
        self._rundir = rundir
        self._bridge = bridge
        self._confirmed = confirmed
        self._tokens: dict[int, int] = {}
        """How many rounds each must see yet."""
        self._lasts_s = 0.0
        """How long a round lasts, as ovs-vswitchd says."""
        self._asked = asyncio.Event()
        self._failing = False

    def ask(self, token: int) -> None:
        """Confirm `token` as soon as it is true."""
        self._tokens[token] = ROUNDS
        self._asked.set()

    def forget(self) -> None:
        """Nobody waits any more: the connection that asked is gone, and its tokens mean nothing to the next."""
        self._tokens = {}

    async def run(self) -> None:
        """Serve, for ever. While ovs-vswitchd cannot be asked nothing is confirmed, and asked again."""
        nudge_s = NUDGE_S
        while True:
            if not self._tokens:
                self._asked.clear()
                await self._asked.wait()
                nudge_s = NUDGE_S
            asked, seeing = self._tokens, list(self._tokens)
            try:
                nudge_s = next_nudge(min(await self._round(nudge_s), self._lasts_s))
            except DataplaneError as error:
                if not self._failing:
                    log.warning("confirm to=failing: %s", error)
                self._failing = True
                asked.update(dict.fromkeys(seeing, ROUNDS))
                await asyncio.sleep(RETRY_S)
                continue
            self._failing = False
            if asked is self._tokens:
                self._seen(seeing)

    def _seen(self, tokens: list[int]) -> None:
        """A round has ended that began to be waited for after these tokens were asked for."""
        for token in tokens:
            self._tokens[token] -= 1
            if not self._tokens[token]:
                del self._tokens[token]
                self._confirmed(token)

    async def _round(self, nudge_s: float) -> float:
        """Return when a round has ended, and how many seconds it took. Raises DataplaneError."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        nudging = asyncio.create_task(self._keep_nudging(nudge_s))
        try:
            await appctl(self._rundir, "revalidator/wait")
        finally:
            nudging.cancel()
            await asyncio.gather(nudging, return_exceptions=True)
        return loop.time() - began

    async def _keep_nudging(self, pause_s: float) -> None:
        """Have rounds begin, ever more seldom, until one has ended that the question was there for."""
        while True:
            await asyncio.sleep(pause_s)
            with contextlib.suppress(OSError, DataplaneError):  # then it takes as long as it takes
                await nudge(self._rundir, self._bridge)
                self._lasts_s = round_s(await appctl(self._rundir, "upcall/show"))
            pause_s = max(2 * pause_s, AGAIN * self._lasts_s)


def round_s(shown: str) -> float:
    """Return how many seconds the last round took, by what ``upcall/show`` prints; 0 if it does not say."""
    return max((int(found) / 1000 for found in _DUMP.findall(shown)), default=0.0)


def next_nudge(took_s: float) -> float:
    """Return when to nudge in the round after one that has taken so long."""
    return NUDGE_S if took_s <= LONG_S else AGAIN * took_s

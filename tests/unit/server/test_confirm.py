"""Confirming against a model of ovs-vswitchd's control socket."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from xenflow.errors import DataplaneError
from xenflow_server import confirm
from xenflow_server.confirm import Confirmer, appctl, next_nudge, round_s

SHOWN = """netdev@ovs-netdev:
  flows         : (current 12) (avg 20) (max 123) (limit 200000)
  dump duration : {}ms
  ufid enabled : true

  20: (keys 5)
"""


class FakeDaemon:
    """Answers revalidator/wait when it is told to, in two pieces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.dump_ms = 1
        self.asked: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
        self.said = asyncio.Event()

    async def start(self) -> None:
        (self.directory / "ovs-vswitchd.pid").write_text("77\n")
        self.server = await asyncio.start_unix_server(self._serve, str(self.directory / "ovs-vswitchd.77.ctl"))

    async def wait_asked(self) -> asyncio.Future[None]:
        async with asyncio.timeout(5):
            return await self.asked.get()

    async def let_pass(self, first: asyncio.Future[None] | None = None) -> None:
        """Let all rounds of one confirmation end; `first` is the round that is asked for already."""
        (first or await self.wait_asked()).set_result(None)
        for _ in range(confirm.ROUNDS - 1):
            (await self.wait_asked()).set_result(None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = json.loads(await reader.read(4096))
        answer: dict[str, object] = {"id": request["id"], "result": None, "error": f"no {request['method']}\n"}
        if request["method"] == "revalidator/wait":
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.asked.put_nowait(done)
            try:
                await done
            except ConnectionError:
                writer.close()
                return
            answer |= {"result": "{}", "error": None}
        elif request["method"] == "upcall/show":
            answer |= {"result": SHOWN.format(self.dump_ms), "error": None}
            self.said.set()
        text = json.dumps(answer).encode()
        writer.write(text[:9])
        await writer.drain()
        writer.write(text[9:])
        await writer.drain()
        await reader.read()
        writer.close()


def tell(story: Callable[[FakeDaemon, Confirmer, asyncio.Queue[int]], Awaitable[None]]) -> None:
    async def run(directory: Path) -> None:
        daemon = FakeDaemon(directory)
        confirmed: asyncio.Queue[int] = asyncio.Queue()
        confirmer = Confirmer(directory, "br", confirmed.put_nowait)
        task = asyncio.create_task(confirmer.run())
        try:
            async with asyncio.timeout(10):
                await story(daemon, confirmer, confirmed)
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


def test_who_asks_during_a_round_has_the_next_two() -> None:
    async def story(daemon: FakeDaemon, confirmer: Confirmer, confirmed: asyncio.Queue[int]) -> None:
        await daemon.start()
        confirmer.ask(1)
        first = await daemon.wait_asked()
        confirmer.ask(2)
        confirmer.ask(3)
        assert confirmed.empty()
        await daemon.let_pass(first)
        assert await confirmed.get() == 1
        third = await daemon.wait_asked()
        confirmer.ask(4)
        assert confirmed.empty()
        third.set_result(None)
        assert [await confirmed.get(), await confirmed.get()] == [2, 3]
        fourth = await daemon.wait_asked()
        assert confirmed.empty()
        await daemon.let_pass(fourth)
        assert await confirmed.get() == 4

    tell(story)


def test_rounds_before_a_failure_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm, "RETRY_S", 0.01)

    async def story(daemon: FakeDaemon, confirmer: Confirmer, confirmed: asyncio.Queue[int]) -> None:
        await daemon.start()
        confirmer.ask(1)
        (await daemon.wait_asked()).set_result(None)
        (await daemon.wait_asked()).set_exception(ConnectionError("ovs-vswitchd dies"))
        await daemon.let_pass()
        assert await confirmed.get() == 1

    tell(story)


def test_a_daemon_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm, "RETRY_S", 0.01)

    async def story(daemon: FakeDaemon, confirmer: Confirmer, confirmed: asyncio.Queue[int]) -> None:
        with pytest.raises(DataplaneError, match="cannot be asked"):
            await appctl(daemon.directory, "revalidator/wait")
        confirmer.ask(1)
        await daemon.start()
        await daemon.let_pass()
        assert await confirmed.get() == 1
        with pytest.raises(DataplaneError, match="refused nonsense: no nonsense"):
            await appctl(daemon.directory, "nonsense")

    tell(story)


def test_a_long_round_is_not_followed_by_a_nudge_at_once() -> None:
    assert next_nudge(0.001) == next_nudge(confirm.LONG_S) == confirm.NUDGE_S
    assert next_nudge(0.1) > 0.1


def test_what_the_daemon_prints_says_how_long_a_round_takes() -> None:
    assert round_s(SHOWN.format(137)) == 0.137
    assert round_s("") == 0.0


def noted_nudges(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[str]:
    """Return the bridges of all nudges from now on, which come soon and reach nobody."""
    nudged: asyncio.Queue[str] = asyncio.Queue()

    async def note(_rundir: Path, bridge: str) -> None:
        nudged.put_nowait(bridge)

    monkeypatch.setattr(confirm, "nudge", note)
    monkeypatch.setattr(confirm, "NUDGE_S", 0.001)
    return nudged


@pytest.mark.parametrize(("dump_ms", "again"), [(1, True), (60_000, False)])
def test_an_answer_that_takes_long_is_nudged_again_unless_rounds_are_long(
    monkeypatch: pytest.MonkeyPatch, *, dump_ms: int, again: bool
) -> None:
    nudged = noted_nudges(monkeypatch)

    async def story(daemon: FakeDaemon, confirmer: Confirmer, confirmed: asyncio.Queue[int]) -> None:
        daemon.dump_ms = dump_ms
        await daemon.start()
        confirmer.ask(1)
        first = await daemon.wait_asked()
        await nudged.get()
        await daemon.said.wait()
        if again:
            await nudged.get()
        else:
            await asyncio.sleep(0.05)
            assert nudged.empty()
        assert confirmed.empty()
        await daemon.let_pass(first)
        assert await confirmed.get() == 1

    tell(story)


def test_each_round_is_nudged_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    nudged = noted_nudges(monkeypatch)

    async def story(daemon: FakeDaemon, confirmer: Confirmer, confirmed: asyncio.Queue[int]) -> None:
        await daemon.start()
        confirmer.ask(1)
        for _ in range(confirm.ROUNDS):
            wait = await daemon.wait_asked()
            for _ in range(3):
                assert await nudged.get() == "br"
            assert confirmed.empty()
            wait.set_result(None)
        assert await confirmed.get() == 1

    tell(story)


def test_a_token_of_an_earlier_connection_is_not_confirmed() -> None:
    async def story(daemon: FakeDaemon, confirmer: Confirmer, confirmed: asyncio.Queue[int]) -> None:
        await daemon.start()
        confirmer.ask(1)
        first = await daemon.wait_asked()
        confirmer.forget()
        confirmer.ask(1)
        first.set_result(None)
        second = await daemon.wait_asked()
        assert confirmed.empty()
        await daemon.let_pass(second)
        assert await confirmed.get() == 1

    tell(story)

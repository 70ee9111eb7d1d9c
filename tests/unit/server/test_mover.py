"""Moves by a real command: progress, result, cancelling, and what is refused."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from xenflow.errors import ConfigError
from xenflow.wire import Move, Progress
from xenflow_server.mover import Mover

PATIENCE_S = 20.0


class Told:
    """What the app hears."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self._changed = asyncio.Event()

    def __call__(self, progress: Progress) -> None:
        self.progress.append(progress)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> Progress:
        await self.until(lambda: bool(self.progress) and self.progress[-1].done)
        return self.progress[-1]


def play(story: Callable[[Told], Awaitable[None]]) -> None:
    async def run() -> None:
        await story(Told())

    asyncio.run(run())


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, sys, time\n{text}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "print('10%'); print('migration: [ 55 %]'); print(sys.argv[1:])",
            [Progress(1, False, "", 10), Progress(1, False, "", 55), Progress(1, True, "", 100)],
        ),
        (
            "print('7%\\r7%\\r8%', end='')",
            [Progress(1, False, "", 7), Progress(1, False, "", 8), Progress(1, True, "", 100)],
        ),
        ("sys.stderr.write('first\\nno memory on n2\\n\\n'); sys.exit(3)", [Progress(1, True, "no memory on n2")]),
        ("sys.exit(3)", [Progress(1, True, "the hypervisor's command failed: exit code 3")]),
        ("os.kill(os.getpid(), 9)", [Progress(1, True, "the hypervisor's command failed: ended by SIGKILL")]),
        ("sys.exit(sys.argv[1:] != ['r1', 'n2'])", [Progress(1, True, "", 100)]),
        ("sys.stderr.write('x' * 100_000); sys.exit(1)", [Progress(1, True, "x" * 4096)]),
    ],
)
def test_what_the_command_says(text: str, expected: list[Progress]) -> None:
    async def story(told: Told) -> None:
        Mover(script(text), told).start(Move(1, "r1", "n2"))
        await told.end()
        assert told.progress[-1].error[:50] == expected[-1].error[:50]
        assert [one for one in told.progress if not one.error] == [one for one in expected if not one.error]

    play(story)


def test_one_move_at_a_time_and_it_can_be_cancelled() -> None:
    async def story(told: Told) -> None:
        text = "signal.signal(15, lambda *_: sys.exit('rolled back'))\nprint('1%', flush=True)\nsignal.pause()"
        mover = Mover(script(text), told)
        mover.start(Move(1, "r1", "n2"))
        with pytest.raises(ConfigError, match="being moved already, to n2"):
            mover.start(Move(2, "r1", "n3"))
        await told.until(lambda: bool(told.progress))
        assert not mover.cancel(2)
        assert mover.cancel(1)
        assert await told.end() == Progress(1, True, "rolled back")
        assert not mover.cancel(1)
        mover.start(Move(3, "r1", "n3"))  # and again
        await told.until(lambda: told.progress[-1] == Progress(3, False, "", 1))
        mover.cancel(3)
        await told.end()

    play(story)


def test_without_a_command_and_with_a_wrong_one() -> None:
    async def story(told: Told) -> None:
        with pytest.raises(ConfigError, match=r"set \[hypervisor\] move"):
            Mover([], told).start(Move(1, "r1", "n2"))
        with pytest.raises(ConfigError, match=r"/no/such: cannot be run"):
            Mover(["/no/such"], told).start(Move(1, "r1", "n2"))

    play(story)


def test_a_move_outlives_the_server(tmp_path: Path) -> None:
    began, ended = tmp_path / "began", tmp_path / "ended"
    os.mkfifo(began)
    os.mkfifo(ended)

    async def story(told: Told) -> None:
        text = f"open({str(began)!r}, 'w').close()\nopen({str(ended)!r}, 'w').write('went on')"
        Mover(script(text), told).start(Move(1, "r1", "n2"))
        await asyncio.to_thread(began.read_text)

    play(story)
    assert ended.read_text() == "went on"


def test_a_child_that_keeps_the_pipe_does_not_hold_the_result_back() -> None:
    async def story(told: Told) -> None:
        text = (
            "pid = os.fork()\nif pid == 0:\n    signal.pause()\nprint(f'{pid % 100}%')\nsys.stderr.write(f'{pid}\\n')"
        )
        Mover(script(text + "\nsys.exit(1)"), told).start(Move(1, "r1", "n2"))
        end = await told.end()
        os.kill(int(end.error), 9)

    play(story)

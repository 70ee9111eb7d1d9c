"""Moves by a real command: progress, result, cancelling, and what is refused."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from xenflow.errors import ConfigError
from xenflow.wire import Move, Progress
from xenflow_server.command import Record, start_ticks
from xenflow_server.mover import STILL_HERE, Mover
from xenflow_server.moving import by_command

PATIENCE_S = 20.0
SEEN_S = 0.05


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


def mover_of(state: Path, command: list[str], told: Told, *, here: bool = True) -> Mover:
    return Mover(by_command(command), state / "moves", told, lambda _name: here, SEEN_S)


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
def test_what_the_command_says(tmp_path: Path, text: str, expected: list[Progress]) -> None:
    async def story(told: Told) -> None:
        mover_of(tmp_path, script(text), told).start(Move(1, "r1", "n2"))
        await told.end()
        assert told.progress[-1].error[:50] == expected[-1].error[:50]
        assert [one for one in told.progress if not one.error] == [one for one in expected if not one.error]

    play(story)


def test_a_command_that_goes_on_printing_is_told_of_again(tmp_path: Path) -> None:
    async def story(told: Told) -> None:
        text = "print('30%', flush=True)\nwhile True:\n    time.sleep(0.02)\n    print('30%', flush=True)"
        mover = Mover(by_command(script(text)), tmp_path / "moves", told, lambda _name: True, SEEN_S, again_s=0.1)
        mover.start(Move(1, "r1", "n2"))
        await told.until(lambda: told.progress.count(Progress(1, False, "", 30)) >= 3)
        assert mover.cancel(1)
        await told.end()
        assert set(told.progress[:-1]) == {Progress(1, False, "", 30)}

    play(story)


def test_one_move_at_a_time_and_it_can_be_cancelled(tmp_path: Path) -> None:
    async def story(told: Told) -> None:
        text = "signal.signal(15, lambda *_: sys.exit('rolled back'))\nprint('1%', flush=True)\nsignal.pause()"
        mover = mover_of(tmp_path, script(text), told)
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


def test_without_a_command_and_with_a_wrong_one(tmp_path: Path) -> None:
    async def story(told: Told) -> None:
        with pytest.raises(ConfigError, match=r"set \[hypervisor\] move"):
            mover_of(tmp_path, [], told).start(Move(1, "r1", "n2"))
        with pytest.raises(ConfigError, match=r"/no/such: cannot be run"):
            mover_of(tmp_path, ["/no/such"], told).start(Move(1, "r1", "n2"))

    play(story)


def waiting(began: Path, ended: Path, rest: str = "") -> list[str]:
    """A command that says when it has begun, and waits until it may go on."""
    return script(f"print('30%', flush=True)\nopen({str(began)!r}, 'w').close()\nopen({str(ended)!r}).read()\n{rest}")


@pytest.fixture
def fifos(tmp_path: Path) -> tuple[Path, Path]:
    began, ended = tmp_path / "began", tmp_path / "ended"
    os.mkfifo(began)
    os.mkfifo(ended)
    return began, ended


@pytest.mark.parametrize(
    ("rest", "here", "error"),
    [
        ("print('90%')", False, ""),
        ("sys.exit('no memory on n2')", True, "no memory on n2"),
        ("sys.exit(3)", True, STILL_HERE),
    ],
)
def test_the_next_run_of_the_server_tells_how_a_move_ends(
    tmp_path: Path, fifos: tuple[Path, Path], rest: str, here: bool, error: str
) -> None:
    began, ended = fifos

    async def first(told: Told) -> None:
        mover_of(tmp_path, waiting(began, ended, rest), told).start(Move(7, "r1", "n2"))
        await asyncio.to_thread(began.read_text)

    async def second(told: Told) -> None:
        mover = mover_of(tmp_path, ["/no/such"], told, here=here)
        mover.adopt()
        mover.start(Move(7, "r1", "n2"))  # the order comes again: it runs
        with pytest.raises(ConfigError, match="being moved already, to n2"):
            mover.start(Move(8, "r1", "n3"))
        await told.until(lambda: Progress(7, False, "", 30) in told.progress)
        await asyncio.to_thread(ended.write_text, "")
        assert await told.end() == Progress(7, True, error, 0 if error else 100)

    async def third(told: Told) -> None:
        mover_of(tmp_path, [], told).adopt()
        assert list((tmp_path / "moves").iterdir()) == []

    for story in (first, second, third):
        play(story)


def test_a_command_that_ended_while_no_server_ran(tmp_path: Path, fifos: tuple[Path, Path]) -> None:
    began, ended = fifos

    async def first(told: Told) -> None:
        mover_of(tmp_path, waiting(began, ended, "sys.exit('no memory')"), told).start(Move(7, "r1", "n2"))
        await asyncio.to_thread(began.read_text)

    async def second(told: Told) -> None:
        mover_of(tmp_path, [], told).adopt()
        assert await told.end() == Progress(7, True, "no memory")

    play(first)
    ended.write_text("")
    play(second)


def test_a_command_of_an_earlier_run_can_be_cancelled(tmp_path: Path, fifos: tuple[Path, Path]) -> None:
    began, _ = fifos

    async def first(told: Told) -> None:
        text = (
            f"signal.signal(15, lambda *_: sys.exit('rolled back'))\nopen({str(began)!r}, 'w').close()\nsignal.pause()"
        )
        mover_of(tmp_path, script(text), told).start(Move(7, "r1", "n2"))
        await asyncio.to_thread(began.read_text)

    async def second(told: Told) -> None:
        mover = mover_of(tmp_path, [], told)
        mover.adopt()
        assert mover.cancel(7)
        assert await told.end() == Progress(7, True, "rolled back")

    play(first)
    play(second)


def test_another_process_with_the_same_number_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "moves").mkdir()
    record = Record(7, "r1", "n2", os.getpid(), start_ticks(os.getpid()) + 1)
    (tmp_path / "moves" / "r1.json").write_bytes(msgspec.json.encode(record))
    (tmp_path / "moves" / "r2.json").write_bytes(b"{")

    async def story(told: Told) -> None:
        mover = mover_of(tmp_path, [], told)
        mover.adopt()
        assert mover.cancel(7)
        assert await told.end() == Progress(7, True, STILL_HERE)

    play(story)


def test_a_child_that_lives_on_does_not_hold_the_result_back(tmp_path: Path) -> None:
    async def story(told: Told) -> None:
        text = (
            "pid = os.fork()\nif pid == 0:\n    signal.pause()\nprint(f'{pid % 100}%')\nsys.stderr.write(f'{pid}\\n')"
        )
        mover_of(tmp_path, script(text + "\nsys.exit(1)"), told).start(Move(1, "r1", "n2"))
        end = await told.end()
        os.kill(int(end.error), 9)

    play(story)

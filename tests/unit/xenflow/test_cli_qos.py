"""What `xenflow qos` prints: what is wrong stands out, and is told by the exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from xenflow.answers import BrokenPromise, Shares
from xenflow.cli import qos as command
from xenflow.cli.client import App
from xenflow.errors import ConfigError
from xenflow.qosanswers import LinkQueues, QosStatus, QueueStatus

M = 10**6
BROKEN = BrokenPromise("b:t2", 120 * M, 100 * M, 384_000, ["router r1", "router r2"])


def shares(used: int = 0, **more: object) -> Shares:
    """What the controller answers about one link of 100 Mbit/s."""
    queue = QueueStatus(8, "r1", "", False, 60 * M, 0, 60 * M, 100 * M, used, used, 1.0, False, 0, 0)
    link = LinkQueues("t2", 100 * M, "shaped", "", "work-conserving", 60 * M, used, 1.0, [queue])
    return Shares({"b": QosStatus("work-conserving", 1.0, 3, "netdev", True, [link])}, **more)  # type: ignore[arg-type]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command with arguments; each question gets the next of the answers, then it is interrupted."""

    def with_answers(answers: list[Shares | ConfigError], *arguments: str) -> Result:
        waiting: Iterator[Shares | ConfigError] = iter(answers)

        def ask(_app: App, _what: str, _kind: type[Shares], **_arguments: str) -> Shares:
            answer = next(waiting, None)
            if answer is None:
                raise KeyboardInterrupt
            if isinstance(answer, ConfigError):
                raise answer
            return answer

        monkeypatch.setattr(command, "ask", ask)
        monkeypatch.setattr(command.time, "sleep", lambda _seconds: None)
        return CliRunner().invoke(command.qos, ["--app", "unix:/nowhere", *arguments], standalone_mode=False)

    return with_answers


def test_a_broken_promise_is_told_with_the_link_and_who_was_promised(run: Callable[..., Result]) -> None:
    shown = run([shares(broken=[BROKEN])])
    assert (
        "PROMISE BROKEN  link b:t2: 120 Mbit/s are hired, it carries 100 Mbit/s (384 kbit/s for control):"
        " router r1, router r2" in shown.output
    )
    assert shown.return_value == 1
    assert run([shares()]).return_value == 0


AWAY = ConfigError(["unix:/nowhere: cannot reach the controller"])


def test_watching_goes_on_when_the_controller_is_back(run: Callable[..., Result]) -> None:
    shown = run([shares(10 * M), AWAY, AWAY, shares(20 * M)], "--watch")
    assert shown.exception is None
    assert "20 Mbit/s of 100 Mbit/s used" in shown.output
    assert "NO ANSWER" not in shown.output


def test_watching_shows_what_was_last_while_the_controller_is_away(run: Callable[..., Result]) -> None:
    shown = run([shares(10 * M), AWAY], "--watch")
    assert "10 Mbit/s of 100 Mbit/s used" in shown.output
    assert "NO ANSWER for 0 s: unix:/nowhere: cannot reach the controller" in shown.output


def test_watching_does_not_begin_where_nobody_answers(run: Callable[..., Result]) -> None:
    assert isinstance(run([AWAY], "--watch").exception, ConfigError)

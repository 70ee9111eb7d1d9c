"""The demo's output: readable without a terminal, and a verdict that follows from the checks."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from xenflow_lab.demo import __main__ as demo
from xenflow_lab.demo.isolation import Exchange
from xenflow_lab.demo.page import Page


def page(*, terminal: bool = False) -> tuple[Page, io.StringIO]:
    output = io.StringIO()
    return Page(Console(file=output, force_terminal=terminal, highlight=False, width=80)), output


def test_without_a_terminal_there_are_no_control_characters() -> None:
    shown, output = page()
    shown.title("name", "words")
    shown.section("section", "words")
    with shown.step("step") as step:
        step.detail = "half way"
        step.result = "7"
    shown.table(["a", "b"], [["1", "2"]], right=(1,))
    shown.listing("  a long line " + "x " * 100)
    shown.check("check", True, "found")
    assert shown.verdict("closing")
    text = output.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    assert "step: 7" in text
    assert "half way" not in text
    assert "x " * 99 in text
    assert "All of it holds." in text


def test_one_check_that_fails_is_the_verdict() -> None:
    shown, output = page()
    shown.check("first", True, "fine")
    shown.check("second", False, "3 foreign frames")
    assert not shown.verdict("closing")
    assert "FAILED  second" in output.getvalue()
    assert "1 of 2 do not hold" in output.getvalue()
    assert "closing" not in output.getvalue()


def test_no_check_at_all_is_no_success() -> None:
    assert not page()[0].verdict("closing")


def test_on_a_terminal_long_lines_are_folded_under_their_beginning() -> None:
    shown, output = page(terminal=True)
    shown.listing("  " + "word " * 40)
    lines = output.getvalue().rstrip().splitlines()
    assert len(lines) > 2
    assert lines[0].startswith("     word")
    assert all(line.startswith("         word") and len(line) <= 80 for line in lines[1:])


@pytest.mark.parametrize(
    ("exchange", "whole"),
    [
        (Exchange(10, 10, 0, 0), True),
        (Exchange(0, 0, 0, 0), False),
        (Exchange(10, 9, 1, 0), False),
        (Exchange(10, 10, 0, 1), False),
        (Exchange(10, 9, 0, 0), False),
    ],
)
def test_an_exchange_is_whole_only_if_everything_came_once(exchange: Exchange, whole: bool) -> None:
    assert exchange.is_whole is whole


def test_what_cannot_be_done_is_one_message_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("POX_HOME", raising=False)
    assert demo.main(["--controller", "pox"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("demo: ")
    assert printed.out == ""


def test_the_own_process_is_a_demo_only_if_it_is_one() -> None:
    assert not demo._is_demo(1)
    assert not demo._is_demo(2**30)

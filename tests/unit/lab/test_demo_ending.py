"""A demo that is told to end does, whatever the interpreter is at just then."""

from __future__ import annotations

import os
import signal
import time
import weakref
from collections.abc import Iterator

import pytest

from xenflow_lab.demo import __main__ as demo

PATIENCE_S = 10


class Key:
    """Something that can be referred to weakly."""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    signal.signal(signal.SIGTERM, demo._terminated)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def end_in_a_callback() -> None:
    """Where an exception is printed and forgotten."""
    ended = []

    def callback(_gone: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        ended.append(None)

    key = Key()
    finalizer = weakref.finalize(key, callback, None)
    del key
    assert ended
    assert not finalizer.alive


def go_on() -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        time.sleep(0.01)


def test_at_once() -> None:
    with pytest.raises(SystemExit, match="143"):
        os.kill(os.getpid(), signal.SIGTERM)


def test_after_what_swallows_it() -> None:
    end_in_a_callback()
    with pytest.raises(SystemExit, match="143"):
        go_on()

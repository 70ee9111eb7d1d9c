"""The program that moves one machine: progress, cancelling, and a hypervisor that goes away in the middle."""

from __future__ import annotations

import functools
import threading

import pytest

from xenflow.errors import DataplaneError
from xenflow_server import migrate
from xenflow_server.migrate import CANCELLED, UNKNOWN, verdict

follow = functools.partial(migrate.follow, look_s=0.01)


class Model:
    """A migration whose end is told by `error`, and afterwards by where the machine is."""

    def __init__(self, error: str = "", places: tuple[tuple[bool | None, bool | None], ...] = ((True, None),)) -> None:
        self._error, self._places = error, list(places)
        self.goes_on = threading.Event()
        self.stopped = False
        self.done = 0
        self.left = ""

    def run(self) -> None:
        self.goes_on.wait(20)
        if self._error or self.stopped:
            raise DataplaneError(self._error or "operation aborted")

    def percent(self) -> int:
        self.done += 30
        if self.done >= 60:
            self.goes_on.set()
        return min(self.done, 60)

    def moved(self) -> int:
        return self.done

    def cancel(self) -> bool:
        self.stopped = True
        self.goes_on.set()
        return True

    def here(self) -> bool | None:
        return self._places[0][0]

    def there(self) -> bool | None:
        return (self._places.pop(0) if len(self._places) > 1 else self._places[0])[1]

    def recover(self) -> str:
        return self.left


def test_it_tells_how_far_it_is() -> None:
    said: list[str] = []
    assert follow(Model(), threading.Event(), said.append) == ""
    assert said[:2] == ["30%", "60%"]


class Busy(Model):
    """Its memory changes as fast as it is sent, then nothing is sent any more, then it ends."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self._said, self._sent, self._looks = said, 0, 0

    def percent(self) -> int:
        return 40

    def moved(self) -> int:
        self._looks += 1
        if len(self._said) < 4:
            self._sent += 1000
            self._looks = 0
        elif self._looks > 5:
            self.goes_on.set()
        return self._sent


def test_it_says_that_it_gets_on_even_if_the_percentage_stays_but_not_when_nothing_moves() -> None:
    said: list[str] = []
    assert follow(Busy(said), threading.Event(), said.append, word_s=0.01) == ""
    assert said == ["40%"] * 4


def test_cancelled_it_stays() -> None:
    cancelled = threading.Event()
    cancelled.set()
    assert follow(Model(), cancelled, lambda _: None) == CANCELLED


def test_cancelled_or_not_a_machine_that_does_not_go_on_is_told_of() -> None:
    for cancelled in (False, True):
        model, asked = Model("" if cancelled else "no memory"), threading.Event()
        model.left = "the machine is left suspended"
        if cancelled:
            asked.set()
        why = follow(model, asked, lambda _: None)
        assert why == f"{'operation aborted' if cancelled else 'no memory'}; the machine is left suspended"


@pytest.mark.parametrize(
    ("places", "error"),
    [
        (((True, False),), "libvirtd is gone"),
        (((True, None),), "libvirtd is gone"),
        (((False, True),), ""),
        (((False, None),), ""),
        (((False, False),), "libvirtd is gone"),
        (((None, None), (None, True), (False, True)), ""),
        (((True, True), (True, False)), "libvirtd is gone"),
    ],
)
def test_a_hypervisor_that_goes_away_is_asked_where_the_machine_is(
    places: tuple[tuple[bool | None, bool | None], ...], error: str
) -> None:
    assert follow(Model("libvirtd is gone", places), threading.Event(), lambda _: None) == error


def test_and_if_it_never_comes_back_that_is_said() -> None:
    why = follow(Model("libvirtd is gone", ((None, None),)), threading.Event(), lambda _: None, certain_s=0)
    assert why == f"libvirtd is gone; {UNKNOWN}"


def test_certain_is_only_what_the_source_says() -> None:
    assert verdict(None, True) is None
    assert verdict(False, None) is True
    assert verdict(True, False) is False

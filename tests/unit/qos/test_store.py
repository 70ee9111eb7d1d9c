"""The plan on disk: what is saved is loaded; a damaged file is told and left out; nothing is written twice."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from qos_controller.store import Kept, Store
from xenflow.bandwidth import Match, PortQueues, Queue, Selector

SELECTORS = (Selector(100, bytes.fromhex("020000000001"), 7), Selector(0, match=Match(dscp=46, source=b"\n\0\0\0\x08")))
PLAN = [
    PortQueues("p1", 10**8, (Queue(8, "red", "voice", 10**6, 10**7, selectors=SELECTORS),)),
    PortQueues("p2", 10**9),
]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    Store(tmp_path).save(reversed(PLAN), "netdev")
    assert Store(tmp_path).load() == Kept("netdev", PLAN)


def test_there_may_be_no_plan_yet(tmp_path: Path) -> None:
    assert Store(tmp_path).load() == Kept()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"links": [[20]]}', '{"links": [["p1", -1, []]]}', "\xff"])
def test_a_damaged_plan_is_told_and_left_out(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "qos.json").write_text(text, encoding="latin-1")
    with caplog.at_level(logging.ERROR):
        assert Store(tmp_path).load() == Kept()
    assert "damaged" in caplog.text
    Store(tmp_path).save(PLAN, "system")
    assert Store(tmp_path).load().links == PLAN


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(PLAN, "netdev")
    written = (tmp_path / "qos.json").stat()
    store.save(PLAN, "netdev")
    assert (tmp_path / "qos.json").stat() == written
    again = Store(tmp_path)
    again.load()
    again.save(PLAN, "netdev")
    assert (tmp_path / "qos.json").stat() == written


def test_a_disk_that_is_full_or_gone_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Store(tmp_path / "gone").save(PLAN, "netdev")
    assert "cannot be kept" in caplog.text

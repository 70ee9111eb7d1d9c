"""Definitions that were handed over: which one counts, what is refused, and what a restart finds."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from xenflow.errors import ConfigError
from xenflow.model import ANNOUNCEMENT_MAC, Interface, Machine, MachineKind
from xenflow.resources import Resources
from xenflow.wire import Define, Undefine
from xenflow_server.book import Book

FILE = """
[[network]]
name = "a"
vid = 10
[[network]]
name = "b"
vid = 11
[[router]]
name = "own"
max_routes = 3
interface = [{ mac = "02:00:00:00:00:01", network = "a" }]
[[host]]
name = "h1"
interface = [{ mac = "02:00:00:00:00:03", network = "a" }]
"""


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number])


def router(name: str, *interfaces: tuple[str, bytes], max_flows: int = 0) -> Machine:
    numbered = tuple(Interface(number, network, mac) for number, (network, mac) in enumerate(interfaces, 1))
    return Machine(name, MachineKind.ROUTER, numbered, max_flows)


GUEST = msgspec.structs.replace(
    router("guest", ("a", mac(9)), ("b", mac(10)), max_flows=5), max_routes=100, resources=Resources(512, 2, 300, 150)
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "definitions.d").mkdir()
    (tmp_path / "definitions.d" / "a.toml").write_text(FILE)
    return tmp_path


def started(site: Path) -> Book:
    book = Book(site / "definitions.d", site / "state")
    book.start()
    return book


def test_what_is_handed_over_counts_and_survives_a_restart(site: Path) -> None:
    book = started(site)
    assert book.define(Define(1, GUEST, 100, 7)).machines["guest"] == GUEST
    assert book.definitions.max_routes["guest"] == 100
    assert book.reload().machines["guest"] == GUEST
    again = started(site)
    assert again.problems == []
    assert again.definitions == book.definitions
    assert again.definitions.handed == {"guest": 7}
    kept = json.loads((site / "state" / "routers" / "guest.json").read_text())
    assert kept["epoch"] == 7
    assert kept["router"]["interface"][0]["mac"] == "02:00:00:00:00:09"


def test_the_higher_epoch_wins_over_the_file_and_over_an_older_one(site: Path) -> None:
    book = started(site)
    newer = router("own", ("b", mac(1)))
    assert book.define(Define(1, newer, 0, 2)).machines["own"] == newer
    assert book.definitions.max_routes["own"] == 0
    assert started(site).definitions.machines["own"] == newer
    assert "instead of its file" in book.lines()[0]
    with pytest.raises(ConfigError, match="epoch 2 is here already"):
        book.define(Define(2, router("own", ("a", mac(1))), 0, 2))
    with pytest.raises(ConfigError, match="epoch 2 is here already"):
        book.define(Define(3, router("own", ("a", mac(1))), 0, 1))
    assert book.define(Define(4, newer, 0, 2)).machines["own"] == newer  # the same again


def test_forgetting_gives_the_file_back(site: Path) -> None:
    book = started(site)
    before = book.definitions
    book.define(Define(1, router("own", ("b", mac(1))), 0, 5))
    with pytest.raises(ConfigError, match="newer: epoch 5"):
        book.undefine(Undefine(2, "own", 4))
    assert book.undefine(Undefine(3, "own", 5)) == before
    assert book.undefine(Undefine(3, "own", 5)) == before
    assert started(site).definitions == before


@pytest.mark.parametrize(
    ("machine", "epoch", "reason"),
    [
        (router("guest", ("c", mac(9))), 1, "unknown network"),
        (router("guest", ("a", mac(1))), 1, "mac is that of"),
        (router("guest", ("a", ANNOUNCEMENT_MAC)), 1, "the announcement's address"),
        (router("guest", ("a", b"\x01\0\0\0\0\1")), 1, "unicast"),
        (router("guest", ("a", mac(8)), ("a", mac(9))), 1, "in one network"),
        (router("guest", ("a", b"\2\0")), 1, "handed over"),
        (router("h1", ("a", mac(9))), 1, "used twice"),
        (router("../evil", ("a", mac(9))), 1, "must match"),
        (router("guest"), 1, "no interface"),
        (router("guest", ("a", mac(9))), 0, "epoch must be 1"),
        (Machine("guest", MachineKind.HOST, GUEST.interfaces), 1, "only routers move"),
        (Machine("guest", MachineKind.ROUTER, GUEST.interfaces[1:]), 1, "numbered from 1"),
    ],
)
def test_what_is_refused_changes_nothing(site: Path, machine: Machine, epoch: int, reason: str) -> None:
    book = started(site)
    before = book.definitions
    with pytest.raises(ConfigError, match=reason):
        book.define(Define(1, machine, 0, epoch))
    assert book.definitions is before
    assert not (site / "state").exists()


def test_a_file_that_contradicts_what_was_handed_over_is_not_taken(site: Path) -> None:
    book = started(site)
    book.define(Define(1, GUEST, 0, 1))
    before = book.definitions
    (site / "definitions.d" / "a.toml").write_text(FILE.replace('"b"', '"other"'))
    with pytest.raises(ConfigError, match=r"guest\.json: router 'guest': interface 2: unknown network"):
        book.reload()
    assert book.definitions is before


def test_at_start_it_is_left_out_alone_until_it_fits_again(site: Path) -> None:
    book = started(site)
    book.define(Define(1, GUEST, 0, 1))
    book.define(Define(2, router("own", ("a", mac(7))), 0, 1))
    (site / "definitions.d" / "a.toml").write_text(FILE.replace('"b"', '"other"'))
    fresh = started(site)
    assert set(fresh.definitions.machines) == {"own", "h1"}
    assert fresh.definitions.machines["own"].interfaces[0].mac == mac(7)
    assert len(fresh.problems) == 1
    (site / "definitions.d" / "a.toml").write_text(FILE)
    assert "guest" in fresh.reload().machines
    assert fresh.problems == []


def test_an_unreadable_one_does_not_bring_the_older_file_back(site: Path) -> None:
    started(site).define(Define(1, router("own", ("b", mac(1))), 0, 5))
    (site / "state" / "routers" / "own.json").write_bytes(b'{"epoch": 5, "router"')
    book = started(site)
    assert "own" not in book.definitions.machines
    assert book.definitions.handed == {"own": 0}
    assert "remove it" in book.problems[0]
    assert "own" in book.define(Define(1, router("own", ("b", mac(1))), 0, 6)).machines
    assert "own" in started(site).definitions.machines


def test_a_disk_that_fails_changes_nothing(site: Path) -> None:
    book = started(site)
    (site / "state").write_text("a file where the directory should be")
    with pytest.raises(ConfigError, match="cannot be kept"):
        book.define(Define(1, GUEST, 0, 1))
    assert "guest" not in book.definitions.machines

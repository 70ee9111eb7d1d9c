"""One machine for all tests here; what it printed and logged stays in build/machines when one of them fails."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines import guests
from xenflow_lab.command import LabError
from xenflow_lab.machines.machine import Machine

LOGS = Path(__file__).parents[2] / "build" / "machines"


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine that is up (see `guests`)."""
    directory = Path(tempfile.mkdtemp(prefix="xfm-", dir="/var/tmp"))
    failed = request.session.testsfailed
    try:
        machine = guests.start(directory)
        yield machine
        if request.session.testsfailed > failed:
            _keep_journal(machine)
        machine.kill()
    finally:
        if request.session.testsfailed > failed or not (directory / "machine.json").exists():
            _keep(directory)
        shutil.rmtree(directory)


def _keep_journal(machine: Machine) -> None:
    try:
        (machine.directory / "journal.log").write_text(machine.shell("journalctl -b --no-pager -o short-monotonic"))
    except LabError as error:
        (machine.directory / "journal.log").write_text(f"{error}\n")


def _keep(directory: Path) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.log"):
        shutil.copy(path, LOGS)
    print(f"\nlogs: {LOGS}")

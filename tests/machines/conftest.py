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
JOURNAL_S = 300.0


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine that is up (see `guests`)."""
    directory = Path(tempfile.mkdtemp(prefix="xfm-", dir="/var/tmp"))
    failed = request.session.testsfailed
    try:
        yield guests.start(directory)
        if request.session.testsfailed > failed:
            _keep(directory)
    except BaseException:  # it has not come up
        _keep(directory)
        raise
    finally:
        if (directory / "machine.json").exists():
            Machine(directory).kill()
        shutil.rmtree(directory)


def _keep(directory: Path) -> None:
    """Copy what it has printed and logged to build/machines."""
    if (directory / "machine.json").exists() and (machine := Machine(directory)).alive:
        try:
            text = machine.shell("journalctl -b --no-pager -o short-monotonic", timeout_s=JOURNAL_S)
        except LabError as error:
            text = f"{error}\n"
        (directory / "journal.log").write_text(text)
    LOGS.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.log"):
        shutil.copy(path, LOGS)
    print(f"\nlogs: {LOGS}")

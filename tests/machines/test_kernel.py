"""Tests that run inside the machine, on the kernel datapath: what `pytest` says there is the verdict here."""

from __future__ import annotations

import shlex

import pytest

from xenflow_lab.command import LabError
from xenflow_lab.machines.machine import Machine
from xenflow_lab.machines.tree import ENVIRONMENT, ROOT

pytestmark = [pytest.mark.root, pytest.mark.machine]
RESULTS = "/var/tmp/results.jsonl"
SUITES = (
    "tests/kernel/test_set_queue.py",
    "tests/contract/test_qos_rows.py",
    "tests/contract/test_qos_htb.py",
    "tests/contract/test_qos_process.py",
    "tests/lab/test_router.py",
    "tests/lab/test_isolation.py",
    "tests/kernel/test_answers.py",
    "tests/kernel/test_sharing.py",
)
LIMIT_S = 2400.0
PATIENCE = 10
"""Deadlines of the tests are for machines that are not emulated."""


@pytest.mark.parametrize("suite", SUITES)
def test_on_the_kernel_datapath(guest: Machine, suite: str) -> None:
    variables = f"XENFLOW_DATAPATH=system XENFLOW_PATIENCE={PATIENCE} XENFLOW_RESULTS={RESULTS}"
    command = f"{ENVIRONMENT}/bin/python -m pytest -q -s -p no:cacheprovider {suite}"
    log = f"/var/tmp/{suite.replace('/', '.')}.log"
    done = guest.run(
        ["bash", "-c", f"cd {shlex.quote(str(ROOT))} && {variables} {command} > {log} 2>&1"], timeout_s=LIMIT_S
    )
    said = guest.agent.get(log).decode(errors="replace")
    (guest.directory / log.rpartition("/")[2]).write_text(said)
    print(f"\n{said[-6000:] if done.code else ''.join(said.splitlines(keepends=True)[-3:])}")
    assert done.code == 0, f"{suite}: exit code {done.code}"


def test_what_was_measured(guest: Machine) -> None:
    try:
        print(f"\n{guest.agent.get(RESULTS).decode()}")
    except LabError:
        pytest.fail("the paper's scenario has left no results")

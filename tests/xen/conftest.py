"""One lab of emulated Xen hosts for all tests here; what it has logged stays in build/xen if one of them fails.

Its name is always the same, so that its hosts go on from where an earlier run has saved them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.interruption_vms import Trial
from bench.interruption_xen import TOPOLOGY
from tests.keeping import kept_if_failed
from tests.xen import hosts
from xenflow_lab.xen import logs
from xenflow_lab.xen.lab import XenLab

KEPT = Path(__file__).parents[2] / "build" / "xen"


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[XenLab]:
    """deploy/lab/xen.toml with everything in sync and OSPF's adjacency full."""
    shutil.rmtree(KEPT, ignore_errors=True)
    made = XenLab(TOPOLOGY, "xen-test", say=lambda line: print(f"  {line}", flush=True))
    with kept_if_failed(request, made, _keep) as built:
        built.wait_settled()
        hosts.await_adjacency(built)
        yield built


def _keep(lab: XenLab) -> None:
    """Copy what hosts and the lab's own processes have logged to build/xen."""
    for name, host in lab.hosts.items():
        if host.alive:
            logs.write(host)
        (KEPT / name).mkdir(parents=True, exist_ok=True)
        for log in host.directory.glob("*.log"):
            shutil.copy(log, KEPT / name)
        processes = lab.paths.state / "log", host.directory.parent / "log"
        for directory in processes:
            if directory.is_dir():
                shutil.copytree(directory, KEPT / "log", dirs_exist_ok=True)
    print(f"logs: {KEPT}")


@pytest.fixture(scope="session")
def trials() -> list[Trial]:
    """What the figure is drawn of."""
    return []

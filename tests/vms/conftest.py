"""Labs whose routers are virtual machines, one after the other; what they have logged stays if a test fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.keeping import kept_if_failed
from xenflow_lab import stations, teardown
from xenflow_lab.lab import Lab, silent
from xenflow_lab.paths import lab_names
from xenflow_lab.vms.machines import Machines

ROOT = Path(__file__).parents[2]
TOPOLOGY = ROOT / "deploy" / "lab" / "vms.toml"
KEPT = ROOT / "build" / "vms"
LEARNED_S = 180.0

MakeLab = Callable[..., Lab]


def own_name(suffix: str) -> str:
    """A lab name that no other test run has."""
    return f"v{os.getpid()}-{suffix}"


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    shutil.rmtree(KEPT, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    for name in lab_names():
        if name.startswith(own_name("")):
            teardown.down(name, silent)


def keep(lab: Lab) -> None:
    """Copy a lab's logs to build/vms."""
    target = KEPT / lab.name
    target.mkdir(parents=True, exist_ok=True)
    if (lab.paths.state / "log").is_dir():
        shutil.copytree(lab.paths.state / "log", target, dirs_exist_ok=True)
    for node in lab.built.topology.node:
        logs = lab.paths.machine(node.name) / "libvirt" / "log"
        if logs.is_dir():
            shutil.copytree(logs, target / node.name, dirs_exist_ok=True)
    print(f"logs: {target}")


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """deploy/lab/vms.toml with its routes learned."""
    with kept_if_failed(request, Lab(TOPOLOGY, own_name("x"), vms=True, say=print), keep) as made:
        await_routes(made)
        yield made


def await_routes(lab: Lab) -> None:
    """Return once the hosts of each tenant reach each other, and everything is installed."""
    lab.wait_settled(LEARNED_S)
    for tenant in ("red", "blue"):
        lab.wait_until(lambda t=tenant: all(stations.matrix(lab, t).values()), LEARNED_S, f"pings of {tenant}")  # type: ignore[misc]
    lab.wait_settled(LEARNED_S)


def machines(lab: Lab) -> Machines:
    """The lab's routers, as libvirt has them."""
    assert isinstance(lab.routers, Machines)
    return lab.routers

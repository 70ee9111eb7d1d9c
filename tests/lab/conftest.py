"""Labs for the tests in this directory, each under a name of this test run, none left behind."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xenflow_lab import teardown
from xenflow_lab.lab import Lab, Overrides, silent
from xenflow_lab.paths import lab_names
from xenflow_lab.topology import Datapath

TOPOLOGIES = Path(__file__).parents[2] / "deploy" / "lab"

DATAPATH = Datapath(os.environ.get("XENFLOW_DATAPATH", "netdev"))
"""`system` in a machine whose kernel has Open vSwitch's datapath (tests/machines)."""

LabFactory = Callable[..., Lab]


def own_name(suffix: str) -> str:
    """A lab name that no other test run has."""
    return f"t{os.getpid()}-{suffix}"


@pytest.fixture(scope="session", autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    for name in lab_names():
        if name.startswith(own_name("")):
            teardown.down(name, silent)


@pytest.fixture(scope="module")
def make_lab(request: pytest.FixtureRequest) -> Iterator[LabFactory]:
    """Builds labs that go when the module's tests are through: `make_lab(path_or_text, **Lab's arguments)`."""
    built: list[Lab] = []
    directory = request.getfixturevalue("tmp_path_factory").mktemp("lab")

    def make(topology: Path | str, suffix: str = "", **options: object) -> Lab:
        if isinstance(topology, str):
            path = directory / f"{len(built)}.toml"
            path.write_text(topology)
            topology = path
        wanted = options.pop("overrides", Overrides())
        options["overrides"] = dataclasses.replace(wanted, datapath=DATAPATH)  # type: ignore[type-var]
        lab = Lab(topology, own_name(suffix or f"l{len(built)}"), **options)  # type: ignore[arg-type]
        built.append(lab)
        lab.up()
        return lab

    yield make
    for lab in reversed(built):
        lab.down()


@pytest.fixture(scope="module")
def simple_lab(make_lab: LabFactory) -> Lab:
    """deploy/lab/simple.toml with everything installed."""
    lab = make_lab(TOPOLOGIES / "simple.toml", "simple")
    lab.wait_settled()
    return lab


@pytest.fixture(scope="module")
def demo_lab(make_lab: LabFactory) -> Lab:
    """deploy/lab/demo.toml with everything installed, and with its routes learned."""
    lab = make_lab(TOPOLOGIES / "demo.toml", "demo")
    await_demo(lab)
    return lab


def await_demo(lab: Lab) -> None:
    """Return once the OSPF routes of the demo are in every router's kernel, and their flows installed."""
    for router in lab.plan.topology.router:
        far = "2" if router.name.endswith("r1") else "1"
        for family, prefix in (("-4", f"10.0.{far}.0/24"), ("-6", f"fd00:0:0:{far}::/64")):
            argv = ["ip", family, "route", "show", prefix]
            lab.wait_until(lambda n=router.name, a=argv: bool(lab.run(n, a).stdout), 60.0, f"{prefix} in {router.name}")  # type: ignore[misc]
    lab.wait_settled()


__all__ = ["TOPOLOGIES", "LabFactory", "Overrides", "await_demo", "own_name"]

"""Routers move under POX as under the stand-alone host: no packet is lost, none doubled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import moving, ring, tools
from tests.lab.conftest import Overrides, own_name
from tests.lab.test_migration import TOPOLOGY
from xenflow_lab.lab import Lab
from xenflow_lab.topology import Controller

pytestmark = [pytest.mark.root, pytest.mark.ovs, pytest.mark.lab, pytest.mark.pox]

RATE_PPS = 1000
STREAM = ring.Stream("h1-h2", "h1", ("10.0.2.10:5000",), ("h2",), 8, ("--ports", "8"))


@pytest.fixture(scope="module")
def pox_lab() -> Iterator[Lab]:
    with Lab(TOPOLOGY, own_name("pox-mig"), overrides=Overrides(Controller.POX)) as lab:
        for router, far in (("r1", "10.0.2.0/24"), ("r2", "10.0.1.0/24")):
            argv = ["ip", "route", "show", far]
            lab.wait_until(lambda r=router, a=argv: bool(lab.run(r, a).stdout), 60, f"{far} in {router}")  # type: ignore[misc]
        assert all(tools.answers(lab, "h1", ["10.0.2.10", "10.0.1.11"]).values())
        assert lab.app_status().host == "pox"
        yield lab


@pytest.fixture(autouse=True)
def _at_rest(pox_lab: Lab) -> None:
    ring.wait_quiet(pox_lab)


def test_ordered_moves_lose_and_double_nothing(pox_lab: Lab) -> None:
    with moving.numbered(pox_lab, STREAM, rate_pps=RATE_PPS) as reports:
        for to in ("n2", "n3", "n1"):
            print(f"to {to}: {moving.steps(moving.moved(pox_lab, 'r1', to))} ms")
    print(ring.figures(reports))
    moving.assert_complete(reports)
    moving.assert_as_wanted(pox_lab)


def test_a_move_by_hand_loses_and_doubles_nothing(pox_lab: Lab) -> None:
    with moving.numbered(pox_lab, STREAM, rate_pps=RATE_PPS) as reports:
        done = moving.moved_by_hand(pox_lab, "r1", "n2", 0.2)
    print(f"by hand: {moving.steps(done)} ms; {ring.figures(reports)}")
    moving.assert_complete(reports)
    moving.assert_as_wanted(pox_lab)

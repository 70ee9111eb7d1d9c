"""The plan of a lab whose machines have moved."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.lab.topologies import EXAMPLES
from xenflow.errors import ConfigError
from xenflow_lab import fabric, places, topology
from xenflow_lab.places import Place
from xenflow_lab.plan import MAX_INTERFACE_NAME, Kind, plan

DEMO = plan(topology.load(Path(EXAMPLES) / "demo.toml"))
NODES = [node.name for node in DEMO.of_kind(Kind.NODE)]
GUESTS = [guest.name for guest in DEMO.of_kind(Kind.ROUTER, Kind.HOST)]
ANYWHERE = st.dictionaries(st.sampled_from(GUESTS), st.sampled_from([*NODES, ""]).map(Place))


@given(ANYWHERE)
def test_plan_follows_and_changes_nothing_else(moved: dict[str, Place]) -> None:
    now = places.placed(DEMO, moved)
    for guest in GUESTS:
        node = moved[guest].node if guest in moved else DEMO.machines[guest].node
        assert now.machines[guest].node == node
        assert {vif.node for vif in now.vifs if vif.machine == guest} == ({node} if node else set())
    assert {(vif.machine, vif.port, vif.ofport, vif.interface) for vif in now.vifs} == {
        (vif.machine, vif.port, vif.ofport, vif.interface) for vif in DEMO.vifs if now.machines[vif.machine].node
    }
    home = {guest: Place(DEMO.machines[guest].node) for guest in moved}
    assert places.placed(DEMO, home) == DEMO


def test_both_sides_of_a_move_can_exist_at_once() -> None:
    for guest in GUESTS:
        wires = [wire for node in NODES for _, wire in places.side(DEMO, guest, node).wires]
        assert len(wires) == len(set(wires))
        assert max(map(len, wires)) <= MAX_INTERFACE_NAME


def test_cut_and_join_touch_both_ends_of_each_wire() -> None:
    side = places.side(DEMO, "red-r1", "n3")
    ends = {end for wire in side.wires for end in wire}
    for batch in (fabric.cut_all(side), fabric.join_all(side)):
        assert {line.split()[3] for line in batch.splitlines()} == ends
    assert all(line.endswith(fabric.NOWHERE) for line in fabric.cut_all(side).splitlines())


def test_only_virtual_machines_move() -> None:
    with pytest.raises(ConfigError, match="no virtual machine 'n1'"):
        places.home(DEMO, "n1")

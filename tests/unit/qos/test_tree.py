"""What is wanted becomes what is there, in steps that a kernel takes; twice is once; what is foreign stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qos_controller.tree import (
    MARK,
    OUR_ROOT,
    AddRoot,
    Operation,
    Ownership,
    PutClass,
    Root,
    Tree,
    apply,
    changes,
    ownership,
)
from tests.fakes.trafficcontrol import NO_ROOT, problem
from tests.unit.qos.trees import trees

FOUND = st.one_of(trees(), st.just(Tree(NO_ROOT)), st.just(Tree()))


def carried_out(operations: list[Operation], found: Tree) -> Tree:
    """Return what a kernel makes of it that checks each step."""
    for operation in operations:
        refused = problem(operation, found)
        assert not refused, (operation, refused)
        found = apply([operation], found)
    return found


@given(trees(), FOUND)
def test_any_tree_becomes_any_other(wanted: Tree, found: Tree) -> None:
    assert carried_out(changes(wanted, found), found) == wanted


@given(trees())
def test_twice_is_once(wanted: Tree) -> None:
    assert changes(wanted, wanted) == []


@given(trees(), trees(), st.data())
def test_who_is_killed_at_any_step_finishes_later(wanted: Tree, found: Tree, data: st.DataObject) -> None:
    operations = changes(wanted, found)
    done = data.draw(st.integers(0, len(operations)))
    halfway = carried_out(operations[:done], found)
    assert carried_out(changes(wanted, halfway), halfway) == wanted


@given(trees())
def test_what_is_not_wanted_goes_at_once(found: Tree) -> None:
    assert apply(changes(Tree(), found), found) == Tree()
    assert changes(Tree(), Tree(NO_ROOT)) == []


@given(trees(), trees())
def test_only_what_differs_is_written(wanted: Tree, found: Tree) -> None:
    for operation in changes(wanted, found):
        if isinstance(operation, PutClass) and not operation.is_new:
            assert not operation.item.is_like(found.classes[operation.item.minor])


@pytest.mark.parametrize(
    ("root", "owner"),
    [
        (None, Ownership.NOBODY),
        (Root("noqueue", 0), Ownership.NOBODY),
        (Root("fq_codel", 0), Ownership.NOBODY),
        (OUR_ROOT, Ownership.OURS),
        (Root("htb", 0x10000, 10, 1), Ownership.FOREIGN),
        (Root("htb", 0x20000, MARK, 0xFFFF), Ownership.FOREIGN),
        (Root("tbf", 0x80010000), Ownership.FOREIGN),
    ],
)
def test_whose_qdisc_it_is(root: Root | None, owner: Ownership) -> None:
    assert ownership(root) is owner


def test_our_root_comes_first() -> None:
    assert changes(Tree(OUR_ROOT), Tree(NO_ROOT)) == [AddRoot()]

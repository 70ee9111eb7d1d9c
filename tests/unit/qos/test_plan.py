"""Plans: how classes nest, which minor numbers they have, and which plans cannot be carried out."""

from __future__ import annotations

import msgspec
import pytest

from qos_controller.plan import LINK_MINOR, ClassPlan, LinkPlan, groups, link_plan, parent_minors, problems
from xenflow.bandwidth import PortQueues, Queue

M = 1_000_000
LINK = LinkPlan(
    "trunk",
    100 * M,
    (
        ClassPlan(0, "r1", hired_bps=20 * M),
        ClassPlan(4, "r2", "bulk", 15 * M),
        ClassPlan(2, "r2", "voice", 5 * M, ceiling_bps=10 * M),
        ClassPlan(3, "r2", "control", M, control=True),
    ),
)


def test_a_plan_is_what_the_fact_says() -> None:
    queues = (Queue(2, "r2", "voice", 5 * M, 10 * M), Queue(3, "r2", "", M, control=True))
    assert link_plan(PortQueues("trunk", 100 * M, queues)) == LinkPlan(
        "trunk",
        100 * M,
        (ClassPlan(2, "r2", "voice", 5 * M, 10 * M), ClassPlan(3, "r2", "", M, control=True)),
    )


def test_classes_of_one_owner_are_a_group_and_control_is_in_none() -> None:
    alone, several = groups(LINK)
    assert (alone.owner, alone.minor, alone.is_nested) == ("r1", 1, False)
    assert (several.owner, several.minor, several.is_nested, several.hired_bps) == ("r2", 0x8003, True, 20 * M)
    assert parent_minors(LINK) == {0: LINK_MINOR, 4: 0x8003, 2: 0x8003, 3: LINK_MINOR}


def test_a_good_plan_has_no_problems() -> None:
    assert list(problems(LINK)) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"capacity_bps": 0}, "capacity of 0"),
        ({"capacity_bps": M}, "control queues alone"),
        ({"frame_bytes": 0}, "largest frame"),
        ({"classes": (ClassPlan(1, "a", hired_bps=M), ClassPlan(1, "b", hired_bps=M))}, "another class has this"),
        ({"classes": (ClassPlan(-1, "a", hired_bps=M),)}, "a queue id is 0 to"),
        ({"classes": (ClassPlan(0x8000, "a", hired_bps=M),)}, "a queue id is 0 to"),
        ({"classes": (ClassPlan(1, "a"),)}, "hired 0 bit/s"),
        ({"classes": (ClassPlan(1, "a", hired_bps=-5),)}, "hired -5 bit/s"),
        ({"classes": (ClassPlan(1, "a", hired_bps=M, ceiling_bps=M - 1),)}, "less than what it hired"),
        (
            {"classes": (ClassPlan(0x7FFC, "a", "x", hired_bps=M), ClassPlan(0x7FFD, "a", "y", hired_bps=M))},
            "a set of queues begins",
        ),
    ],
)
def test_plans_that_cannot_be_carried_out_are_named(change: dict[str, object], reason: str) -> None:
    found = list(problems(msgspec.structs.replace(LINK, **change)))
    assert [line for line in found if reason in line and line.startswith("trunk: ")], found


def test_minors_of_groups_are_nobody_elses() -> None:
    classes = tuple(ClassPlan(queue, "a", str(queue), hired_bps=1) for queue in (0x7FFB, 0x7FFF))
    link = LinkPlan("p", M, classes)
    assert not list(problems(link))
    (group,) = groups(link)
    assert group.minor < LINK_MINOR
    assert group.minor not in {item.minor for item in classes}

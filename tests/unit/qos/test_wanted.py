"""Settings in the kernel's terms, and the classes that nobody hires."""

from __future__ import annotations

import pytest

from qos_controller.decision import PolicyKind, standard
from qos_controller.plan import LINK_MINOR, LinkPlan, link_plan
from qos_controller.policy import decide
from qos_controller.tree import DEFAULT_MINOR, INNER_QUANTUM, NODE_MINOR, OUR_ROOT, TICK_NS, Tree
from qos_controller.wanted import MAX_QUEUE_BYTES, MIN_QUEUE_BYTES, queue_bytes, wanted_tree
from xenflow.bandwidth import PortQueues, Queue

M = 10**6


def tree(kind: PolicyKind = PolicyKind.WORK_CONSERVING, capacity: int = 100 * M) -> tuple[LinkPlan, Tree]:
    queues = (
        Queue(7, "red", "control", 128_000, control=True),
        Queue(1, "red", "voice", 5 * M),
        Queue(2, "red", "", 15 * M),
        Queue(8, "blue", "", 40 * M),
    )
    link = link_plan(PortQueues("p1", capacity, queues))
    settings = decide(link, {}, {}, standard(kind)).settings
    return link, wanted_tree(link, settings, (), is_static=kind is PolicyKind.STATIC)


def test_every_class_has_a_parent_and_every_leaf_a_bound() -> None:
    _, made = tree()
    assert made.root == OUR_ROOT
    parents = {item.parent for item in made.classes.values()}
    assert parents - {0} <= made.classes.keys()
    for minor, item in made.classes.items():
        assert bool(item.limit_bytes) == (minor not in parents)
        if minor in parents:
            assert (item.quantum, item.prio) == (INNER_QUANTUM, 0)


def test_the_default_class_is_lent_to_last_and_the_nodes_own_is_served_first() -> None:
    _, made = tree()
    prio = {minor: item.prio for minor, item in made.classes.items() if item.limit_bytes}
    assert prio[DEFAULT_MINOR] > max(value for minor, value in prio.items() if minor != DEFAULT_MINOR)
    assert prio[NODE_MINOR] == prio[8] == 0
    assert made.classes[DEFAULT_MINOR].rate == 100 * M // 8 // 1000


def test_plain_open_vswitch_knows_no_last() -> None:
    _, made = tree(PolicyKind.STATIC)
    assert made.classes[DEFAULT_MINOR].prio == made.classes[9].prio


@pytest.mark.parametrize("capacity", [M, 100 * M, 10**10, 10**12])
def test_buffers_are_times_at_the_rate(capacity: int) -> None:
    _, made = tree(capacity=capacity)
    link = made.classes[LINK_MINOR]
    assert link.rate == capacity // 8
    assert link.buffer * TICK_NS * link.rate / 1e9 == pytest.approx(max(2 * 1522, link.rate * 0.002), rel=0.05)
    assert all(0 < item.buffer < 1 << 32 and 0 < item.cbuffer < 1 << 32 for item in made.classes.values())


def test_a_queue_is_bounded_by_what_is_hired() -> None:
    assert queue_bytes(20 * M) == 250_000
    assert queue_bytes(1000) == MIN_QUEUE_BYTES
    assert queue_bytes(10**12) == MAX_QUEUE_BYTES
    assert queue_bytes(1000, 65_550) == 131_100, "a segment of the kernel's offload is one frame"

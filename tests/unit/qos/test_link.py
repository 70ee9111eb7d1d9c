"""What a link keeps of its past when its plan changes."""

from __future__ import annotations

import pytest

from qos_controller.filters import NoClassifier
from qos_controller.link import Link
from qos_controller.plan import FRAME_BYTES
from qos_controller.rtnl import Counters
from xenflow.bandwidth import PortQueues, Queue

M = 10**6
PLAN = PortQueues("p1", 100 * M, (Queue(8, "red", "", 20 * M), Queue(16, "blue", "", 40 * M)))


@pytest.mark.parametrize("other", [Queue(8, "green", "", 20 * M), Queue(8, "red", "voice", 20 * M)])
def test_a_queue_of_another_owner_or_class_does_not_inherit_loads(other: Queue) -> None:
    link = Link(3, 1.0)
    assert not link.redefine(PLAN, FRAME_BYTES, NoClassifier())
    for second in range(4):
        link.observe(second, {minor: Counters(second * M, second, 0, 0) for minor in (9, 17)})
    assert {queue: load.rate_bps for queue, load in link.loads().items()} == {8: 8e6, 16: 8e6}
    link.redefine(PortQueues("p1", 100 * M, (Queue(8, "red", "", 30 * M), PLAN.queues[1])), FRAME_BYTES, NoClassifier())
    assert link.loads().keys() == {8, 16}, "another hire is no other owner"
    link.redefine(PortQueues("p1", 100 * M, (other, PLAN.queues[1])), FRAME_BYTES, NoClassifier())
    assert link.loads().keys() == {16}
    link.observe(4.0, {minor: Counters(4 * M, 4, 0, 0) for minor in (9, 17)})
    assert not link.loads()[8].is_known
    link.observe(5.0, {9: Counters(6 * M, 6, 0, 0), 17: Counters(5 * M, 5, 0, 0)})
    assert link.loads()[8].rate_bps == 16e6

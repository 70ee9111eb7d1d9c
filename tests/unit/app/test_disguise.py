"""What bridges between nodes see of an address that moves: they are taught before the nodes behind them turn."""

from __future__ import annotations

from tests.unit.app.network import mac
from xenflow_app import pipeline, switching
from xenflow_app.disguise import LESSON_TYPE, Lesson, alias, disguise
from xenflow_app.fabric import Fabric
from xenflow_app.flowtable import FlowTable
from xenflow_app.openflow import actions, nxm
from xenflow_app.pipeline import Table
from xenflow_app.switching import Location, Member
from xenflow_app.topology import End, edge

VID, MAC = 30, mac(1)


def chain() -> tuple[Fabric, dict[str, FlowTable]]:
    """a 1--1 b 2--1 c 2--1 d, with the address at a."""
    nodes = {name: FlowTable() for name in "abcd"}
    fabric = Fabric(nodes)
    fabric.set_graph(
        {
            edge(End("a", 1), End("b", 1)),
            edge(End("b", 2), End("c", 1)),
            edge(End("c", 2), End("d", 1)),
        }
    )
    for name in nodes:
        fabric.node_back(name)
    fabric.ways.locate(VID, MAC, Location("a", Member(9, None)))
    fabric.settle()
    while fabric.moving:
        step(fabric)
    return fabric, nodes


def step(fabric: Fabric) -> tuple[set[str], list[Lesson]]:
    """Take a step that everybody confirms; return who turns, and what is taught before."""
    turning = fabric.advance()
    lessons, fabric.ways.lessons = fabric.ways.lessons, []
    assert fabric.awaiting == turning | {lesson.end.node for lesson in lessons}
    for name in list(fabric.awaiting):
        fabric.confirmed(name, fabric.step)
    return turning, lessons


def way(nodes: dict[str, FlowTable], name: str) -> bytes:
    return nodes[name].desired[nxm.flow_key(Table.EGRESS, 100, reg0=VID, dl_dst=MAC)][actions.VALUE_HEAD.size :]


def test_each_node_turns_after_a_lesson_from_the_next_one_on_its_way() -> None:
    fabric, nodes = chain()
    fabric.ways.locate(VID, MAC, Location("d", Member(8, None)))
    assert step(fabric) == ({"d"}, [])
    for teacher, port, learner, before, after in (("d", 1, "c", 1, 2), ("c", 1, "b", 1, 2), ("b", 1, "a", None, 1)):
        assert step(fabric) == (set(), [Lesson(End(teacher, port), VID, MAC)])
        if before is not None:
            assert way(nodes, learner) == switching.leave_trunk(before)
        awaited = {learner} - {"a"}  # nobody's turn depends on that of the node where all old ways end
        assert step(fabric) == (awaited, [])
        assert way(nodes, learner) == switching.leave_trunk(after)
    assert not fabric.moving


def test_a_node_that_cannot_teach_holds_up_nobody() -> None:
    fabric, _ = chain()
    fabric.node_away("c")
    fabric.ways.locate(VID, MAC, Location("d", Member(8, None)))
    taught = []
    while fabric.moving:
        taught += step(fabric)[1]
    assert all(lesson.end.node != "c" for lesson in taught)


def test_a_lesson_is_a_tagged_frame_that_bridges_flood_and_nodes_drop() -> None:
    frame = Lesson(End("a", 1), VID, MAC).frame()
    assert frame[:6] == pipeline.PROBE_MAC
    assert frame[6:12] == MAC
    assert frame[12:18] == bytes.fromhex("8100001e") + LESSON_TYPE.to_bytes(2, "big")
    assert len(frame) == 64
    dropped = nxm.flow_key(Table.ADMISSION, 64500, dl_dst=pipeline.PROBE_MAC)
    assert dropped in pipeline.static(reactive=False)
    assert LESSON_TYPE != pipeline.PROBE_TYPE


def test_a_disguised_frame_is_looked_at_again_and_only_once() -> None:
    (key,) = disguise(VID, MAC, 7)
    assert key == nxm.flow_key(Table.LINK, 200, reg0=VID, dl_src=MAC)
    assert alias(7) not in (MAC, alias(8))
    assert not alias(7)[0] & 1
    assert alias(7)[0] & 2

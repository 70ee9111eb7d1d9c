"""Rows of the database become what is wanted; a row without our mark, or of another bridge, stays as it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qos_controller.rows import (
    MARK,
    TYPE,
    BridgeRows,
    NewQos,
    QosRow,
    QueueRow,
    apply,
    foreign_type,
    has_row,
    plan_rows,
    queue_row,
)
from xenflow.bandwidth import PortQueues, Queue

BRIDGE = "xenbr0"
PORTS = ("p1", "p2", "p3")
MARKS = st.sampled_from([{MARK: BRIDGE}, {MARK: "other"}, {}])


@st.composite
def found(draw: st.DrawFn) -> BridgeRows:
    """Any rows: ours, of another bridge, of somebody else; shared, dangling, left over."""
    queues = {
        name: QueueRow(draw(st.sampled_from([{}, {"min-rate": "1000"}])), draw(MARKS))
        for name in draw(st.sets(st.sampled_from(["u1", "u2", "u3", "u4"])))
    }
    names = st.sampled_from(sorted(queues)) if queues else st.nothing()
    qos = {
        name: QosRow(
            draw(st.sampled_from([TYPE, "linux-htb"])), draw(MARKS), draw(st.dictionaries(st.integers(0, 3), names))
        )
        for name in draw(st.sets(st.sampled_from(["q1", "q2", "q3"])))
    }
    ports = {port: draw(st.sampled_from(["", *sorted(qos)])) for port in draw(st.sets(st.sampled_from(PORTS)))}
    return BridgeRows(True, "netdev", ports, qos, queues)


QUEUE = st.builds(Queue, st.integers(0, 3), st.just("r"), st.just(""), st.just(1000))
QUEUES = st.lists(QUEUE, unique_by=lambda queue: queue.id)
WANTED = st.dictionaries(st.sampled_from(PORTS), QUEUES).map(
    lambda ports: {port: PortQueues(port, 10**8, tuple(queues)) for port, queues in ports.items()}
)


@given(WANTED, found())
def test_what_is_wanted_is_there(wanted: dict[str, PortQueues], rows: BridgeRows) -> None:
    after = apply(plan_rows(wanted, rows, BRIDGE), rows, BRIDGE)
    for port, fact in wanted.items():
        if port in rows.ports and not foreign_type(rows, port, BRIDGE):
            assert has_row(after, port, BRIDGE)
            assert after.qos[after.ports[port]].type == TYPE
            present = {queue: after.queues[name] for queue, name in after.qos[after.ports[port]].queues.items()}
            assert present == {queue.id: queue_row(queue, BRIDGE) for queue in fact.queues}


@given(WANTED, found())
def test_twice_is_once(wanted: dict[str, PortQueues], rows: BridgeRows) -> None:
    after = apply(plan_rows(wanted, rows, BRIDGE), rows, BRIDGE)
    assert plan_rows(wanted, after, BRIDGE) == []


@given(WANTED, found())
def test_rows_of_others_stay(wanted: dict[str, PortQueues], rows: BridgeRows) -> None:
    after = apply(plan_rows(wanted, rows, BRIDGE), rows, BRIDGE)
    foreign = {name: row for name, row in rows.qos.items() if row.external_ids.get(MARK) != BRIDGE}
    assert {name: after.qos.get(name) for name in foreign} == foreign
    foreign_queues = {name: row for name, row in rows.queues.items() if row.external_ids.get(MARK) != BRIDGE}
    assert {name: after.queues.get(name) for name in foreign_queues} == foreign_queues
    assert all(after.ports[port] == name for port, name in rows.ports.items() if name in foreign)


@given(found())
def test_without_a_plan_nothing_of_ours_is_left(rows: BridgeRows) -> None:
    after = apply(plan_rows({}, rows, BRIDGE), rows, BRIDGE)
    assert not any(row.external_ids.get(MARK) == BRIDGE for row in [*after.qos.values(), *after.queues.values()])


def test_a_bridge_that_is_not_there_gets_nothing() -> None:
    assert plan_rows({"p1": PortQueues("p1", 1)}, BridgeRows(), BRIDGE) == []


def test_a_row_says_who_hired_what() -> None:
    queues = (Queue(5, "red", "voice", 2_000_000, 8_000_000), Queue(6, "red", "", 1_000_000))
    rows = BridgeRows(True, "", {"p1": ""})
    (change,) = plan_rows({"p1": PortQueues("p1", 10**8, queues)}, rows, BRIDGE)
    voice = QueueRow({"min-rate": "2000000", "max-rate": "8000000"}, {MARK: BRIDGE, "owner": "red", "class": "voice"})
    rest = QueueRow({"min-rate": "1000000"}, {MARK: BRIDGE, "owner": "red"})
    assert change == NewQos("p1", {5: voice, 6: rest})

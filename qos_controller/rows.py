"""What Open vSwitch's database says of queues: rows that are ours, and what has to change (pure).

Place in the flow: plan -> wanted rows + `BridgeRows` found -> `plan_rows` -> changes -> `database` -> one transaction.

    Port -- qos --> QoS (type linux-noop, external_ids:xenflow-qos=BRIDGE) -- queues:ID --> Queue (marked alike)

Open vSwitch leaves the qdisc of a port alone if its QoS is of type linux-noop, also when it starts anew; without such a
row it deletes what it finds. The rows say who owns a port's egress, and what each queue hired; what is decided every
`t_med` is in the kernel alone, since each change of a row makes ovs-vswitchd configure its bridges again.

Rules: a row without our mark is never changed or deleted, nor is a port's reference to one; marked rows that nothing
needs are deleted, wherever they came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from xenflow.bandwidth import PortQueues, Queue

MARK: Final = "xenflow-qos"
"""Key in external_ids of our rows; its value is the bridge's name, so that two bridges on a host stay apart."""
TYPE: Final = "linux-noop"
Texts: TypeAlias = dict[str, str]


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A row of the table Queue."""

    other_config: Texts
    external_ids: Texts


@dataclass(frozen=True, slots=True)
class QosRow:
    """A row of the table QoS; `queues` maps ids to the names (UUIDs) of Queue rows."""

    type: str
    external_ids: Texts
    queues: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BridgeRows:
    """What the database has: the bridge's ports with the name of their QoS row (empty: none), all such rows."""

    exists: bool = False
    datapath_type: str = ""
    ports: dict[str, str] = field(default_factory=dict)
    qos: dict[str, QosRow] = field(default_factory=dict)
    queues: dict[str, QueueRow] = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()
    """Ports of other bridges: none of our business."""


@dataclass(frozen=True, slots=True)
class NewQos:
    """Give a port a QoS row of ours with these queues."""

    port: str
    queues: dict[int, QueueRow]


@dataclass(frozen=True, slots=True)
class AddQueue:
    """Add a queue to a QoS row."""

    qos: str
    queue: int
    row: QueueRow


@dataclass(frozen=True, slots=True)
class SetQueue:
    """Change a Queue row."""

    name: str
    row: QueueRow


@dataclass(frozen=True, slots=True)
class RemoveQueue:
    """Take a queue out of a QoS row; its row is deleted by another change."""

    qos: str
    queue: int


@dataclass(frozen=True, slots=True)
class Detach:
    """Take the QoS row, which is ours, off a port."""

    port: str


@dataclass(frozen=True, slots=True)
class DeleteQos:
    """Delete a QoS row of ours."""

    name: str


@dataclass(frozen=True, slots=True)
class DeleteQueue:
    """Delete a Queue row of ours."""

    name: str


Change: TypeAlias = NewQos | AddQueue | SetQueue | RemoveQueue | Detach | DeleteQos | DeleteQueue


def queue_row(queue: Queue, bridge: str) -> QueueRow:
    """Return the row that says what a queue hired."""
    limits = {"min-rate": str(queue.hired)} | ({"max-rate": str(queue.ceiling)} if queue.ceiling else {})
    names = {"owner": queue.owner} | ({"class": queue.name} if queue.name else {})
    return QueueRow(limits, {MARK: bridge, **names})


def is_ours(external_ids: Mapping[str, str], bridge: str) -> bool:
    """Return whether a row belongs to this bridge's qos-controller."""
    return external_ids.get(MARK) == bridge


def has_row(found: BridgeRows, port: str, bridge: str) -> bool:
    """Return whether a port's QoS row is ours."""
    qos = found.qos.get(found.ports.get(port, ""))
    return qos is not None and is_ours(qos.external_ids, bridge)


def foreign_type(found: BridgeRows, port: str, bridge: str) -> str:
    """Return the type of a QoS row that somebody else gave to a port, empty if there is none."""
    name = found.ports.get(port, "")
    if not name or has_row(found, port, bridge):
        return ""
    return found.qos[name].type if name in found.qos else "unknown"


def plan_rows(wanted: Mapping[str, PortQueues], found: BridgeRows, bridge: str) -> list[Change]:
    """Return what makes the rows as wanted, in any order of one transaction. Nothing if they are.

    Ports that are not there, or have a QoS row of somebody else, get nothing.
    """
    if not found.exists:
        return []
    changes: list[Change] = []
    needed_qos: set[str] = set()
    needed_queues: set[str] = set()
    for port, name in found.ports.items():
        fact = wanted.get(port)
        rows = {queue.id: queue_row(queue, bridge) for queue in fact.queues} if fact else {}
        if not name or not has_row(found, port, bridge):
            changes += [NewQos(port, rows)] if fact is not None and not name else []
        elif fact is None:
            changes.append(Detach(port))
        elif name in needed_qos or found.qos[name].type != TYPE:
            changes.append(NewQos(port, rows))
        else:
            needed_qos.add(name)
            changes += _queues(name, rows, found, bridge, needed_queues)
    changes += [
        DeleteQos(name)
        for name, qos in found.qos.items()
        if is_ours(qos.external_ids, bridge) and name not in needed_qos
    ]
    changes += [
        DeleteQueue(name)
        for name, queue in found.queues.items()
        if is_ours(queue.external_ids, bridge) and name not in needed_queues
    ]
    return changes


def apply(changes: list[Change], found: BridgeRows, bridge: str) -> BridgeRows:
    """Return what the changes make of the rows, with invented names for new ones: the model that tests use."""
    ports, queues = dict(found.ports), dict(found.queues)
    qos = {name: QosRow(row.type, row.external_ids, dict(row.queues)) for name, row in found.qos.items()}
    for number, change in enumerate(changes):
        match change:
            case NewQos(port, rows):
                names = {queue: f"new-{number}-{queue}" for queue in rows}
                queues.update({names[queue]: row for queue, row in rows.items()})
                ports[port], qos[f"new-{number}"] = f"new-{number}", QosRow(TYPE, {MARK: bridge}, names)
            case AddQueue(name, queue, row):
                queues[f"new-{number}"] = row
                qos[name].queues[queue] = f"new-{number}"
            case SetQueue(name, row):
                queues[name] = row
            case RemoveQueue(name, queue):
                del qos[name].queues[queue]
            case Detach(port):
                ports[port] = ""
            case DeleteQos(name):
                del qos[name]
            case DeleteQueue(name):
                del queues[name]
    return BridgeRows(found.exists, found.datapath_type, ports, qos, queues, found.elsewhere)


def _queues(name: str, rows: Mapping[int, QueueRow], found: BridgeRows, bridge: str, needed: set[str]) -> list[Change]:
    """Return what makes the queues of a QoS row as wanted; rows in use are added to `needed`."""
    changes: list[Change] = []
    present = found.qos[name].queues
    for queue, row in rows.items():
        current = present.get(queue, "")
        old = found.queues.get(current)
        if old is None or not is_ours(old.external_ids, bridge) or current in needed:
            changes.append(AddQueue(name, queue, row))
            continue
        needed.add(current)
        if old != row:
            changes.append(SetQueue(current, row))
    return changes + [RemoveQueue(name, queue) for queue in present if queue not in rows]

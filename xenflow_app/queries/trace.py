"""`xenflow trace`: follows a packet over the installed flows, from node to node, until it ends (pure).

    origin -> walk of the node's flows -> each output: a trunk (on to the other end), a vif, an access port, or a drop

Where a hash decides, every way is followed, each with the share of buckets that leads there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenflow.answers import Outcome, Trace, Visit
from xenflow.model import MachineKind, Port, PortKind, address_text
from xenflow_app.frame import Frame
from xenflow_app.openflow import fields
from xenflow_app.pipeline import Table
from xenflow_app.queries import reasons
from xenflow_app.queries.names import Names
from xenflow_app.queries.origin import NotSentError, Starter
from xenflow_app.queries.reasons import Kind
from xenflow_app.topology import End
from xenflow_app.walk import Sent, Tables, Walk, explore

if TYPE_CHECKING:
    from xenflow_app.controller import Controller

MOST_VISITS = 64
MOST_DEPTH = 32
"""Nodes in a row; more than that is a loop."""
_ARRIVES = {Kind.DELIVERED, Kind.SLOW, Kind.LEFT, Kind.REPLIED}


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A frame that comes in at a node. `condition` collects what had to happen until here."""

    node: str
    port: int
    frame: Frame
    parent: int = -1
    depth: int = 0
    condition: str = ""


def trace(controller: Controller, arguments: Mapping[str, str]) -> Trace:
    """Return where the packet goes, and why. Raises QueryError."""
    starter = Starter(controller, arguments)
    try:
        origin = starter.origin()
    except NotSentError as error:
        outcome = Outcome(-1, Kind.DROPPED, arguments.get("from", ""), f"not sent: {error}")
        packet = f"{arguments.get('src') or arguments.get('from', '')} > {arguments.get('to', '')}"
        return Trace(packet, starter.notes, [], [outcome], forwarded=False)
    tracer = _Tracer(controller)
    tracer.run(_Arrival(origin.node.name, origin.port.number, origin.frame))
    forwarded = any(item.kind in _ARRIVES for item in tracer.outcomes) or (
        origin.frame.is_group and any(item.kind == Kind.COPIED for item in tracer.outcomes)
    )
    return Trace(str(origin.frame), origin.notes, tracer.visits, tracer.outcomes, forwarded)


class _Tracer:
    """Follows one packet; `visits` and `outcomes` grow."""

    def __init__(self, controller: Controller) -> None:
        self.visits: list[Visit] = []
        self.outcomes: list[Outcome] = []
        self._controller = controller
        self._tables: dict[str, Tables] = {}
        self._names: dict[str, Names] = {}
        self._edges = {end: edge for edge in controller.fabric.links for end in (edge.a, edge.b)}

    def run(self, first: _Arrival) -> None:
        """Follow the packet and all its copies."""
        waiting = deque([first])
        while waiting and len(self.visits) < MOST_VISITS:
            arrival = waiting.popleft()
            names, tables = self._at(arrival.node)
            for walk in explore(tables, arrival.frame, arrival.port):
                waiting.extend(self._visit(names, arrival, walk))

    def _at(self, node: str) -> tuple[Names, Tables]:
        if node not in self._tables:
            found = self._controller.nodes[node]
            self._tables[node] = Tables(found.flows.actual)
            self._names[node] = Names(self._controller, found)
        return self._names[node], self._tables[node]

    def _visit(self, names: Names, arrival: _Arrival, walk: Walk) -> list[_Arrival]:
        """Note one way through a node; return where it goes on."""
        condition = arrival.condition
        share, total = walk.share
        if total > share:
            chosen = f"{share} of {total} hash buckets on {arrival.node}"
            condition = f"{condition}, {chosen}" if condition else chosen
        visit = Visit(
            number=len(self.visits),
            parent=arrival.parent,
            depth=arrival.depth,
            node=arrival.node,
            port=names.port_words(arrival.port),
            packet=str(arrival.frame),
            condition=condition,
            steps=reasons.steps(names, walk),
        )
        self.visits.append(visit)
        if not walk.outputs:
            kind = Kind.CONTROLLER if walk.reported else Kind.DROPPED
            words = "a first packet: the controller decides" if walk.reported else reasons.dropped(names, walk)
            self.outcomes.append(Outcome(visit.number, kind, arrival.node, words, condition))
        found = [self._output(names, visit, arrival.depth, walk, sent) for sent in walk.outputs]
        return [item for item in found if item is not None]

    def _output(self, names: Names, visit: Visit, depth: int, walk: Walk, sent: Sent) -> _Arrival | None:
        """Note how an output ends, or return where it goes on."""
        port = names.port(sent.port)
        where = f"{visit.node}:{names.port_name(sent.port)}"
        queue = f", queue {sent.queue}" if sent.queue is not None else ""
        if walk.hits[sent.hit].table == Table.RETURN:
            kind, words = Kind.REPLIED, reasons.replied(names, walk)
        elif port is None:
            kind, words = Kind.UNKNOWN, f"out of port {sent.port}, of which nothing is known"
        elif not names.node.is_up(port):
            kind, words = Kind.DROPPED, f"{names.port_words(sent.port)} is down"
        elif port.kind is PortKind.TRUNK:
            edge = self._edges.get(End(visit.node, sent.port))
            if edge is not None and depth < MOST_DEPTH:
                far = edge.beyond(visit.node)
                return _Arrival(far.node, far.port, sent.frame, visit.number, depth + 1, visit.condition)
            kind, words = Kind.UNKNOWN, "its other end is not known" if edge is None else "a loop: no end in sight"
        elif port.kind is PortKind.ACCESS:
            tag = "without a tag" if sent.frame.vid is None else f"with tag {sent.frame.vid}"
            kind, words = Kind.LEFT, f"leaves by the access port {port.name} {tag}"
        else:
            kind, words = self._vif(names, port, walk, sent)
        self.outcomes.append(Outcome(visit.number, kind, where, words + queue, visit.condition))
        return None

    def _vif(self, names: Names, port: Port, walk: Walk, sent: Sent) -> tuple[Kind, str]:
        """Return kind and words of what a VM gets."""
        machine, interface = names.node.machine(port.machine), names.interface(port)
        if machine is None or interface is None:
            return Kind.UNKNOWN, f"out of {port.name}, behind which nobody is known"
        if walk.hits[sent.hit].table == Table.MACHINE:
            kind, why = reasons.to_machine(names, walk, sent.hit)
            if kind is Kind.DELIVERED:
                return kind, f"delivered to {machine.name} itself: {why}"
            path = f"handed to the VM of {machine.name} on {interface.network}, because {why}"
            return kind, f"slow path: {path}" if kind is Kind.SLOW else path
        frame = sent.frame
        if frame.is_group:
            return Kind.COPIED, f"a copy for {machine.name} on {interface.network}"
        if frame.packed(fields.ETH_DST) != interface.mac:
            return Kind.COPIED, f"a copy for {machine.name}, which is not the one meant (flooded)"
        target = frame.destination
        if machine.kind is MachineKind.HOST and frame.is_ip and target not in interface.own:
            return (
                Kind.DELIVERED,
                f"delivered to {machine.name}, which does not have {address_text(target)} as far as is known",
            )
        return Kind.DELIVERED, f"delivered to {machine.name} on {interface.network}"

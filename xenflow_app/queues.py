"""The queues of every port, kept as the network is, and told to the servers (sans-IO).

Place in the flow: owners, ways, admission -> *queues per port* -> flows of class and queue; PortQueues -> server.

Nothing is planned for a port by which nobody leaves who hired, or whose capacity nobody knows. Routes and neighbors
change nothing here; machines, networks, links and homes do, and then all of it is worked out anew.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Set
from functools import partial

from xenflow.bandwidth import PortQueues, Queue
from xenflow.model import Port, PortKind
from xenflow.replica import Outbox
from xenflow.wire import QUEUES_SCOPE, Message
from xenflow_app import classes, queueing
from xenflow_app.admission import Admission
from xenflow_app.fabric import Fabric
from xenflow_app.flowtable import kind_of, owner_of
from xenflow_app.hires import Hire, Place, Ways, all_hires, capacity
from xenflow_app.homes import Homes
from xenflow_app.networks import Networks
from xenflow_app.node import Node
from xenflow_app.pipeline import Kind
from xenflow_app.queueing import Room

log = logging.getLogger(__name__)

Shaped = Mapping[Place, Room]
"""The ports that have queues."""
_GROUP = "queues"


class Queues:
    """See the module. `send` takes a node and a message for its server; `refuse` a node, a scope and the reason."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        fabric: Fabric,
        homes: Homes,
        networks: Networks,
        send: Callable[[Node, Message], bool],
        refuse: Callable[[Node, str, str], None],
    ) -> None:
        self.admission = Admission()
        self._nodes = nodes
        self._fabric = fabric
        self._homes = homes
        self._networks = networks
        self._send = send
        self._refuse = refuse
        self._slots = queueing.Slots()
        self._without: list[str] = []
        self._every: dict[str, Set[Place]] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._acked: dict[str, int] = {}
        self._groups: dict[str, set[str]] = {}
        self._facts_changed = True
        self._seen = (-1, -1)
        self._began = False

    # -- events ------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Machines, networks or ports have changed."""
        self._facts_changed = True

    def server_back(self, node: Node) -> None:
        """The node's server is connected: it is told everything again, once that is known."""
        self._acked.pop(node.name, None)
        if self._began:
            self._outbox(node.name).restart()

    def acknowledged(self, node: Node, seq: int) -> None:
        """The node's links are shaped as they were told up to `seq`."""
        self._acked[node.name] = seq

    def applied(self, name: str) -> bool:
        """Tell whether a node's links are shaped as planned; true as well if it has none to shape."""
        outbox = self._outboxes.get(name)
        return outbox is None or not outbox.facts or (not outbox.pending and self._acked.get(name) == outbox.last_seq)

    def ports(self, name: str) -> list[str]:
        """Return the ports of a node that have queues."""
        outbox = self._outboxes.get(name)
        return [] if outbox is None else sorted(key.decode() for key in outbox.facts.of(PortQueues.KIND))

    def why_not(self, name: str, target: str) -> str:
        """Return why a router's rate does not fit the ways from `target`; empty if it does."""
        hires = {hire.key: hire for hire in all_hires(self._nodes, self._homes, self._networks)}
        hire = hires.get(f"router {name}")
        if hire is None or hire.key not in self.admission.admitted:
            return ""
        ways = Ways(self._nodes, self._fabric)
        others = self.admission.without(hire, ways.of(hire, self._homes.places(name))[0])
        places, every = ways.of(hire, frozenset({target}))
        crowded = self._every | {hire.key: every | self._every.get(hire.key, frozenset())}
        return others.no_room(hire, places, self._rooms(crowded))

    def advance(self) -> None:
        """Plan anew if anything has changed that queues depend on, and tell the servers what is new."""
        seen = (self._fabric.revision, self._homes.revision)
        if self._fabric.settled and (self._facts_changed or seen != self._seen):
            self._facts_changed, self._seen = False, seen
            self._plan()
        for name, outbox in self._outboxes.items():
            node = self._nodes[name]
            if node.peer is not None:
                for message in outbox.take():
                    self._send(node, message)

    # -- plan --------------------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        owners = all_hires(self._nodes, self._homes, self._networks)
        if not self._began:
            self._begin()
        if not any(hire.rate for hire in owners) and not self.admission.admitted and not self.admission.refused:
            return  # nobody has hired anything, nor had
        ways = Ways(self._nodes, self._fabric)
        found = {hire.key: ways.of(hire, self._starts(hire)) for hire in owners}
        ways_of = {key: known for key, (known, _) in found.items()}
        every = self._every = {key: places for key, (_, places) in found.items()}
        rooms = self._rooms(every)
        first: set[int] = set()
        if not self.admission.admitted:
            first = self._queued_before()
            self._restore_slots(owners)
        for key, reason in self.admission.update(owners, ways_of, rooms, first).items():
            self._tell_refused(key, reason)
        shaped = {place: rooms[place] for place in self.admission.hired if rooms[place].capacity}
        present = self._with_slots([hire for hire in owners if not shaped.keys().isdisjoint(every[hire.key])])
        self._plan_ports(present, ways_of, every, shaped)
        self._plan_flows(present, every, shaped.keys())

    def _with_slots(self, owners: list[Hire]) -> list[Hire]:
        """Return those who have queues: all, unless there are too many. Then who is admitted goes first."""
        keys = sorted(hire.key for hire in owners)
        keys.sort(key=lambda key: (key not in self.admission.admitted, key not in self._slots))
        without = self._slots.assign(keys)
        if without != self._without:
            said = f"{len(without)}: {', '.join(without[:3])}{', …' if len(without) > 3 else ''}" if without else "none"
            (log.error if without else log.info)("owners without queues, not even of control: %s", said)
        self._without = without
        return [hire for hire in owners if hire.key in self._slots]

    def _begin(self) -> None:
        """What there is is known for the first time: from now on the servers are told."""
        self._began = True
        for name, node in self._nodes.items():
            self._outbox(name)
            if node.peer is not None:
                self._outbox(name).restart()

    def _outbox(self, name: str) -> Outbox:
        return self._outboxes.setdefault(name, Outbox(QUEUES_SCOPE))

    def _starts(self, hire: Hire) -> frozenset[str]:
        return self._homes.places(hire.name) if hire.is_router else frozenset()

    def _rooms(self, every: Mapping[str, Set[Place]]) -> dict[Place, Room]:
        """Return what the ports have room for by which these owners' frames leave."""
        owners = Counter(place for places in every.values() for place in places)
        return {place: Room(capacity(self._nodes[place[0]], place[1]), count) for place, count in owners.items()}

    def _queued_before(self) -> set[int]:
        """Return who has queues in the switches: a controller that starts lets those in first."""
        return {
            owner_of(value)
            for node in self._nodes.values()
            for key, value in node.flows.actual.items()
            if classes.is_default(key) and kind_of(value) == Kind.QUEUE
        }

    def _restore_slots(self, owners: list[Hire]) -> None:
        """Let owners keep the queues that they have in the switches, which may be another's by their digests."""
        for hire in owners:
            for node in self._nodes.values():
                for vid, mac in hire.frames:
                    self._slots.restore(hire.key, classes.slot_of(node.flows.actual, vid, mac, hire.owner))

    def _tell_refused(self, key: str, reason: str) -> None:
        kind, _, name = key.partition(" ")
        home = self._nodes.get(self._homes.home(name) or "") if kind == "router" else None
        for node in self._nodes.values() if kind == "network" else filter(None, [home]):
            self._refuse(node, name if kind == "router" else "", f"{key}: its rate is not guaranteed: {reason}")

    def _plan_ports(
        self, owners: list[Hire], ways: Mapping[str, Set[Place]], every: Mapping[str, Set[Place]], shaped: Shaped
    ) -> None:
        plans: dict[str, list[PortQueues]] = {name: [] for name in self._nodes}
        for place in sorted(shaped):
            node = self._nodes[place[0]]
            fact = node.port(place[1])
            if fact is None:
                continue
            wires = partial(self._wires, fact, node)
            queues: list[Queue] = []
            for hire in sorted(owners, key=lambda item: not item.is_router):
                if place in every[hire.key]:
                    sure = hire.key in self.admission.admitted and place in ways[hire.key]
                    queues += queueing.queues(hire, self._slots.of(hire.key), wires, shaped[place], admitted=sure)
            plans[node.name].append(PortQueues(fact.name, shaped[place].capacity, tuple(queues)))
        for name, wanted in plans.items():
            self._outbox(name).replace(wanted)

    def _wires(self, port: Port, node: Node, vid: int) -> list[int]:
        """Return the VLAN ids under which a network's frames leave a port: 0 untagged, none if they do not."""
        if port.kind is PortKind.TRUNK:
            return [vid]
        agreed = self._networks.agreed(node.name)
        if port.kind is PortKind.ACCESS:
            return [item.vlan for item in port.attachments if agreed.get(item.network) == vid]
        machine = node.machine(port.machine)
        interfaces = machine.interfaces if machine is not None else ()
        return [0 for item in interfaces if item.number == port.interface and agreed.get(item.network) == vid]

    def _plan_flows(self, owners: list[Hire], every: Mapping[str, Set[Place]], shaped: Set[Place]) -> None:
        for node in self._nodes.values():
            here = {hire.key: hire for hire in owners if any(at == node.name for at, _ in every[hire.key] & shaped)}
            for key in self._groups.get(node.name, set()) - here.keys():
                node.flows.want_group((_GROUP, key), {})
            self._groups[node.name] = set(here)
            for key, hire in here.items():
                wanted = queueing.flows(hire, self._slots.of(key), admitted=key in self.admission.admitted)
                node.flows.want_group((_GROUP, key), wanted)

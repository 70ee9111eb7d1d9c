"""What servers report becomes nodes, networks, routers and ports (sans-IO).

Place in the flow: Begin, Update, End of a scope -> Inbox -> *what changed, planned for itself* -> Node, Router, Fabric.

Nothing of a node is planned before its first snapshot is complete: half a list of ports must not replace what its
switch does. After that every message is planned as it comes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec.structs import replace

from xenflow.model import Bridge, Key, Machine, MachineKind, Network
from xenflow.replica import Change, Inbox
from xenflow.wire import NODE_SCOPE, Begin, End, Update
from xenflow_app import answering, classes, pipeline
from xenflow_app.answering import Answering, answers_of
from xenflow_app.fabric import Fabric
from xenflow_app.flowtable import FABRIC, Owner
from xenflow_app.homes import Homes
from xenflow_app.ids import Ids
from xenflow_app.inherited import Inherited
from xenflow_app.keeping import Keeping
from xenflow_app.networks import Networks
from xenflow_app.node import Node
from xenflow_app.router import Place, Router
from xenflow_app.settings import Reactive

log = logging.getLogger(__name__)

Refuse = Callable[[Node, str, str], None]
"""Takes a node, a scope and the reason why something of it is refused."""


class Watcher(Protocol):
    """Who follows where routers run."""

    def arrived(self, name: str, node: Node) -> None:
        """The router's VM is on the node, which is not its home."""

    def left(self, name: str, node: Node, *, moved: bool) -> bool:
        """The router's VM is not on the node any more; return whether its flows stay for now."""

    def reported(self, name: str, node: Node) -> None:
        """The router's client has reported on the node all that it knows."""


class Facts:
    """See the module. With `reactive`, routers get exact flows at first packets."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        fabric: Fabric,
        homes: Homes,
        answers: Answering,
        reactive: Reactive | None,
        refuse: Refuse,
        hold_s: float,
    ) -> None:
        self.networks = Networks()
        self.watcher: Watcher | None = None
        self._homes = homes
        self._nodes = nodes
        self._fabric = fabric
        self._answers = answers
        self._reactive = reactive
        self._refuse = refuse
        self._ids = Ids()
        self._keeping = Keeping()
        self._inherited = Inherited(nodes, fabric, self._ids, hold_s)

    # -- a node ------------------------------------------------------------------------------------------------------

    def of_node(self, node: Node, message: Begin | Update | End) -> set[int]:
        """Take a message about a node itself; return the kinds of facts that changed."""
        change = node.inbox.receive(message)
        changed: list[Key] = [(fact.KIND, fact.key) for fact in change.upserts] + change.withdrawals
        kinds = {kind for kind, _ in changed}
        if not node.known:
            if not change.in_sync:
                return kinds
            node.known = True
            log.info("node in sync node=%s ports=%d machines=%d", node.name, len(node.ports), len(node.machines))
            static = pipeline.static(reactive=self._reactive is not None) | answering.static() | classes.static()
            node.flows.want_group((FABRIC, "static"), static)
            changed = list(node.inbox.facts)
        self._plan_changed(node, changed)
        if isinstance(message, End):
            for name in sorted(node.leaving):
                self._left(node, name, moved=True)  # nobody saw it go: it may come elsewhere
        if change.in_sync:
            self.release(node)
        return kinds

    def _plan_changed(self, node: Node, changed: list[Key]) -> None:
        if any(kind == Network.KIND for kind, _ in changed):
            for text in self.networks.declare(node.name, node.networks):
                self._refuse(node, NODE_SCOPE, text)
        for kind, key in changed:
            if kind == Machine.KIND:
                self._machine(node, key.decode())
        if any(kind == Bridge.KIND for kind, _ in changed):
            self._know(node)
        if self.networks.take_changed():
            self._plan_all_ports()
        else:
            self._plan_ports(node, node.changed_ports(changed))

    def take_over(self, now: float) -> None:
        """All nodes are known: routers come from where the switches forward for them (inherited.py)."""
        self._inherited.begin(now)
        for node in self._nodes.values():
            for router in list(node.routers.values()):
                if self._homes.home(router.name) == node.name:
                    self._inherit(node, router)
        for node in self._nodes.values():
            for router in list(node.routers.values()):
                self._watch(node, router.name)
        self._inherited.keep()

    def _inherit(self, node: Node, router: Router) -> None:
        """The router's VM is on the node. If the switches forward for it elsewhere, that is where it comes from."""
        name, source = router.name, self._inherited.source(router.number, node.name)
        if source is not None:
            self._homes.comes_from(name, source.name)
            if name in node.router_inboxes:
                self.prepare(source, node, name)
            elif name not in source.routers:
                self._create(source, router.machine, planned=False)

    def tick(self, now: float) -> None:
        """Time has passed; what is held for routers that have come nowhere goes."""
        self._inherited.tick(now)

    def release(self, node: Node) -> None:
        """Let go what is installed for owners whose facts are complete."""
        for owner in node.flows.held_owners():
            if self.in_sync(node, owner):
                node.flows.release(owner)

    def in_sync(self, node: Node, owner: Owner) -> bool:
        """Tell whether all that the owner wants on the node is known, so that the rest may be deleted.

        What a router left behind on a node stays until the node where it runs now routes for it. What is installed for
        a router that is not known stays until all nodes are, and for a while after that.
        """
        if self._inherited.holds(owner) or not node.in_sync(owner, settled=self._fabric.settled):
            return False
        routers = [router for other in self._nodes.values() for router in other.routers.values()]
        elsewhere = [router for router in routers if owner in (router.number, answers_of(router.number))]
        if not elsewhere and not self._fabric.settled:
            return False
        return all(router.planned for router in elsewhere) and not (elsewhere and self._fabric.moving)

    def _plan_ports(self, node: Node, names: set[str]) -> None:
        for name in sorted(names):
            node.plan_port(name, self.networks.agreed(node.name), self.networks.vids(), self._fabric)
        ports = {port.name: port.machine for port in node.ports}
        concerned = node.routers.keys() if names - ports.keys() else {ports[name] for name in names}
        for machine in sorted(concerned & node.routers.keys()):
            self._homes.plan(machine)

    def _plan_all_ports(self) -> None:
        for node in self._nodes.values():
            if node.known:
                self._know(node)
                for machine in node.machines:
                    self._machine(node, machine.name)
                self._plan_ports(node, {port.name for port in node.ports})

    def _know(self, node: Node) -> None:
        bridge = node.bridge
        datapath_type = "" if bridge is None else bridge.datapath_type
        self._answers.know(node.name, self.networks.agreed(node.name).values(), datapath_type)

    # -- a router ----------------------------------------------------------------------------------------------------

    def of_router(self, node: Node, message: Begin | Update | End) -> None:
        """Take a message about a router that runs on the node."""
        name = message.scope
        machine = node.machine(name)
        if node.known and (machine is None or machine.kind is not MachineKind.ROUTER):
            self._refuse(node, name, f"no router {name!r} runs on node {node.name}")
            return
        inbox = node.router_inboxes.setdefault(name, Inbox(name))
        change = inbox.receive(message)
        router = node.routers.get(name)
        if router is not None:
            self._plan_router(node, router, self._keeping.keep(name, message, change))
        if isinstance(message, End) and self.watcher is not None:
            self.watcher.reported(name, node)
        if not isinstance(message, Begin):
            node.acks[name] = message.seq

    def _plan_router(self, node: Node, router: Router, change: Change) -> None:
        was_planned = router.planned
        if router.apply(change):
            self._plan_ports(node, {port.name for port in node.ports if port.machine == router.name})
            self._homes.plan(router.name)
        self._mirror(node, router.name, change)
        if router.planned and not was_planned:
            if self.in_sync(node, router.number):
                node.flows.release(router.number)
            log.info("router in sync router=%s node=%s routes=%d", router.name, node.name, len(router.rib))

    def _mirror(self, node: Node, name: str, change: Change) -> None:
        """Let a node that the router may come to know what its tables are."""
        for other in self._nodes.values():
            copy = other.routers.get(name)
            if other is not node and copy is not None and other.machine(name) is None and node.machine(name):
                inbox = other.router_inboxes.setdefault(name, Inbox(name))
                inbox.seed(change.upserts)
                for kind, key in change.withdrawals:
                    inbox.facts.pop(kind, key)
                copy.apply(Change(change.upserts, change.withdrawals, change.in_sync))

    def prepare(self, node: Node, home: Node, name: str) -> None:
        """Give a node the router's tables as they are at its home, before or while its VM comes."""
        source, known = home.routers.get(name), home.router_inboxes.get(name)
        if source is None or known is None:
            return  # its client has never reported there: nothing is known but what it will say here
        if name not in node.router_inboxes:
            node.router_inboxes[name] = Inbox(name)
            node.router_inboxes[name].seed(known.facts.values())
        copy = node.routers.get(name)
        if copy is None or not copy.planned:
            self._create(node, source.machine, planned=source.planned)
            self._plan_ports(node, {port.name for port in node.ports if port.machine == name})

    def keep_neighbors(self, name: str) -> None:
        """The router has come to another node: the neighbors that it gives up stay until `let_neighbors_go`."""
        self._keeping.begin(name)

    def let_neighbors_go(self, name: str) -> None:
        """Its move has ended: what its kernel has given up, and not found again, is not planned any more."""
        gone = self._keeping.end(name)
        for node in self._nodes.values() if gone else ():
            router, inbox = node.routers.get(name), node.router_inboxes.get(name)
            if router is not None and inbox is not None:
                for kind, key in gone:
                    inbox.facts.pop(kind, key)
                router.apply(Change(withdrawals=gone))

    def close(self, node: Node, name: str, *, moved: bool) -> None:
        """The router does not run on the node any more, or its client starts from nothing."""
        if moved and node.machine(name) is not None:
            node.moved.add(name)  # it goes: its withdrawal follows
            return
        if node.machine(name) is None:
            self._left(node, name, moved=moved or name in node.moved)
            return
        node.router_inboxes.pop(name, None)
        router = node.routers.get(name)
        if router is not None:
            self.remove(node, name)
            self._machine(node, name)
            self._plan_ports(node, {port.name for port in node.ports if port.machine == name})

    def _left(self, node: Node, name: str, *, moved: bool) -> None:
        node.leaving.discard(name)
        node.moved.discard(name)
        if name in node.routers and not (self.watcher and self.watcher.left(name, node, moved=moved)):
            self.remove(node, name)

    def _machine(self, node: Node, name: str) -> None:
        """A machine's definition is new, changed or gone."""
        machine = node.machine(name)
        router = node.routers.get(name)
        if machine is None or machine.kind is not MachineKind.ROUTER:
            if router is not None and name in node.moved:
                self._left(node, name, moved=True)
            elif router is not None:
                node.leaving.add(name)
            return
        node.leaving.discard(name)
        if router is not None and router.machine != machine:
            router.machine = replace(router.machine, resources=machine.resources)  # they decide nothing here
        if router is None or router.machine != machine or router.vids != self._vids(node, machine):
            was_planned = router is not None and router.planned
            if router is not None:
                router.unplan()
            inbox = node.router_inboxes.get(name)
            self._create(node, machine, planned=was_planned or (inbox is not None and inbox.in_sync))
        if self._homes.home(name) is None:
            self._inherit(node, node.routers[name])
        self._homes.settle_in(name, node.name)
        if self._fabric.settled:  # else what two nodes say is compared with what the switches do
            self._watch(node, name)

    def _watch(self, node: Node, name: str) -> None:
        if node.machine(name) is not None and self._homes.home(name) != node.name and self.watcher is not None:
            self.watcher.arrived(name, node)

    def _vids(self, node: Node, machine: Machine) -> dict[int, int]:
        vids = self.networks.agreed(node.name)
        return {item.number: vids[item.network] for item in machine.interfaces if item.network in vids}

    def _create(self, node: Node, machine: Machine, *, planned: bool) -> None:
        place = Place(node.flows, self._vids(node, machine))
        router = Router(self._ids.of(machine.name.encode()), machine, place, self._reactive)
        node.routers[machine.name] = router
        inbox = node.router_inboxes.get(machine.name)
        if inbox is not None:
            router.load(inbox.facts.values())
        if planned:
            router.plan()

    def remove(self, node: Node, name: str) -> None:
        """Want nothing of the router on the node any more."""
        router = node.routers[name]
        self._homes.leave(name, node.name)
        router.unplan()
        del node.routers[name]
        node.router_inboxes.pop(name, None)
        node.flows.release(router.number)
        log.info("router gone router=%s node=%s", name, node.name)

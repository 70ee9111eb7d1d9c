"""What servers report becomes nodes, networks, routers and ports (sans-IO).

Place in the flow: Begin, Update, End of a scope -> Inbox -> *what changed, planned for itself* -> Node, Router, Fabric.

Nothing of a node is planned before its first snapshot is complete: half a list of ports must not replace what its
switch does. After that every message is planned as it comes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from xenflow.model import Key, Machine, MachineKind, Network
from xenflow.replica import Change, Inbox
from xenflow.wire import NODE_SCOPE, Begin, End, Update
from xenflow_app import pipeline
from xenflow_app.fabric import Fabric
from xenflow_app.flowtable import FABRIC
from xenflow_app.ids import Ids
from xenflow_app.networks import Networks
from xenflow_app.node import Node
from xenflow_app.router import Place, Router
from xenflow_app.settings import Reactive

log = logging.getLogger(__name__)

Refuse = Callable[[Node, str, str], None]
"""Takes a node, a scope and the reason why something of it is refused."""


class Facts:
    """See the module. With `reactive`, routers get exact flows at first packets."""

    def __init__(self, nodes: Mapping[str, Node], fabric: Fabric, reactive: Reactive | None, refuse: Refuse) -> None:
        self.networks = Networks()
        self._nodes = nodes
        self._fabric = fabric
        self._reactive = reactive
        self._refuse = refuse
        self._ids = Ids()

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
            node.flows.want_group((FABRIC, "static"), pipeline.static(reactive=self._reactive is not None))
            changed = list(node.inbox.facts)
        self._plan_changed(node, changed)
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
        if self.networks.take_changed():
            self._plan_all_ports()
        else:
            self._plan_ports(node, node.changed_ports(changed))

    def release(self, node: Node) -> None:
        """Let go what is installed for owners whose facts are complete."""
        for owner in node.flows.held_owners():
            if node.in_sync(owner, settled=self._fabric.settled):
                node.flows.release(owner)

    def _plan_ports(self, node: Node, names: set[str]) -> None:
        for name in sorted(names):
            node.plan_port(name, self.networks.agreed(node.name), self.networks.vids(), self._fabric)

    def _plan_all_ports(self) -> None:
        for node in self._nodes.values():
            if node.known:
                for machine in node.machines:
                    self._machine(node, machine.name)
                self._plan_ports(node, {port.name for port in node.ports})

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
            self._plan_router(node, router, change)
        if not isinstance(message, Begin):
            node.acks[name] = message.seq

    def _plan_router(self, node: Node, router: Router, change: Change) -> None:
        was_planned = router.planned
        if router.apply(change):
            self._plan_ports(node, {port.name for port in node.ports if port.machine == router.name})
        if router.planned and not was_planned:
            node.flows.release(router.number)
            log.info("router in sync router=%s node=%s routes=%d", router.name, node.name, len(router.rib))

    def close(self, node: Node, name: str) -> None:
        """The router does not run on the node any more, or its client starts from nothing."""
        node.router_inboxes.pop(name, None)
        router = node.routers.get(name)
        if router is not None:
            self._remove(node, router)
            self._machine(node, name)
            self._plan_ports(node, {port.name for port in node.ports if port.machine == name})

    def _machine(self, node: Node, name: str) -> None:
        """A machine's definition is new, changed or gone."""
        machine = node.machine(name)
        router = node.routers.get(name)
        if machine is None or machine.kind is not MachineKind.ROUTER:
            if router is not None:
                self._remove(node, router)
            return
        vids = self.networks.agreed(node.name)
        places = {item.number: vids[item.network] for item in machine.interfaces if item.network in vids}
        if router is not None and router.machine == machine and router.vids == places:
            return
        was_planned = router is not None and router.planned
        if router is not None:
            router.unplan()
        router = Router(self._ids.of(name.encode()), machine, Place(node.flows, places), self._reactive)
        node.routers[name] = router
        inbox = node.router_inboxes.get(name)
        if inbox is not None:
            router.load(inbox.facts.values())
            if inbox.in_sync or was_planned:
                router.plan()

    def _remove(self, node: Node, router: Router) -> None:
        router.unplan()
        del node.routers[router.name]
        node.router_inboxes.pop(router.name, None)
        node.flows.release(router.number)
        log.info("router gone router=%s node=%s", router.name, node.name)

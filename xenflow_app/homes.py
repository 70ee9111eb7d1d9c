"""Where the routers are: which node routes for a router's addresses, and how its VM is reached.

Place in the flow: machines, ports, migrations -> *home, and the nodes that route* -> link and local flows, Fabric.

A router has one *home*, where its addresses are. While it moves two nodes route for it: whichever a packet comes to
first, with the same tables. Its VM is where its vifs are; a node that routes for it without having the VM hands what
only the VM can answer to the node that has it, by layer 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from xenflow.model import Interface
from xenflow_app import disguise, pipeline, routing
from xenflow_app.answering import Answering, Claim
from xenflow_app.fabric import Fabric
from xenflow_app.node import Node
from xenflow_app.router import Router
from xenflow_app.switching import Location, Member


class Homes:
    """See the module. What it keeps true: a router that runs somewhere has a home, and its home routes."""

    def __init__(self, nodes: Mapping[str, Node], fabric: Fabric, answering: Answering) -> None:
        self._nodes = nodes
        self._fabric = fabric
        self._answering = answering
        self.revision = 0
        """Grows whenever a router's places change."""
        self._home: dict[str, str] = {}
        self._routing: dict[str, set[str]] = {}
        self._arriving: set[str] = set()
        self._expected: dict[str, set[str]] = {}
        self._disguised: set[str] = set()

    @property
    def settled(self) -> bool:
        """Whether it is known what links there are: before, nobody waits for nodes to turn."""
        return self._fabric.settled

    def home(self, name: str) -> str | None:
        """Return the node where the router's addresses are."""
        return self._home.get(name)

    def places(self, name: str) -> frozenset[str]:
        """Return the nodes that route for the router, or are about to."""
        return frozenset(self._routing.get(name, set()) | self._expected.get(name, set()))

    def expect(self, name: str, node: str) -> None:
        """The router is about to come to a node: what it hired is to be there when it does."""
        self._expected.setdefault(name, set()).add(node)
        self.revision += 1

    def settle_in(self, name: str, node: str) -> None:
        """The router appears on a node; that is its home if it has none."""
        if name not in self._home:
            self.revision += 1
            self._home[name] = node
            self._routing[name] = {node}

    def comes_from(self, name: str, node: str) -> None:
        """The switches forward for the router at that node: its home, until another one does the same."""
        self.revision += 1
        self._home[name] = node
        self._routing[name] = {node}

    def is_entered(self, name: str, node: Node) -> bool:
        """Tell whether a node's switch takes what is sent to the router, as far as is known."""
        router = node.routers.get(name)
        return router is not None and any(
            routing.entrance_key(vid, item.mac) in node.flows.actual
            for item in router.machine.interfaces
            if (vid := router.vids.get(item.number)) is not None
        )

    def disguise(self, name: str, *, moving: bool) -> None:
        """While the router moves, its frames have another source address (see `disguise`)."""
        if moving:
            self._disguised.add(name)
        else:
            self._disguised.discard(name)
        self.plan(name)

    def route_also(self, name: str, node: str) -> None:
        """Another node, which has the VM now, routes for it too; it gets the addresses when it `arrive`s there."""
        self.revision += 1
        self._home[name] = node
        self._routing.setdefault(name, set()).add(node)
        self._expected.pop(name, None)
        self._arriving.add(name)
        self.plan(name)

    def is_arriving(self, name: str) -> bool:
        """Tell whether its new home does not route for it yet, as far as is confirmed."""
        return name in self._arriving

    def arrive(self, name: str, *, hold: bool) -> None:
        """The packets of the router's new home follow what it routes: it gets the addresses, and what is for the VM.

        Earlier it would hand to the VM, which may stand still, what it can route a moment later. With `hold` the
        others turn later: as long as the node where they send now still forwards.
        """
        if name in self._arriving:
            self._arriving.discard(name)
            self.plan(name, hold=hold)

    def turn(self, name: str) -> None:
        """Let the other nodes turn to the home."""
        self.arrive(name, hold=True)
        for vid, mac in self.addresses(name):
            self._fabric.ways.release(vid, mac)

    def have_turned(self, name: str) -> bool:
        """Tell whether all nodes send to the home."""
        return all(self._fabric.has_turned(vid, mac) for vid, mac in self.addresses(name))

    def are_followed(self) -> bool:
        """Tell whether all nodes have confirmed the trees and ways that they were given last."""
        return not self._fabric.awaiting

    def leave(self, name: str, node: str, *, back_to: str | None = None) -> None:
        """The node routes for it no more; `back_to` becomes its home if the node was."""
        self.revision += 1
        self._routing.get(name, set()).discard(node)
        self._expected.get(name, set()).discard(node)
        if self._home.get(name) == node:
            self._arriving.discard(name)
            if back_to is None:
                for vid, mac in self.addresses(name):
                    self._fabric.ways.forget(vid, mac)
                del self._home[name]
                self._routing.pop(name, None)
            else:
                self._home[name] = back_to
                self._routing.setdefault(name, set()).add(back_to)
        self.plan(name)

    def addresses(self, name: str) -> list[tuple[int, bytes]]:
        """Return the router's (VLAN id, MAC) pairs, by its definition at its home."""
        router = self._router(self._home.get(name, ""), name)
        if router is None:
            return []
        return [
            (router.vids[item.number], item.mac) for item in router.machine.interfaces if item.number in router.vids
        ]

    def plan(self, name: str, *, hold: bool = False) -> None:
        """Plan how the router is entered and how its VM is reached, on every node that has its tables."""
        number = None
        for node in self._nodes.values():
            router = node.routers.get(name)
            if router is not None:
                number = router.number
                for interface in router.machine.interfaces:
                    self._plan_interface(node, router, interface)
        if number is not None:
            self._answering.claim(number, self._claims(name))
        home = self._nodes.get(self._home.get(name, ""))
        router = None if home is None else home.routers.get(name)
        if home is None or router is None or name in self._arriving:
            return
        for interface in router.machine.interfaces:
            port = home.vif(name, interface.number)
            vid = router.vids.get(interface.number)
            if port is not None and vid is not None:
                self._fabric.ways.locate(vid, interface.mac, Location(home.name, Member(port, None)), hold=hold)

    def _claims(self, name: str) -> list[Claim]:
        """Return the addresses that the switches answer for: what the router says it has, and may have."""
        home = self._home.get(name, "")
        found = [self._router(node, name) for node in (home, *sorted(self._routing.get(name, set()) - {home}))]
        routers = [router for router in found if router is not None]
        routed: dict[int, Router] = {}
        for router in routers:
            for item in router.machine.interfaces:
                if item.number in router.vids and router.routes_at(item.number):
                    routed.setdefault(item.number, router)
        return [
            Claim(router.vids[interface.number], address, interface.mac, router.number)
            for router in routers
            for interface, address in router.own()
            if routed.get(interface.number) is router
        ]

    def _plan_interface(self, node: Node, router: Router, interface: Interface) -> None:
        number, vid = interface.number, router.vids.get(interface.number)
        flows: pipeline.Flows = {}
        if vid is not None:
            port = node.vif(router.name, number)
            if port is not None:
                flows |= routing.to_machine(router.number, number, port)
            elif (trunk := self._toward_machine(node, router.name, number)) is not None:
                flows |= disguise.to_machine_elsewhere(router.number, number, trunk)
            if node.name in self._routing.get(router.name, ()) and router.routes_at(number):
                flows |= routing.to_router(vid, interface.mac, router.number, number)
            if router.name in self._disguised:
                flows |= disguise.disguise(vid, interface.mac, router.number)
        node.flows.want_group((router.number, "link", number), flows)

    def _toward_machine(self, node: Node, name: str, number: int) -> int | None:
        """Return the trunk by which a node reaches the node that has the router's VM, and can tell what is for it."""
        if name in self._arriving:
            return None
        there = next((item.name for item in self._nodes.values() if item is not node and item.vif(name, number)), None)
        way = None if there is None else self._fabric.ways.way(node.name, there)
        return None if way is None else way.at(node.name).port

    def _router(self, node: str, name: str) -> Router | None:
        found = self._nodes.get(node)
        return None if found is None else found.routers.get(name)

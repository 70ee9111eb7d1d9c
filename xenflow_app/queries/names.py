"""Numbers of the pipeline -> the names that an operator knows (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenflow.model import Interface, MachineKind, Port, PortKind, address_text, mac_text
from xenflow_app import pipeline
from xenflow_app.answering import answers_of
from xenflow_app.flowtable import FABRIC, Owner

if TYPE_CHECKING:
    from xenflow_app.controller import Controller
    from xenflow_app.node import Node
    from xenflow_app.router import Router


class QueryError(Exception):
    """A question that cannot be answered; the text says why, and what could be asked instead."""


def list_names(names: object) -> str:
    """Return names for a sentence, `none` if there are none."""
    found = sorted(names) if isinstance(names, list | set | dict) else []
    return ", ".join(found) or "none"


def find_node(controller: Controller, name: str) -> Node:
    """Return the node of that name. Raises QueryError."""
    node = controller.nodes.get(name)
    if node is None:
        raise QueryError(f"no node {name!r} is known; known: {list_names(list(controller.nodes))}")
    return node


def find_router(controller: Controller, name: str) -> tuple[Node, Router]:
    """Return the router of that name, and the node that is its home. Raises QueryError."""
    home = controller.nodes.get(controller.homes.home(name) or "")
    if home is not None and name in home.routers:
        return home, home.routers[name]
    known = [router for node in controller.nodes.values() for router in node.routers]
    raise QueryError(f"no router {name!r} is known; known: {list_names(known)}")


class Names:
    """What things are called at one node."""

    def __init__(self, controller: Controller, node: Node) -> None:
        self.controller = controller
        self.node = node
        self._ports = {port.number: port for port in node.ports}
        self._routers = {
            router.number: router for each in controller.nodes.values() for router in each.routers.values()
        }

    def port(self, number: int) -> Port | None:
        """Return a port of the node by its number."""
        return self._ports.get(number)

    def port_name(self, number: int) -> str:
        """Return a port's name."""
        port = self._ports.get(number)
        return f"port {number}" if port is None else port.name

    def port_words(self, number: int) -> str:
        """Return what a port is and leads to."""
        port = self._ports.get(number)
        if port is None:
            return f"port {number}"
        if port.kind is PortKind.TRUNK:
            return f"trunk {port.name}"
        if port.kind is PortKind.ACCESS:
            return f"access port {port.name}"
        interface = self.interface(port)
        where = f" on {interface.network}" if interface is not None else ""
        return f"{port.machine or 'nobody'}'s vif {port.name}{where}"

    def interface(self, port: Port) -> Interface | None:
        """Return the machine's interface behind a vif."""
        machine = self.node.machine(port.machine)
        if machine is None:
            return None
        return next((item for item in machine.interfaces if item.number == port.interface), None)

    def network(self, vid: int) -> str:
        """Return a network's name."""
        return self.controller.networks.name(vid) or f"VLAN {vid}"

    def router(self, number: int) -> Router | None:
        """Return a router by its number in register 2."""
        return self._routers.get(number)

    def router_name(self, number: int) -> str:
        """Return a router's name."""
        router = self._routers.get(number)
        return f"router {number:#x}" if router is None else router.name

    def owner_name(self, owner: Owner) -> str:
        """Return the name of the router whose flows these are, or whose answers; empty for those of no router."""
        if owner == FABRIC:
            return ""
        return self.router_name(owner if owner in self._routers else answers_of(owner))

    def link(self, router: int, number: int) -> str:
        """Return a router's interface by number: the kernel's name, and the network."""
        found = self._routers.get(router)
        interface = None if found is None else found.interface(number)
        if found is None or interface is None:
            return f"interface {number}"
        link = found.links.get(number)
        return f"{link.name} ({interface.network})" if link is not None else f"its interface on {interface.network}"

    def hop(self, router: int, number: int) -> str:
        """Return a next hop by its id."""
        found = self._routers.get(router)
        where = None if found is None else found.hop(number)
        if where is None:
            return "a next hop that the switch cannot reach" if not number else f"next hop {number:#x}"
        return f"{address_text(where[1])} on {self.link(router, where[0])}"

    def who(self, vid: int, mac: bytes) -> str:
        """Return whose MAC it is, as far as is known."""
        owner = mac_owner(self.controller, vid, mac)
        if owner:
            return f"{mac_text(mac)} ({owner})"
        return mac_text(mac)


def mac_owner(controller: Controller, vid: int, mac: bytes) -> str:
    """Return the machine with that MAC in a network, empty if it is none of ours."""
    network = controller.networks.name(vid)
    for node in controller.nodes.values():
        for machine in node.machines:
            if any(item.mac == mac and item.network == network for item in machine.interfaces):
                return machine.name
    return ""


def table_name(table: int) -> str:
    """Return a table's name."""
    try:
        return pipeline.Table(table).name.lower().replace("_", "-")
    except ValueError:
        return str(table)


def kind_name(kind: int) -> str:
    """Return the name of what a flow is for."""
    try:
        return pipeline.Kind(kind).name.lower()
    except ValueError:
        return str(kind)


def hosts(node: Node) -> list[str]:
    """Return the names of the tenants' machines on a node."""
    return sorted(machine.name for machine in node.machines if machine.kind is MachineKind.HOST)

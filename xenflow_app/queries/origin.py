"""Where the packet of a trace starts, and which frame carries it: what its sender would do (pure).

host          its interface; on-link or through a router of that network
router        its own packet: what its kernel does by the routes that it has told
NODE:PORT     a frame from outside; source and destination as far as they can be known
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xenflow.model import (
    Interface,
    Machine,
    MachineKind,
    Port,
    PortKind,
    address_text,
    mac_text,
    neighbor_key,
    pack_mac,
)
from xenflow_app import frame
from xenflow_app.frame import Frame
from xenflow_app.queries.names import QueryError, find_node, list_names
from xenflow_app.queries.paging import number
from xenflow_app.queries.routers import parse_address
from xenflow_app.router import Router

if TYPE_CHECKING:
    from xenflow_app.controller import Controller
    from xenflow_app.node import Node

STRANGER = bytes.fromhex("0200000000fe")
"""Stands for the MAC address of somebody outside that nobody knows."""
PROTOCOLS = {"icmp": -1, "tcp": 6, "udp": 17, "igmp": 2, "rsvp": 46, "ospf": 89}
_SIZES = {4: 84, 16: 104}
"""Bytes of a ping by packed address length."""


class NotSentError(Exception):
    """The packet does not even leave its sender; the text says why."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A frame that comes in at a port of a node; `notes` say what was worked out on the way to it."""

    node: Node
    port: Port
    frame: Frame
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Sender:
    """Who sends: `network` that the frame starts in, `wire` its tag on the wire (0: none)."""

    node: Node
    port: Port
    mac: bytes
    network: str
    source: bytes
    wire: int = 0


class Starter:
    """Works out the origin of one trace; `notes` collect what had to be assumed."""

    def __init__(self, controller: Controller, arguments: Mapping[str, str]) -> None:
        self._controller = controller
        self._arguments = arguments
        self._to = parse_address(arguments.get("to", ""))
        self._source = parse_address(arguments["src"]) if arguments.get("src") else b""
        self.notes: list[str] = []
        self._next_mac = b""
        if self._source and len(self._source) != len(self._to):
            raise QueryError("source and destination are of different families")

    def origin(self) -> Origin:
        """Return where the packet starts. Raises QueryError, or NotSentError if it never does."""
        sender = self._sender()
        if self._arguments.get("src_mac"):
            sender = _Sender(
                sender.node, sender.port, _mac(self._arguments["src_mac"]), sender.network, sender.source, sender.wire
            )
        if self._arguments.get("proto") == "arp":
            if len(self._to) != 4:
                raise QueryError("ARP is for IPv4")
            built = frame.arp_request(sender.mac, (sender.source, self._to))
        else:
            built = self._packet(sender)
        wire = number(self._arguments, "vid", sender.wire)
        return Origin(sender.node, sender.port, frame.tagged(built, wire) if wire else built, self.notes)

    def _packet(self, sender: _Sender) -> Frame:
        arguments = self._arguments
        name = arguments.get("proto") or "icmp"
        protocol = PROTOCOLS.get(name, -2)
        if protocol == -2:
            if not name.isdigit() or int(name) > 255:
                raise QueryError(f"proto: one of {', '.join(PROTOCOLS)}, arp, or a number up to 255 (not {name!r})")
            protocol = int(name)
        ttl = number(arguments, "ttl", 64)
        size = number(arguments, "size", _SIZES[len(self._to)])
        if not 0 <= ttl <= 255 or not 20 <= size <= 65535:
            raise QueryError("ttl is from 0 to 255, size (of the IP packet) from 20 to 65535 bytes")
        macs = (sender.mac, self._destination_mac(sender))
        return frame.ip(macs, (sender.source, self._to), ttl, size, protocol)

    # -- who sends -----------------------------------------------------------------------------------------------------

    def _sender(self) -> _Sender:
        who = self._arguments.get("from", "")
        if ":" in who:
            return self._from_port(*who.split(":", 1))
        for node, machine in machines(self._controller):
            if machine.name == who:
                if machine.kind is MachineKind.ROUTER:
                    return self._from_router(node, node.routers[who])
                return self._from_machine(node, machine, self._choose(machine))
        known = [machine.name for _, machine in machines(self._controller)]
        raise QueryError(f"nobody is called {who!r}; known: {list_names(known)}; or NODE:PORT")

    def _choose(self, machine: Machine) -> Interface:
        """Return the interface of a host that the packet leaves by."""
        by_address = [item for item in machine.interfaces if self._source and self._source in item.addresses]
        on_link = [item for item in machine.interfaces if self._owner(item.network, self._to)]
        family = [item for item in machine.interfaces if any(len(each) == len(self._to) for each in item.addresses)]
        for found in (by_address, on_link, family, list(machine.interfaces)):
            if found:
                return found[0]
        raise QueryError(f"{machine.name} has no interface")

    def _from_machine(self, node: Node, machine: Machine, interface: Interface) -> _Sender:
        port = next(
            (item for item in node.ports if (item.machine, item.interface) == (machine.name, interface.number)), None
        )
        if port is None:
            raise NotSentError(f"{machine.name}'s interface on {interface.network} has no port on {node.name}")
        source = self._source or self._own(machine, interface)
        return _Sender(node, port, interface.mac, interface.network, source)

    def _own(self, machine: Machine, interface: Interface) -> bytes:
        """Return the address that the interface would use as a source."""
        fitting = [item for item in self._claims(machine, interface) if len(item) == len(self._to)]
        scoped = [item for item in fitting if _is_link_local(item) == _is_link_local(self._to)]
        if not fitting:
            family = "IPv4" if len(self._to) == 4 else "IPv6"
            raise NotSentError(f"{machine.name} has no {family} address on {interface.network}")
        return (scoped or fitting)[0]

    def _claims(self, machine: Machine, interface: Interface) -> tuple[bytes, ...]:
        for node in self._controller.nodes.values():
            router = node.routers.get(machine.name)
            if router is not None:
                return router.claims(interface)
        return interface.addresses

    def _from_router(self, node: Node, router: Router) -> _Sender:
        """A packet of the router's own: its kernel routes it."""
        if group_mac(self._to):
            first = next((item for item in router.machine.interfaces if item.number in router.vids), None)
            if first is None:
                raise NotSentError(f"no interface of {router.name} is in a network")
            self.notes.append(f"by {router.name}'s interface on {first.network}; NODE:PORT chooses another")
            return self._from_machine(node, router.machine, first)
        route = router.rib.lookup(self._to)
        if route is None or not route.hops:
            said = "no route" if route is None else "no way that leaves by a network"
            raise NotSentError(f"{router.name} itself has {said} to {address_text(self._to)}")
        hop = route.hops[0]
        if len(route.hops) > 1:
            self.notes.append(f"{router.name} itself has {len(route.hops)} next hops; the first is taken")
        interface = router.interface(hop.link)
        if interface is None or hop.link not in router.vids:
            raise NotSentError(f"{router.name}'s own route leaves by an interface that is in none of the networks")
        gateway = hop.gateway or self._to
        neighbor = router.neighbors.get(neighbor_key(hop.link, gateway))
        if neighbor is None:
            raise NotSentError(f"{router.name} does not know the MAC address of {address_text(gateway)}: it asks first")
        self._next_mac = neighbor.mac
        self.notes.append(f"{router.name} itself sends to {address_text(gateway)} on {interface.network}")
        return self._from_machine(node, router.machine, interface)

    def _from_port(self, node_name: str, name: str) -> _Sender:
        node = find_node(self._controller, node_name)
        port = next((item for item in node.ports if name in (item.name, str(item.number))), None)
        if port is None:
            raise QueryError(
                f"node {node.name} has no port {name!r}; there: {list_names([p.name for p in node.ports])}"
            )
        if port.kind is PortKind.VIF:
            machine = node.machine(port.machine)
            found = [item for item in machine.interfaces if item.number == port.interface] if machine else []
            if machine is None or not found:
                raise QueryError(f"nobody that is known is behind {node.name}:{port.name}")
            return self._from_machine(node, machine, found[0])
        network, wire = self._network(port)
        if not self._source:
            raise QueryError(f"--src: which address do packets from {node.name}:{port.name} come from?")
        mac = self._owner(network, self._source)
        if not mac:
            self.notes.append(
                f"the MAC address of {address_text(self._source)} is not known: {mac_text(STRANGER)} taken"
            )
        return _Sender(node, port, mac or STRANGER, network, self._source, wire)

    def _network(self, port: Port) -> tuple[str, int]:
        """Return the network that frames from a trunk or an access port are in, and their tag on the wire."""
        wire = number(self._arguments, "vid", -1)
        if port.kind is PortKind.TRUNK:
            if wire < 0:
                raise QueryError(f"--vid: which VLAN do frames on the trunk {port.name} have?")
            return self._controller.networks.name(wire), wire
        networks = {item.vlan: item.network for item in port.attachments}
        if wire < 0:
            wire = min(networks, default=0)
        return networks.get(wire, ""), wire

    # -- to whom -------------------------------------------------------------------------------------------------------

    def _destination_mac(self, sender: _Sender) -> bytes:
        text = address_text(self._to)
        if self._arguments.get("dst_mac"):
            return _mac(self._arguments["dst_mac"])
        if group := group_mac(self._to):
            return group
        if self._next_mac:
            return self._next_mac
        if self._arguments.get("via"):
            return self._via(sender, self._arguments["via"])
        owner = self._owner(sender.network, self._to)
        if owner:
            self.notes.append(f"{text} is in the same network, at {mac_text(owner)}")
            return owner
        for router, interface in self._routers(sender.network):
            if covers(router, interface, self._to):
                raise NotSentError(
                    f"{text} belongs to {sender.network} itself, but nobody there is known to have it: the question "
                    "for its MAC address stays without an answer (--dst-mac says it)"
                )
        return self._via(sender, "")

    def _via(self, sender: _Sender, name: str) -> bytes:
        """Return the MAC of the router that the sender uses."""
        routers = [item for item in self._routers(sender.network) if item[1].mac != sender.mac]
        names = list_names({router.name for router, _ in routers})
        chosen = [item for item in routers if not name or item[0].name == name]
        if not chosen:
            wanted = f"router {name!r}" if name else "router"
            raise NotSentError(f"no {wanted} is in {sender.network or 'no network'} (there: {names})")
        routed = [item for item in chosen if item[0].rib.lookup(self._to) is not None]
        router, interface = (routed or chosen)[0]
        several = f" (of {names}; --via chooses)" if len(routers) > 1 and not name else ""
        self.notes.append(f"the sender's router in {sender.network} is {router.name}{several}")
        return interface.mac

    def _routers(self, network: str) -> list[tuple[Router, Interface]]:
        found = [
            (router, interface)
            for node in self._controller.nodes.values()
            for router in node.routers.values()
            for interface in router.machine.interfaces
            if interface.network == network
        ]
        return sorted(found, key=lambda item: item[0].name)

    def _owner(self, network: str, address: bytes) -> bytes:
        """Return the MAC of who has an address in a network, empty if that is not known."""
        for _, machine in machines(self._controller):
            for interface in machine.interfaces:
                if interface.network == network and address in self._claims(machine, interface):
                    return interface.mac
        for router, interface in self._routers(network):
            neighbor = router.neighbors.get(neighbor_key(interface.number, address))
            if neighbor is not None:
                return neighbor.mac
        return b""


def machines(controller: Controller) -> Iterator[tuple[Node, Machine]]:
    """Yield every machine and the node that it runs on."""
    for node in controller.nodes.values():
        for machine in node.machines:
            yield node, machine


def covers(router: Router, interface: Interface, address: bytes) -> bool:
    """Tell whether an address is in one of the subnets of a router's interface."""
    for own in router.addresses.values():
        packed, length = own.address[:-1], own.address[-1]
        bits = len(packed) * 8
        if own.link == interface.number and len(packed) == len(address):
            mask = ((1 << length) - 1) << (bits - length)
            if (int.from_bytes(packed, "big") ^ int.from_bytes(address, "big")) & mask == 0:
                return True
    return False


def group_mac(address: bytes) -> bytes:
    """Return the MAC address of a multicast or broadcast address (RFC 1112, RFC 2464), empty for any other."""
    if address == b"\xff" * 4:
        return frame.BROADCAST
    if len(address) == 4 and address[0] >> 4 == 14:
        return b"\x01\x00\x5e" + bytes([address[1] & 0x7F]) + address[2:]
    if len(address) == 16 and address[0] == 0xFF:
        return b"\x33\x33" + address[12:]
    return b""


def _is_link_local(address: bytes) -> bool:
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def _mac(text: str) -> bytes:
    try:
        return pack_mac(text)
    except ValueError as error:
        raise QueryError(f"not a MAC address: {text!r}") from error

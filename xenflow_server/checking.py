"""The checks behind `definitions`: what no two tables may share, and what a single one may not say.

Rules: nothing raises; each problem is one line "FILE: TABLE: reason (value)" with the way out where it is not obvious.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from xenflow.model import (
    ANNOUNCEMENT_MAC,
    RESERVED_VIDS,
    Attachment,
    Interface,
    Machine,
    MachineKind,
    mac_text,
    pack_mac,
)
from xenflow.resources import Resources, faults
from xenflow_server.hires import Hires
from xenflow_server.tables import HostTable, InterfaceTable, NetworkTable, PortTable, RouterTable

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""Names of networks and machines; those of routers are part of certificates' identities."""
PORT_NAME = re.compile(r"[^\s/]{1,63}")
MAX_COUNT = 100_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class PortDefinition:
    """A port that is no vif: an access port has attachments (sorted by VLAN id), a trunk has none.

    `capacity` is the link's in bit/s, 0 if it is not said.
    """

    name: str
    trunk: bool
    attachments: tuple[Attachment, ...] = ()
    capacity: int = 0


class Checker:
    """Collects `problems`, and knows what earlier tables have taken: names, VLAN ids, MAC addresses, addresses."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.networks: dict[str, int] = {}
        self.rates: dict[str, int] = {}
        self.hires = Hires(self._problem)
        self._vids: dict[int, str] = {}
        self._ports: set[str] = set()
        self._machines: dict[str, str] = {}
        self._macs: dict[bytes, str] = {}
        self._addresses: dict[tuple[str, bytes], str] = {}

    def network(self, file: str, table: NetworkTable) -> None:
        """Take one network."""
        where = f"{file}: network {table.name!r}"
        self._name(where, table.name)
        if table.name in self.networks:
            self._problem(where, "the name is used twice", table.name)
        if table.vid in RESERVED_VIDS or not 0 < table.vid < 4095:
            self._problem(where, "vid must be 1 to 4094; 0 and 4095 are reserved", table.vid)
        elif table.vid in self._vids:
            self._problem(where, f"vid is that of network {self._vids[table.vid]!r}", table.vid)
        self._vids.setdefault(table.vid, table.name)
        self.networks.setdefault(table.name, table.vid)
        self.rates[table.name] = self.hires.rate(where, "rate", table.rate)

    def port(self, file: str, table: PortTable) -> PortDefinition:
        """Take one port."""
        where = f"{file}: port {table.name!r}"
        if not PORT_NAME.fullmatch(table.name):
            self._problem(where, "name must have 1 to 63 characters, without space and slash", table.name)
        if table.name in self._ports:
            self._problem(where, "the name is used twice", table.name)
        self._ports.add(table.name)
        if table.kind not in ("trunk", "access"):
            self._problem(where, 'kind must be "trunk" or "access"', table.kind)
        if table.kind == "trunk" and (table.network or table.vlans):
            self._problem(
                where, "a trunk carries every network: remove network and vlans", table.network or table.vlans
            )
        if table.kind == "access" and not (table.network or table.vlans):
            self._problem(where, "an access port needs network or vlans", "")
        capacity = self.hires.rate(where, "capacity", table.capacity)
        return PortDefinition(table.name, table.kind == "trunk", self._attachments(where, table), capacity)

    def router(self, file: str, table: RouterTable) -> Machine:
        """Take one router; its interfaces are in different networks."""
        where = f"{file}: router {table.name!r}"
        for key, count in (("max_routes", table.max_routes or 0), ("max_flows", table.max_flows)):
            if not 0 <= count <= MAX_COUNT:
                self._problem(where, f"{key} must be 0 (no cap) to {MAX_COUNT}", count)
        interfaces = self._machine(where, table.name, table.interface)
        seen: set[str] = set()
        for interface in interfaces:
            if interface.network in seen:
                self._problem(where, "two interfaces of a router are in one network", interface.network)
            seen.add(interface.network)
        rate, ceiling, classes = self.hires.router(where, table)
        return Machine(
            table.name,
            MachineKind.ROUTER,
            interfaces,
            table.max_flows,
            table.max_routes or 0,
            rate,
            ceiling,
            classes,
            self._resources(where, table),
        )

    def host(self, file: str, table: HostTable) -> Machine:
        """Take one host."""
        interfaces = self._machine(f"{file}: host {table.name!r}", table.name, table.interface)
        return Machine(table.name, MachineKind.HOST, interfaces)

    def _resources(self, where: str, table: RouterTable) -> Resources:
        resources = Resources(table.memory_mib, table.vcpus, table.cpu_weight, table.cpu_cap)
        for key, reason, value in faults(resources):
            self._problem(where, f"{key} {reason}", value)
        return resources

    def _machine(self, where: str, name: str, tables: list[InterfaceTable]) -> tuple[Interface, ...]:
        self._name(where, name)
        if name in self._machines:
            self._problem(where, f"the name is used twice, also in {self._machines[name]}", name)
        self._machines.setdefault(name, where)
        if not tables:
            self._problem(where, "has no interface: add [[….interface]] with mac and network", name)
        return tuple(self._interface(where, number, table) for number, table in enumerate(tables, 1))

    def _interface(self, machine: str, number: int, table: InterfaceTable) -> Interface:
        where = f"{machine}: interface {number}"
        self._known(where, table.network)
        mac = self._mac(where, table.mac)
        addresses = []
        for text in table.addresses:
            try:
                address = ipaddress.ip_interface(text).ip.packed
            except ValueError:
                self._problem(where, "not an IPv4 or IPv6 address", text)
                continue
            owner = self._addresses.setdefault((table.network, address), where)
            if owner != where:
                self._problem(where, f"address is taken in network {table.network!r} by {owner}", text)
            addresses.append(address)
        capacity = self.hires.rate(where, "capacity", table.capacity)
        return Interface(number, table.network, mac, tuple(addresses), capacity)

    def _mac(self, where: str, text: str) -> bytes:
        try:
            mac = pack_mac(text)
        except ValueError:
            self._problem(where, "mac must look like 02:00:00:00:00:01", text)
            return b""
        if mac == ANNOUNCEMENT_MAC:
            self._problem(where, "mac is the announcement's address, which nobody may own", text)
        elif mac[0] & 1 or mac == bytes(6):
            self._problem(where, "mac must be a unicast address", text)
        owner = self._macs.setdefault(mac, where)
        if owner != where:
            self._problem(where, f"mac is that of {owner}", mac_text(mac))
        return mac

    def _attachments(self, where: str, table: PortTable) -> tuple[Attachment, ...]:
        wires = [(0, table.network)] if table.network else []
        for text, network in table.vlans.items():
            if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 4095:
                self._problem(where, "vlans: an id must be 1 to 4094", text)
            elif any(vlan == int(text) for vlan, _ in wires):
                self._problem(where, "vlans: the id is used twice", text)
            else:
                wires.append((int(text), network))
        networks: set[str] = set()
        for _, network in wires:
            self._known(where, network)
            if network in networks:
                self._problem(where, "two VLANs of one port in one network would be a loop", network)
            networks.add(network)
        return tuple(Attachment(vlan, network) for vlan, network in sorted(wires))

    def _known(self, where: str, network: str) -> None:
        if network not in self.networks:
            self._problem(where, "unknown network: define it with [[network]]", network)

    def _name(self, where: str, name: str) -> None:
        if not NAME.fullmatch(name):
            self._problem(where, "name must match [a-z0-9][a-z0-9._-]{0,62}", name)

    def _problem(self, where: str, reason: str, value: object) -> None:
        self.problems.append(f"{where}: {reason} ({value!r})" if value != "" else f"{where}: {reason}")

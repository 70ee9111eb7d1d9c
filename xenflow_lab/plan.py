"""Everything that a lab consists of, with its names and numbers: a pure function of the topology.

Place in the flow: `Topology` -> `Plan` (here) -> `fabric`, `openvswitch`, `routing`, `settings_files` make it real.

    guest eth0 ---- w1 [wires] p1 ---- vif1.1 [node]        a wire: guest and port never share a veth, so that a port
    guest eth1 ---- w2 [wires] p2 ---- vif1.2 [node]        can move to another node while the guest keeps its carrier
    guest xfctl --- cw1 [wires] cp1 -- ctl1 [node: xfctl]   the control connection, a wire like the others
    node mgmt ---- m1 [controller: mgmt]                    a bridge in the controller's namespace
    node t-n2 ---- t-n1 [node]                              a trunk; by way of [wires] if it has a bridge or a rate

Every machine is a network namespace of its own; every interface lives in them, none in the host's.
"""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from xenflow.resources import Resources
from xenflow_lab.topology import (
    AccessTable,
    HostTable,
    InterfaceTable,
    OutsideTable,
    RouterTable,
    Routing,
    RoutingTable,
    Topology,
)

BRIDGE: Final = "xenbr0"
CONTROL_BRIDGE: Final = "xfctl"
CONTROL_ADDRESS: Final = "fe80::1"
CONTROL_MAC: Final = "02:58:46:ff:00:01"
"""The server's side of the control link: the same address and MAC on every node, so that a moved VM finds it."""
CONTROLLER: Final = "controller"
WIRES: Final = "wires"
CONTROLLER_ADDRESS: Final = "172.31.0.1"
WIRE_MTU: Final = 9000
MAX_INTERFACE_NAME: Final = 15

FIRST_TRUNK_PORT: Final = 1
FIRST_ACCESS_PORT: Final = 201
FIRST_VIF_PORT: Final = 1001


class Kind(enum.StrEnum):
    """What a machine of the lab is."""

    CONTROLLER = "controller"
    WIRES = "wires"
    NODE = "node"
    ROUTER = "router"
    HOST = "host"
    OUTSIDE = "outside"


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of a guest. `peer` is the other end of its veth, in the wires namespace."""

    device: str
    peer: str
    mac: str
    mtu: int
    addresses: tuple[str, ...] = ()
    passive: bool = False
    ospf_cost: int = 0


@dataclass(frozen=True, slots=True)
class Vif:
    """A guest's interface in a network, and the bridge port that it leads to."""

    machine: str
    number: int
    node: str
    network: str
    port: str
    ofport: int
    wire: str
    """The end of the port's veth in the wires namespace; `interface.peer` is the guest's."""
    vm_id: str
    """The machine's uuid; empty if the node's hypervisor does not know the machine."""
    rate_mbps: float
    interface: Interface
    capacity: str = ""


@dataclass(frozen=True, slots=True)
class ControlLink:
    """The control interface `xfctl` of a router and its port at the node's host-local bridge."""

    router: str
    node: str
    port: str
    peer: str
    wire: str
    mac: str


@dataclass(frozen=True, slots=True)
class TrunkEnd:
    """One end of a trunk: the port at the node, its number, and the far node."""

    node: str
    port: str
    ofport: int
    far: str


@dataclass(frozen=True, slots=True)
class Trunk:
    """A cable between two nodes."""

    number: int
    ends: tuple[TrunkEnd, TrunkEnd]
    mtu: int
    bridge: bool
    rate_mbps: float
    capacity: str = ""

    @property
    def is_direct(self) -> bool:
        """Whether the two ports are the two ends of one veth."""
        return not self.bridge and not self.rate_mbps


@dataclass(frozen=True, slots=True)
class OutsideEnd:
    """An outside machine's interface at an access port; `vlan` 0 is untagged."""

    machine: str
    vlan: int
    interface: Interface


@dataclass(frozen=True, slots=True)
class Access:
    """A port of a node that leads to outside machines; `wire` is its veth's end in the wires namespace."""

    table: AccessTable
    number: int
    port: str
    ofport: int
    wire: str
    ends: tuple[OutsideEnd, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """A namespace of the lab and what runs in it; `table` is what the file says of a guest or an outside machine."""

    name: str
    kind: Kind
    node: str = ""
    number: int = 0
    interfaces: tuple[Interface, ...] = ()
    table: RouterTable | HostTable | OutsideTable | None = None

    @property
    def routing(self) -> RoutingTable | None:
        """The routing keys of a router or an outside machine."""
        return self.table if isinstance(self.table, RoutingTable) else None

    @property
    def resources(self) -> Resources:
        """What the file says of a router's processor and memory."""
        return self.table.resources if isinstance(self.table, RouterTable) else Resources()

    @property
    def forwards(self) -> bool:
        """Whether its kernel forwards packets."""
        if self.kind is Kind.OUTSIDE:
            return self.routing is not None and self.routing.routing is not Routing.NONE
        return self.kind is Kind.ROUTER


@dataclass(frozen=True, slots=True)
class Plan:
    """A lab: its machines by name and all that connects them."""

    name: str
    topology: Topology
    machines: dict[str, Machine]
    vifs: tuple[Vif, ...]
    controls: tuple[ControlLink, ...]
    trunks: tuple[Trunk, ...]
    accesses: tuple[Access, ...]
    management: dict[str, str] = field(default_factory=dict)
    """Address of each node on the management network."""

    def of_kind(self, *kinds: Kind) -> list[Machine]:
        """Return the machines of these kinds, in the order of the file."""
        return [machine for machine in self.machines.values() if machine.kind in kinds]

    def without(self, names: Collection[str]) -> Plan:
        """Return the plan without these guests and all that is theirs."""
        return dataclasses.replace(
            self,
            machines={name: machine for name, machine in self.machines.items() if name not in names},
            vifs=tuple(vif for vif in self.vifs if vif.machine not in names),
            controls=tuple(control for control in self.controls if control.router not in names),
        )

    def trunk_ends(self, node: str) -> list[TrunkEnd]:
        """Return the trunk ports of `node`."""
        return [end for trunk in self.trunks for end in trunk.ends if end.node == node]


def plan(topology: Topology, name: str = "") -> Plan:
    """Return the lab that a checked topology describes, under `name` (default: the file's)."""
    name = name or topology.lab.name
    vifs, controls = _vifs(topology, name)
    accesses = _accesses(topology)
    machines = [
        Machine(CONTROLLER, Kind.CONTROLLER),
        Machine(WIRES, Kind.WIRES),
        *(Machine(node.name, Kind.NODE, node.name, number) for number, node in enumerate(topology.node, start=1)),
        *_guests(topology, vifs),
        *_outsides(topology, accesses),
    ]
    return Plan(
        name=name,
        topology=topology,
        machines={machine.name: machine for machine in machines},
        vifs=vifs,
        controls=controls,
        trunks=_trunks(topology),
        accesses=accesses,
        management={node.name: _management(number) for number, node in enumerate(topology.node, start=2)},
    )


def _management(number: int) -> str:
    return f"172.31.{number // 256}.{number % 256}"


def _mac(group: int, number: int) -> str:
    return f"02:58:46:{group:02x}:{number // 256:02x}:{number % 256:02x}"


def _guest_tables(topology: Topology) -> tuple[RouterTable | HostTable, ...]:
    return (*topology.router, *topology.host)


def _vifs(topology: Topology, lab: str) -> tuple[tuple[Vif, ...], tuple[ControlLink, ...]]:
    vifs: list[Vif] = []
    controls: list[ControlLink] = []
    for machine, table in enumerate(_guest_tables(topology), start=1):
        for number, wanted in enumerate(table.interface, start=1):
            index = len(vifs) + 1
            vif = Vif(
                machine=table.name,
                number=number,
                node=table.node,
                network=wanted.network,
                port=f"vif{machine}.{number}",
                ofport=FIRST_VIF_PORT + index - 1,
                wire=f"p{index}",
                vm_id=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{table.name}.{lab}")),
                rate_mbps=wanted.rate_mbps,
                interface=_interface(topology, number, index, wanted),
                capacity=wanted.capacity,
            )
            vifs.append(vif)
        if isinstance(table, RouterTable):
            names = (f"ctl{machine}", f"cw{machine}", f"cp{machine}")
            controls.append(ControlLink(table.name, table.node, *names, _mac(1, machine)))
    return tuple(vifs), tuple(controls)


def _interface(topology: Topology, number: int, index: int, wanted: InterfaceTable) -> Interface:
    network_mtu = next(network.mtu for network in topology.network if network.name == wanted.network)
    return Interface(
        device=f"eth{number - 1}",
        peer=f"w{index}",
        mac=wanted.mac.lower() or _mac(0, index),
        mtu=wanted.mtu or network_mtu,
        addresses=wanted.addresses,
        passive=wanted.passive,
        ospf_cost=wanted.ospf_cost,
    )


def _guests(topology: Topology, vifs: tuple[Vif, ...]) -> list[Machine]:
    guests = []
    for number, table in enumerate(_guest_tables(topology), start=1):
        kind = Kind.ROUTER if isinstance(table, RouterTable) else Kind.HOST
        interfaces = tuple(vif.interface for vif in vifs if vif.machine == table.name)
        guests.append(Machine(table.name, kind, table.node, number, interfaces, table))
    return guests


def _outsides(topology: Topology, accesses: tuple[Access, ...]) -> list[Machine]:
    return [
        Machine(
            name=table.name,
            kind=Kind.OUTSIDE,
            number=number,
            interfaces=tuple(
                sorted(
                    (end.interface for access in accesses for end in access.ends if end.machine == table.name),
                    key=lambda interface: interface.device,
                )
            ),
            table=table,
        )
        for number, table in enumerate(topology.outside, start=1)
    ]


def _accesses(topology: Topology) -> tuple[Access, ...]:
    ends: dict[str, list[OutsideEnd]] = {access.name: [] for access in topology.access}
    index = 0
    for outside in topology.outside:
        for number, table in enumerate(outside.interface):
            index += 1
            interface = Interface(
                device=f"eth{number}",
                peer=f"o{index}",
                mac=table.mac.lower() or _mac(2, index),
                mtu=table.mtu,
                addresses=table.addresses,
                passive=table.passive,
                ospf_cost=table.ospf_cost,
            )
            ends[table.access].append(OutsideEnd(outside.name, table.vlan, interface))
    return tuple(
        Access(table, number, f"acc{number}", FIRST_ACCESS_PORT + number - 1, f"a{number}", tuple(ends[table.name]))
        for number, table in enumerate(topology.access, start=1)
    )


def _trunks(topology: Topology) -> tuple[Trunk, ...]:
    taken: dict[str, list[str]] = {node.name: [] for node in topology.node}
    trunks = []
    for number, table in enumerate(topology.trunk, start=1):
        ends = []
        for node, far in (table.between, table.between[::-1]):
            port = _trunk_port(far, number, taken[node])
            taken[node].append(port)
            ends.append(TrunkEnd(node, port, FIRST_TRUNK_PORT + len(taken[node]) - 1, far))
        trunks.append(Trunk(number, (ends[0], ends[1]), table.mtu, table.bridge, table.rate_mbps, table.capacity))
    return tuple(trunks)


def _trunk_port(far: str, number: int, taken: list[str]) -> str:
    port = f"t-{far}"
    return port if len(port) <= MAX_INTERFACE_NAME and port not in taken else f"trunk{number}"

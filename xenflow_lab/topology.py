"""The topology file as a person writes it: one struct for each table, with the defaults that docs/lab.md lists.

Place in the flow: TOML -> `Topology` (here) -> checked (`checks`) -> `plan` gives every object its name and number.
Nothing here knows of namespaces or of Open vSwitch.
"""

from __future__ import annotations

import enum
from pathlib import Path

import msgspec

from xenflow import settings
from xenflow.errors import ConfigError
from xenflow.resources import Resources


class Controller(enum.StrEnum):
    """Which host runs the app."""

    STANDALONE = "standalone"
    POX = "pox"


class Routing(enum.StrEnum):
    """What fills the routing table of a router or of an outside machine."""

    NONE = "none"
    STATIC = "static"
    FRR = "frr"
    BIRD = "bird"


class Datapath(enum.StrEnum):
    """Which datapath of Open vSwitch forwards: its own in userspace, or the kernel's (module openvswitch)."""

    USERSPACE = "netdev"
    KERNEL = "system"


class LabTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[lab]`: name of the lab and what controls it."""

    name: str
    controller: Controller = Controller.STANDALONE
    mode: str = "proactive"
    datapath: Datapath = Datapath.USERSPACE


class NetworkTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[network]]`: a virtual network; `mtu` is the one of the interfaces in it, without the VLAN tag."""

    name: str
    vid: int
    mtu: int = 1500
    rate: str = ""


class NodeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[node]]`: a physical host; without machines it is a pure switch."""

    name: str


class TrunkTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[trunk]]`: a cable between two nodes; `bridge` puts a plain Linux bridge into it, `rate_mbps` limits it.

    `capacity` is what the servers are told of it: the queues at both ends share that.
    """

    between: tuple[str, ...]
    mtu: int = 9000
    bridge: bool = False
    rate_mbps: float = 0.0
    capacity: str = ""


class RouteTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A static route: prefix `to` by way of the address `via`; several with one prefix are equal-cost."""

    to: str
    via: str


class InterfaceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[router.interface]]`: an interface in a network. `mtu` 0 means the network's."""

    network: str
    addresses: tuple[str, ...] = ()
    mac: str = ""
    mtu: int = 0
    rate_mbps: float = 0.0
    passive: bool = False
    ospf_cost: int = 0
    capacity: str = ""


class RoutingTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys about routing that routers and outside machines share."""

    routing: Routing = Routing.STATIC
    route: tuple[RouteTable, ...] = ()
    router_id: str = ""
    ospf: bool = False
    ospf_hello_s: int = 1
    ospf_dead_s: int = 4
    daemons: tuple[str, ...] = ()
    frr: str = ""
    bird: str = ""


class RouterTable(RoutingTable, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[[router]]`: a virtual router. `rate` to `cpu_cap` are those of its definition, as they are.

    The last four count where it is a virtual machine, which starts with them.
    """

    name: str
    node: str
    interface: tuple[InterfaceTable, ...] = ()
    max_routes: int = 0
    max_flows: int = 0
    client_max_routes: int = 0
    rate: str = ""
    ceiling: str = ""
    classes: tuple[dict[str, object], ...] = msgspec.field(default=(), name="class")
    memory_mib: int | None = None
    vcpus: int | None = None
    cpu_weight: int | None = None
    cpu_cap: int | None = None

    @property
    def resources(self) -> Resources:
        """What its machine is to have."""
        return Resources(self.memory_mib, self.vcpus, self.cpu_weight, self.cpu_cap)


class HostTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[host]]`: a tenant's machine with one interface."""

    name: str
    node: str
    network: str
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    route: tuple[RouteTable, ...] = ()
    mac: str = ""
    mtu: int = 0
    rate_mbps: float = 0.0
    capacity: str = ""

    @property
    def interface(self) -> tuple[InterfaceTable, ...]:
        """Its one interface, in the form that routers have them."""
        return (
            InterfaceTable(
                network=self.network,
                addresses=self.addresses,
                mac=self.mac,
                mtu=self.mtu,
                rate_mbps=self.rate_mbps,
                capacity=self.capacity,
            ),
        )


class AccessTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[access]]`: a port of a node that leads outside: untagged in `network`, or `vlans` with ids of that wire."""

    name: str
    node: str
    network: str = ""
    vlans: dict[str, str] = {}
    capacity: str = ""


class OutsideInterfaceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[outside.interface]]`: an interface at an access port; `vlan` 0 is untagged."""

    access: str
    vlan: int = 0
    addresses: tuple[str, ...] = ()
    mac: str = ""
    mtu: int = 1500
    passive: bool = False
    ospf_cost: int = 0


class OutsideTable(RoutingTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[outside]]`: a machine without any of XenFlow; it forwards if `routing` is not "none"."""

    name: str
    interface: tuple[OutsideInterfaceTable, ...] = ()
    gateways: tuple[str, ...] = ()


class Topology(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. `app`, `server`, `qos`: further settings, passed on to those programs as they are."""

    lab: LabTable
    network: tuple[NetworkTable, ...] = ()
    node: tuple[NodeTable, ...] = ()
    trunk: tuple[TrunkTable, ...] = ()
    router: tuple[RouterTable, ...] = ()
    host: tuple[HostTable, ...] = ()
    access: tuple[AccessTable, ...] = ()
    outside: tuple[OutsideTable, ...] = ()
    app: dict[str, object] = {}
    server: dict[str, object] = {}
    qos: dict[str, object] = {}

    @property
    def has_queues(self) -> bool:
        """Whether bandwidth matters in this lab: somebody hires some, a link has a capacity, or `[qos]` is there."""
        hired = [*(network.rate for network in self.network), *(router.rate for router in self.router)]
        links = [*(trunk.capacity for trunk in self.trunk), *(access.capacity for access in self.access)]
        links += [port.capacity for router in self.router for port in router.interface]
        links += [host.capacity for host in self.host]
        return bool(self.qos) or any(hired) or any(links)


def load(path: Path) -> Topology:
    """Return the topology in the file `path`, checked. Raises ConfigError with every problem at once."""
    from xenflow_lab import checks  # it needs the tables of this module

    topology = settings.load(path, Topology)
    problems = checks.problems(topology)
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return topology

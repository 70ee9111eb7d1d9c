"""The tables of a definitions file, as TOML has them: shape only; `definitions` checks what they mean together."""

from __future__ import annotations

import msgspec


class NetworkTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[network]]``: a virtual network and the VLAN id that carries it between nodes.

    `rate` (such as ``5Mbit``) is hired for what it bridges, on each link.
    """

    name: str
    vid: int
    rate: str = ""


class PortTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[port]]``: a port of the bridge that is no vif.

    `kind` is ``trunk`` or ``access``; an access port has an untagged `network`, or `vlans` (id on that wire, as
    TOML's keys are: text -> network), or both. `capacity` is the link's; absent: what the interface says of its speed.
    """

    name: str
    kind: str
    network: str = ""
    vlans: dict[str, str] = {}
    capacity: str = ""


class InterfaceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[router.interface]]`` and ``[[host.interface]]``; the order gives the numbers, from 1.

    `capacity` is that of the vif toward the machine; absent: no queues there.
    """

    mac: str
    network: str
    addresses: list[str] = []
    capacity: str = ""


class MatchTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of a class's ``match = [{...}]``: packets that have all of it.

    `protocol` is a name (tcp, udp, icmp, icmp6, gre, esp) or a number; ports are ``"5060"`` or ``"5004-5100"``.
    """

    dscp: int = -1
    protocol: str = ""
    source: str = ""
    destination: str = ""
    source_ports: str = ""
    destination_ports: str = ""


class ClassTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[router.class]]``: traffic that gets a queue of its own; the first class that matches has the packet."""

    name: str
    rate: str
    ceiling: str = ""
    match: list[MatchTable] = []


class RouterTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[router]]``: a virtual router; `max_routes` absent means the server's default, 0 means no cap.

    `rate` is what it has hired on each link in its way, `ceiling` what it may use at most; absent: best effort.
    `memory_mib`, `vcpus`, `cpu_weight` and `cpu_cap` are its VM's; absent: as the hypervisor has it.
    """

    name: str
    interface: list[InterfaceTable] = []
    max_routes: int | None = None
    max_flows: int = 0
    rate: str = ""
    ceiling: str = ""
    classes: list[ClassTable] = msgspec.field(default_factory=list, name="class")
    memory_mib: int | None = None
    vcpus: int | None = None
    cpu_weight: int | None = None
    cpu_cap: int | None = None


class HostTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[host]]``: a tenant's machine."""

    name: str
    interface: list[InterfaceTable] = []


class DefinitionsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the definitions directory."""

    network: list[NetworkTable] = []
    port: list[PortTable] = []
    router: list[RouterTable] = []
    host: list[HostTable] = []

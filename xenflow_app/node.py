"""One node: its facts, its flows, and what follows from its ports.

Place in the flow: the server's facts of a node -> *admission, and what the fabric must know* -> flows.

A port is planned for itself: what may enter there, which networks it is in, and which MAC is behind it. A vif is
planned only if all of it is known: port, machine, interface, network. Everything else is dropped by the switch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from xenflow.model import Bridge, Interface, Key, Machine, MachineKind, Network, NodeLimits, Port, PortKind
from xenflow.replica import Inbox
from xenflow.wire import NODE_SCOPE
from xenflow_app import edges, pipeline
from xenflow_app.datapath import Datapath
from xenflow_app.fabric import Fabric
from xenflow_app.flowtable import FABRIC, FlowTable, Owner
from xenflow_app.router import Router
from xenflow_app.switching import Location, Member


@dataclass(slots=True)
class Behind:
    """What a port means to the fabric: memberships, and the MAC of its machine."""

    members: list[tuple[int, Member]] = field(default_factory=list)
    macs: list[tuple[int, bytes]] = field(default_factory=list)


class Node:
    """See the module. `peer` and `switch` are the connections of its server and its switch, None while away."""

    def __init__(self, name: str, flows: FlowTable, datapath: Datapath) -> None:
        self.name = name
        self.flows = flows
        self.datapath = datapath
        self.peer: int | None = None
        self.switch: int | None = None
        self.dpid: int | None = None
        self.inbox = Inbox(NODE_SCOPE)
        self.known = False
        self.router_inboxes: dict[str, Inbox] = {}
        self.routers: dict[str, Router] = {}
        self.port_up: dict[int, bool] = {}
        self.turned_away: dict[str, int] = {}
        self.learned: dict[tuple[int, int, bytes], Location] = {}
        self.acks: dict[str, int] = {}
        self.leaving: set[str] = set()
        """Routers whose machine has gone from here; what became of it is not known yet."""
        self.moved: set[str] = set()
        """Routers of which the hypervisor says that they are moved away."""
        self._behind: dict[str, Behind] = {}

    @property
    def bridge(self) -> Bridge | None:
        """The node's data bridge as its server tells."""
        fact = self.inbox.facts.of(Bridge.KIND).get(b"")
        return fact if isinstance(fact, Bridge) else None

    @property
    def ports(self) -> list[Port]:
        """The ports of the bridge."""
        return [fact for fact in self.inbox.facts.of(Port.KIND).values() if isinstance(fact, Port)]

    @property
    def machines(self) -> list[Machine]:
        """The machines that run here."""
        return [fact for fact in self.inbox.facts.of(Machine.KIND).values() if isinstance(fact, Machine)]

    @property
    def max_routers(self) -> int:
        """How many routers may run here; 0 if the node has no limit."""
        fact = self.inbox.facts.of(NodeLimits.KIND).get(b"")
        return fact.max_routers if isinstance(fact, NodeLimits) else 0

    @property
    def networks(self) -> dict[str, int]:
        """The networks that this node declares: name -> VLAN id."""
        facts = self.inbox.facts.of(Network.KIND).values()
        return {fact.name: fact.vid for fact in facts if isinstance(fact, Network)}

    def port(self, name: str) -> Port | None:
        """Return a port by name."""
        fact = self.inbox.facts.of(Port.KIND).get(name.encode())
        return fact if isinstance(fact, Port) else None

    def port_at(self, number: int) -> Port | None:
        """Return a port by its OpenFlow number."""
        return next((port for port in self.ports if port.number == number), None)

    def machine(self, name: str) -> Machine | None:
        """Return a machine that runs here by name."""
        fact = self.inbox.facts.of(Machine.KIND).get(name.encode())
        return fact if isinstance(fact, Machine) else None

    def is_up(self, port: Port) -> bool:
        """Tell whether a port carries packets, as far as is known."""
        return self.port_up.get(port.number, True) and port.alive

    def in_sync(self, owner: Owner, *, settled: bool) -> bool:
        """Tell whether all that the owner wants on this node is known, so that the rest may be deleted."""
        if not self.known:
            return False
        if owner == FABRIC:
            return settled
        router = next((item for item in self.routers.values() if item.number == owner), None)
        return router is None or router.planned

    # -- plan ---------------------------------------------------------------------------------------------------------

    def plan_port(self, name: str, vids: dict[str, int], all_vids: Iterable[int], fabric: Fabric) -> None:
        """Plan one port: what may enter there. `vids` are the node's networks that are agreed on by all nodes."""
        port = self.port(name)
        behind = Behind()
        flows: pipeline.Flows = {}
        if port is None:
            pass
        elif port.kind is PortKind.TRUNK:
            flows = edges.admit_trunk(port.number, all_vids)
        elif port.kind is PortKind.ACCESS:
            wires = {item.vlan: vids[item.network] for item in port.attachments if item.network in vids}
            flows = edges.admit_access(port.number, wires)
            behind.members = [(vid, Member(port.number, wire)) for wire, vid in wires.items()]
        else:
            flows = self._plan_vif(port, vids, behind)
        self.flows.want_group((FABRIC, "port", name), flows)
        self._tell(name, behind, fabric)

    def _plan_vif(self, port: Port, vids: dict[str, int], behind: Behind) -> pipeline.Flows:
        machine = self.machine(port.machine)
        interface = None if machine is None else _interface(machine, port.interface)
        vid = None if interface is None else vids.get(interface.network)
        if machine is None or interface is None or vid is None:
            return {}
        router = self.routers.get(machine.name) if machine.kind is MachineKind.ROUTER else None
        behind.members = [(vid, Member(port.number, None))]
        if router is not None:  # homes.py says where its addresses are
            claims = router.claims(interface)
            return edges.admit_vif(port.number, vid, interface.mac, claims, router.number, router=True)
        behind.macs = [(vid, interface.mac)]
        return edges.admit_vif(port.number, vid, interface.mac, interface.own, FABRIC, router=False)

    def vif(self, machine: str, interface: int) -> int | None:
        """Return the number of the port to which a machine's interface is plugged here."""
        return next((p.number for p in self.ports if p.machine == machine and p.interface == interface), None)

    def _tell(self, name: str, behind: Behind, fabric: Fabric) -> None:
        """Let the fabric know what is new or gone behind a port."""
        before = self._behind.get(name, Behind())
        for vid, member in before.members:
            if (vid, member) not in behind.members:
                fabric.detach(self.name, vid, member)
                for key in [key for key in self.learned if key[0] == member.port and key[1] == vid]:
                    self.unlearn(*key, fabric)
        for vid, mac in before.macs:
            if (vid, mac) not in behind.macs:
                fabric.ways.forget(vid, mac, Location(self.name, before.members[0][1]))
        for vid, member in behind.members:
            if (vid, member) not in before.members:
                fabric.attach(self.name, vid, member)
        for vid, mac in behind.macs:
            fabric.ways.locate(vid, mac, Location(self.name, behind.members[0][1]))
        if behind.members:
            self._behind[name] = behind
        else:
            self._behind.pop(name, None)

    def access_member(self, number: int, vid: int) -> Member | None:
        """Return the membership of an access port in a network."""
        for behind in self._behind.values():
            for known, member in behind.members:
                if known == vid and member.port == number and member.wire is not None:
                    return member
        return None

    # -- machines behind access ports -------------------------------------------------------------------------------

    def learn(self, number: int, vid: int, mac: bytes, fabric: Fabric, *, most: int, idle_timeout_s: int) -> bool:
        """A frame from `mac` came in at an access port; True if that is where the MAC is from now on."""
        member = self.access_member(number, vid)
        known = fabric.ways.location(vid, mac)
        if member is None or (known is not None and known.member.wire is None):
            return False
        if sum(key[0] == number for key in self.learned) >= most:
            return False
        location = Location(self.name, member)
        self.learned[number, vid, mac] = location
        self.flows.want_group((FABRIC, "learned", number, vid, mac), edges.learned(number, vid, mac, idle_timeout_s))
        fabric.ways.locate(vid, mac, location)
        return True

    def unlearn(self, number: int, vid: int, mac: bytes, fabric: Fabric) -> None:
        """The MAC is not behind that port any more."""
        location = self.learned.pop((number, vid, mac), None)
        if location is not None:
            self.flows.want_group((FABRIC, "learned", number, vid, mac), {})
            fabric.ways.forget(vid, mac, location)

    def forget_learned(self, number: int, vid: int, mac: bytes) -> None:
        """The MAC has been seen elsewhere, which the fabric knows."""
        if self.learned.pop((number, vid, mac), None) is not None:
            self.flows.want_group((FABRIC, "learned", number, vid, mac), {})

    def changed_ports(self, changed: Iterable[Key]) -> set[str]:
        """Return the names of the ports that must be planned anew for facts that changed."""
        names: set[str] = set()
        for kind, key in changed:
            if kind == Port.KIND:
                names.add(key.decode())
            elif kind == Machine.KIND:
                names |= {port.name for port in self.ports if port.machine == key.decode()}
        return names


def _interface(machine: Machine, number: int) -> Interface | None:
    return next((item for item in machine.interfaces if item.number == number), None)

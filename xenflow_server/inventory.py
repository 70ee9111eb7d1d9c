"""Pure: definitions, the bridge and what runs here -> the node's own facts.

Place in the flow: `definitions` + `view` + `hypervisor` -> inventory -> scope "" of the uplink. A port that nobody
defined, or that Open vSwitch has given no number yet, is not reported: what the app does not know, it drops.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from xenflow.model import Bridge, Fact, Handed, Machine, MachineKind, Network, NodeLimits, Port, PortKind
from xenflow_server.definitions import Definitions
from xenflow_server.view import BridgeView, PortView


@dataclasses.dataclass(frozen=True, slots=True)
class Inventory:
    """`facts` of the node's scope; `machines` that run here; `trunks` that exist; `problems` for the log."""

    facts: tuple[Fact, ...]
    machines: Mapping[str, Machine]
    trunks: frozenset[str]
    problems: tuple[str, ...] = ()

    def router(self, name: str) -> Machine | None:
        """Return the router of that name, if it runs here."""
        machine = self.machines.get(name)
        return machine if machine is not None and machine.kind is MachineKind.ROUTER else None


def take(
    definitions: Definitions,
    view: BridgeView,
    running: frozenset[bytes],
    admits: Callable[[PortView], bool] = lambda _: True,
    max_routers: int = 0,
) -> Inventory:
    """Return what the node has; `running` are the MAC addresses of machines that run here.

    `admits` says whether a vif is rightfully that of the machine whose MAC address it has; `max_routers`
    how many routers may run here (0: any number).
    """
    vifs = definitions.vifs
    names = {vifs[mac][0] for mac in running if mac in vifs}
    machines = {name: machine for name, machine in definitions.machines.items() if name in names}
    problems = [f"port {port.name}: Open vSwitch says: {port.error}" for port in view.ports if port.error]
    facts: list[Fact] = []
    if view.exists and view.dpid:
        facts.append(Bridge(view.name, view.dpid, view.datapath_type))
    rates = definitions.rates
    facts.extend(Network(name, vid, rates.get(name, 0)) for name, vid in definitions.networks.items())
    facts.extend(machines.values())
    facts.extend(Handed(name, epoch) for name, epoch in definitions.handed.items())
    if max_routers:
        facts.append(NodeLimits(max_routers))
    taken: dict[bytes, str] = {}
    for port in sorted(view.ports, key=_preference):
        fact = _port(definitions, vifs, port)
        if fact is None or (fact.kind is PortKind.VIF and not admits(port)):
            continue
        if fact.kind is PortKind.VIF and taken.setdefault(port.attached_mac, port.name) != port.name:
            problems.append(f"port {port.name}: has the MAC address of port {taken[port.attached_mac]}: left out")
            continue
        facts.append(fact)
    trunks = frozenset(port.name for port in view.ports if _is_trunk(definitions, port.name))
    return Inventory(tuple(facts), machines, trunks, tuple(problems))


def _port(definitions: Definitions, vifs: Mapping[bytes, tuple[str, int]], port: PortView) -> Port | None:
    if not port.number:
        return None
    definition = definitions.ports.get(port.name)
    if definition is not None:
        kind = PortKind.TRUNK if definition.trunk else PortKind.ACCESS
        capacity = definition.capacity or port.link_speed
        if not definition.trunk:
            return Port(port.name, port.number, kind, attachments=definition.attachments, capacity=capacity)
        return Port(port.name, port.number, kind, alive=port.alive, drained=port.drained, capacity=capacity)
    owner = vifs.get(port.attached_mac)
    if owner is None:
        return None
    return Port(port.name, port.number, PortKind.VIF, machine=owner[0], interface=owner[1])


def _is_trunk(definitions: Definitions, name: str) -> bool:
    definition = definitions.ports.get(name)
    return definition is not None and definition.trunk


def _preference(port: PortView) -> tuple[bool, str]:
    """A fully virtualised Xen machine has two ports for one interface; the emulated one is the second choice."""
    return (port.name.endswith("-emu") or port.name.startswith("tap"), port.name)

"""Why a packet was dropped or handed to a VM, and what each flow on its way decided, in words (pure)."""

from __future__ import annotations

import enum

from xenflow.answers import Step
from xenflow.model import MachineKind, PortKind, Route, address_text, mac_text, prefix_text
from xenflow_app import routing
from xenflow_app.frame import Frame
from xenflow_app.openflow import fields, nxm, text
from xenflow_app.pipeline import Table
from xenflow_app.queries.flows import state_of
from xenflow_app.queries.names import Names, table_name
from xenflow_app.queries.words import onward, prefix, purpose
from xenflow_app.router import Router
from xenflow_app.rules import CheckLarger, Rule
from xenflow_app.walk import Hit, Walk


class Kind(enum.StrEnum):
    """How a packet, or a copy of it, ends."""

    DELIVERED = "delivered"
    """To the one that it is for."""
    SLOW = "slow"
    """To a router's VM, which forwards it, or finds out how to."""
    ANSWERED = "answered"
    """To a router's VM, which tells the sender that it cannot be forwarded."""
    REPLIED = "replied"
    """The switch itself answers, to who asked for a router's MAC address."""
    COPIED = "copied"
    """A copy, because of flooding."""
    LEFT = "left"
    """Out of an access port."""
    DROPPED = "dropped"
    CONTROLLER = "controller"
    """A first packet, for which the controller decides (reactive)."""
    UNKNOWN = "unknown"


def steps(names: Names, walk: Walk) -> list[Step]:
    """Return the flows that a frame met, in words."""
    return [_step(names, hit) for hit in walk.hits]


def _step(names: Names, hit: Hit) -> Step:
    if hit.rule is None:
        return Step(hit.table, table_name(hit.table), "no flow takes the packet", "")
    flow = text.flow(hit.rule.key, hit.rule.value)
    return Step(hit.table, table_name(hit.table), _words(names, hit, hit.rule), flow)


def _words(names: Names, hit: Hit, rule: Rule) -> str:
    words = purpose(names, rule)
    frame = hit.frame
    if hit.table in (Table.FIB, Table.EXACT) and rule.number(fields.REG2) is not None:
        return f"{words}; {rib_words(names, frame, rule)}"
    if hit.table == Table.NEIGHBOR and rule.number(fields.REG2) is not None:
        limit = next((item.size_bytes - 18 for item in rule.actions if isinstance(item, CheckLarger)), 0)
        fits = "fits" if frame.payload_bytes <= limit else "does not fit"
        router = names.router_name(frame.get(fields.REG2))
        return f"{router}: next hop {_hop(names, frame)}: {frame.payload_bytes} of {limit} bytes: {fits}"
    if hit.table == Table.EGRESS and rule.number(fields.REG0) is None:
        return f"nobody with {mac_text(frame.packed(fields.ETH_DST))} is known: flood"
    return words


def rib_words(names: Names, frame: Frame, rule: Rule) -> str:
    """Return what the router's own table says about a destination, and whether the flow says the same."""
    router = names.router(frame.get(fields.REG2))
    if router is None:
        return "the router is not known"
    route = router.rib.lookup(frame.destination)
    if route is None:
        return "RIB: no route"
    said = f"RIB: {prefix_text(route.prefix)}"
    if rule.table == Table.EXACT or rule.key == routing.route_key(router.number, route.prefix):
        return said
    key = routing.route_key(router.number, route.prefix)
    if key in router.flows.desired or key in router.flows.actual:
        return f"{said}, whose flow is {state_of(router.flows, key)}"
    return f"{said}, which has no flow (shed: max_flows = {router.machine.max_flows})"


# -- to the VM -------------------------------------------------------------------------------------------------------


def to_machine(names: Names, walk: Walk, place: int) -> tuple[Kind, str]:
    """Return what it means that the hit at `place` is in MACHINE, and why the packet came there."""
    hit = walk.hits[place - 1]
    frame, rule = hit.frame, hit.rule
    router = names.router_name(frame.get(fields.REG2))
    target = address_text(frame.destination)
    if rule is None:
        return Kind.SLOW, "no flow took the packet"
    if hit.table == Table.LOCAL:
        if rule.priority == 250:
            return Kind.DELIVERED, f"{target} is {router} itself"
        return _local(frame, rule), _special(frame, rule)
    reasons = {
        Table.ONLINK: f"{router} does not know the MAC address of {target} yet: its kernel asks for it",
        Table.NEIGHBOR: f"{router} does not know the MAC address of {_hop(names, frame)} yet: its kernel asks for it",
        Table.ECMP: "the flows of the group of next hops are not installed",
        Table.BUCKET: "the flows of the group of next hops are not installed",
        Table.REWRITE: f"{frame.payload_bytes} bytes are more than the MTU of the interface to {_hop(names, frame)}",
    }
    if hit.table in reasons:
        return Kind.SLOW, reasons[Table(hit.table)]
    return _no_way(names, frame, rule)


def _hop(names: Names, frame: Frame) -> str:
    return names.hop(frame.get(fields.REG2), frame.get(fields.REG3))


def _local(frame: Frame, rule: Rule) -> Kind:
    """Return what becomes of a packet that routers do not just forward."""
    if rule.number(fields.IP_TTL) is not None:
        return Kind.ANSWERED
    packed = frame.destination
    link_local = packed[:1] in (b"\xfe", b"\xff") if len(packed) == 16 else packed[0] >> 4 == 14 if packed else True
    return Kind.DELIVERED if link_local or not frame.is_ip else Kind.SLOW


def _special(frame: Frame, rule: Rule) -> str:
    if rule.number(fields.IP_TTL) is not None:
        return f"its TTL is {frame.get(fields.IP_TTL)}: the kernel answers that time is exceeded"
    if rule.number(fields.IP_PROTO) is not None:
        return f"protocol {frame.get(fields.IP_PROTO)} concerns routers on the way"
    within = prefix(rule, fields.IP_DST, fields.IPV6_DST)
    if within:
        return f"{address_text(frame.destination)} is within {within}, which routers do not forward"
    within = prefix(rule, fields.IP_SRC, fields.IPV6_SRC)
    if within:
        return f"it comes from {address_text(frame.source)}, within {within}, which routers do not forward"
    return "it is not IP"


def _no_way(names: Names, frame: Frame, rule: Rule) -> tuple[Kind, str]:
    """Return why the FIB (or EXACT) leaves a packet to the VM."""
    router = names.router(frame.get(fields.REG2))
    target = address_text(frame.destination)
    if router is None or not router.planned:
        return Kind.SLOW, f"the routes of {names.router_name(frame.get(fields.REG2))} are not known yet"
    route = router.rib.lookup(frame.destination)
    if route is None and router.reported_shed:
        kept = f"client or server keep {router.reported_shed} routes back"
        return Kind.SLOW, f"no route to {target} is known here, but {kept}: its kernel knows them all"
    if route is None:
        return Kind.ANSWERED, f"{router.name} has no route to {target}: its kernel answers so"
    return Kind.SLOW, _no_flow(router, route, rule)


def _no_flow(router: Router, route: Route, rule: Rule) -> str:
    """Return why a route that is known does not forward in the switch."""
    said = prefix_text(route.prefix)
    key = routing.route_key(router.number, route.prefix)
    if rule.table == Table.FIB and rule.key == key:
        if route.hops:
            return f"the route {said} leaves by an interface that is in none of the networks"
        return f"the route {said} is none that a switch can follow (unreachable, prohibit, or otherwise the kernel's)"
    if key in router.flows.desired:
        return f"the flow of the route {said} is {state_of(router.flows, key)}"
    return f"the route {said} has no flow: max_flows = {router.machine.max_flows} is reached"


def replied(names: Names, walk: Walk) -> str:
    """Return what the switch answers to who asked for a MAC address."""
    hit = next(hit for hit in walk.hits if hit.table == Table.ANSWER)
    return "" if hit.rule is None else f"the switch answers: {purpose(names, hit.rule)}"


# -- dropped -----------------------------------------------------------------------------------------------------------


def dropped(names: Names, walk: Walk) -> str:
    """Return why a walk sent nothing."""
    if walk.endless:
        return "the flows lead in a circle"
    if walk.expired:
        return "its TTL ended in the middle of the flows"
    if walk.unknown:
        return f"actions that are not understood: {walk.unknown[0].hex()}"
    hit = walk.hits[-1]
    if hit.rule is None:
        return _nothing(names, hit)
    if walk.sent:
        back = names.port_words(walk.sent[-1].port)
        if hit.table == Table.FLOOD:
            network = names.network(hit.frame.get(fields.REG0))
            return f"nobody else is in {network}: the only port there is {back}, where it came from"
        return f"it would go back to where it came from, {back}"
    if hit.table == Table.ADMISSION:
        return _not_admitted(names, hit.frame, hit.rule)
    if hit.table == Table.LEARN:
        owner = names.who(hit.frame.get(fields.REG0), hit.frame.packed(fields.ETH_SRC))
        return f"{owner} has a vif: frames in its name are not taken from outside"
    if hit.table in (Table.FIB, Table.EXACT):
        return f"{onward(names, hit.rule, hit.frame.get(fields.REG2))}: {rib_words(names, hit.frame, hit.rule)}"
    if hit.table == Table.EXACT or walk.reported:
        return "the controller decides"
    return purpose(names, hit.rule)


def _nothing(names: Names, hit: Hit) -> str:
    """Return why no flow of a table takes a packet."""
    network = names.network(hit.frame.get(fields.REG0))
    port = hit.frame.get(fields.IN_PORT)
    source = names.port_words(port) if port else "a router of this node"
    match hit.table:
        case Table.GATE:
            return f"{source} is not in the tree of {network}: taken from there, a broadcast would arrive twice"
        case Table.FLOOD:
            return f"no port of this node is in {network}"
        case Table.MACHINE:
            return f"the vif of {names.router_name(hit.frame.get(fields.REG2))} is not here"
        case _:
            return f"no flow in table {table_name(hit.table)}: nothing of ours is installed"


def _not_admitted(names: Names, frame: Frame, rule: Rule) -> str:
    """Return why a frame may not enter."""
    number = frame.get(fields.IN_PORT)
    port = names.port(number)
    source = names.port_words(number)
    if rule.priority:
        return f"not admitted: {purpose(names, rule)}{_claim(names, frame, rule)}"
    if port is None:
        return f"not admitted: nothing is known of port {number}"
    if port.kind is PortKind.VIF:
        return f"not admitted: {_foreign(names, frame, number)}"
    tag = "without a tag" if frame.vid is None else f"of VLAN {frame.vid}"
    return f"not admitted: no network is known for frames {tag} at {source}"


def _claim(names: Names, frame: Frame, rule: Rule) -> str:
    if rule.number(fields.ETH_TYPE) == nxm.ETH_ARP and rule.number(fields.IN_PORT) is not None:
        return f" (it claims {address_text(frame.source)} at {mac_text(frame.packed(fields.ETH_SRC))})"
    return ""


def _foreign(names: Names, frame: Frame, number: int) -> str:
    """Return what is wrong with a frame from a vif that no flow admits."""
    port = names.port(number)
    interface = None if port is None else names.interface(port)
    machine = None if port is None else names.node.machine(port.machine)
    if port is None or interface is None or machine is None:
        return f"nobody that is known is behind {names.port_words(number)}"
    mac = frame.packed(fields.ETH_SRC)
    if mac != interface.mac:
        return f"{mac_text(mac)} is not the MAC address of {machine.name}, which is {mac_text(interface.mac)}"
    if machine.kind is MachineKind.HOST and frame.is_ip and frame.source not in interface.own:
        own = ", ".join(map(address_text, interface.own)) or "none"
        return f"{address_text(frame.source)} is not an address of {machine.name} (its own: {own})"
    return f"no flow admits such frames from {names.port_words(number)}"

"""Whether a fact from the wire can be at all: lengths, ranges, host bits.

Place in the flow: every `Inbox` asks before it takes a fact in, so that nothing behind it meets an address of three
bytes or a prefix of /200. Whether the sender may say it is another question, and another module's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from xenflow.bandwidth import MAX_CLASSES, MAX_RATE, PortQueues, TrafficClass, malformed_class, malformed_queues
from xenflow.model import (
    Address,
    Alarm,
    Bridge,
    Fact,
    Handed,
    Hop,
    Interface,
    Link,
    Machine,
    Neighbor,
    Network,
    NodeLimits,
    Port,
    Route,
    RouteKind,
    ShedRoutes,
)
from xenflow.resources import MAX_REASON, Granted, faults, malformed_granted

MAX_HOPS: Final = 256
"""Next hops of one route; what FRR and BIRD write at the most."""
MAX_NAME: Final = 63
_MAX_INDEX: Final = 0xFFFFFFFF
_HOST_MASKS: Final = {
    5: tuple((1 << (32 - length)) - 1 for length in range(33)),
    17: tuple((1 << (128 - length)) - 1 for length in range(129)),
}


def malformed(fact: Fact) -> str:
    """Return why `fact` cannot be, empty if it can."""
    return _CHECKS[fact.KIND](fact)


def malformed_prefix(prefix: bytes) -> str:
    """Return why `prefix` (packed address and length) is no prefix, empty if it is one."""
    masks = _HOST_MASKS.get(len(prefix))
    if masks is None:
        return "a prefix has 5 or 17 bytes"
    if prefix[-1] >= len(masks):
        return "prefix length out of range"
    if int.from_bytes(prefix[:-1], "big") & masks[prefix[-1]]:
        return "host bits set in a prefix"
    return ""


def malformed_route(route: Route, *, hops_known: bool = False) -> str:
    """Return why `route` cannot be, empty if it can; next hops that are known to be good are not looked at again."""
    if problem := malformed_prefix(route.prefix):
        return problem
    if (route.kind is RouteKind.UNICAST) != bool(route.hops):
        return "a unicast route has next hops, another kind has none"
    return "" if hops_known else _hops(route.hops)


def _route(fact: Fact) -> str:
    return malformed_route(cast(Route, fact))


def _hops(hops: tuple[Hop, ...]) -> str:
    if len(hops) > MAX_HOPS:
        return f"more than {MAX_HOPS} next hops"
    for hop in hops:
        if not 0 <= hop.link <= _MAX_INDEX or len(hop.gateway) not in (0, 4, 16) or not 1 <= hop.weight <= 65536:
            return "a next hop with a link, gateway or weight out of range"
    return ""


def _link(fact: Fact) -> str:
    link = cast(Link, fact)
    if not 0 <= link.index <= _MAX_INDEX or not 0 <= link.mtu <= _MAX_INDEX:
        return "link index or MTU out of range"
    if len(link.mac) != 6:
        return "a MAC address has 6 bytes"
    return _name(link.name)


def _address(fact: Fact) -> str:
    address = cast(Address, fact)
    masks = _HOST_MASKS.get(len(address.address))
    if not 0 <= address.link <= _MAX_INDEX or masks is None or address.address[-1] >= len(masks):
        return "an interface address out of range"
    return ""


def _neighbor(fact: Fact) -> str:
    neighbor = cast(Neighbor, fact)
    if not 0 <= neighbor.link <= _MAX_INDEX or len(neighbor.address) not in (4, 16) or len(neighbor.mac) != 6:
        return "a neighbor with a link, address or MAC address out of range"
    return ""


def _shed(fact: Fact) -> str:
    return "" if cast(ShedRoutes, fact).count >= 0 else "a negative count"


def _network(fact: Fact) -> str:
    network = cast(Network, fact)
    if not 0 <= network.rate <= MAX_RATE:
        return "a rate out of range"
    return _name(network.name) or ("" if 1 <= network.vid <= 4094 else "a VLAN id is 1 to 4094")


def _machine(fact: Fact) -> str:
    machine = cast(Machine, fact)
    if machine.max_flows < 0:
        return "a negative cap"
    if not 0 <= machine.rate <= MAX_RATE or not 0 <= machine.ceiling <= MAX_RATE:
        return "a rate out of range"
    if len(machine.classes) > MAX_CLASSES:
        return f"more than {MAX_CLASSES} classes"
    if wrong := next(faults(machine.resources), None):
        return f"{wrong[0]} {wrong[1]}"
    problems = (_name(machine.name), *map(_interface, machine.interfaces), *map(_class, machine.classes))
    return next(filter(None, problems), "")


def _class(item: TrafficClass) -> str:
    prefixes = (prefix for match in item.matches for prefix in (match.source, match.destination) if prefix)
    return _name(item.name) or malformed_class(item) or next(filter(None, map(malformed_prefix, prefixes)), "")


def _interface(interface: Interface) -> str:
    if not 0 <= interface.capacity <= MAX_RATE:
        return "a capacity out of range"
    if not 1 <= interface.number <= 65535 or len(interface.mac) != 6:
        return "an interface with a number or MAC address out of range"
    if any(len(address) not in (4, 16) for address in interface.addresses):
        return "an address has 4 or 16 bytes"
    return _name(interface.network)


def _port(fact: Fact) -> str:
    port = cast(Port, fact)
    if not 0 <= port.number <= 65535 or not 0 <= port.interface <= 65535:
        return "port or interface number out of range"
    if any(not 0 <= attachment.vlan <= 4094 for attachment in port.attachments):
        return "a VLAN id is 0 (untagged) to 4094"
    return _name(port.name) or ("" if 0 <= port.capacity <= MAX_RATE else "a capacity out of range")


def _bridge(fact: Fact) -> str:
    bridge = cast(Bridge, fact)
    return _name(bridge.name) or ("" if 0 <= bridge.dpid < 1 << 64 else "a dpid has 64 bits")


def _handed(fact: Fact) -> str:
    handed = cast(Handed, fact)
    return _name(handed.name) or ("" if 0 <= handed.epoch < 1 << 63 else "an epoch has 63 bits")


def _limits(fact: Fact) -> str:
    return "" if 1 <= cast(NodeLimits, fact).max_routers < 1 << 31 else "a limit is 1 to 2^31 - 1"


def _granted(fact: Fact) -> str:
    granted = cast(Granted, fact)
    return _name(granted.name) or malformed_granted(granted)


def _alarm(fact: Fact) -> str:
    return "" if 1 <= len(cast(Alarm, fact).text) <= MAX_REASON else f"an alarm has 1 to {MAX_REASON} characters"


def _queues(fact: Fact) -> str:
    queues = cast(PortQueues, fact)
    return _name(queues.port) or malformed_queues(queues)


def _name(text: str) -> str:
    if not 1 <= len(text) <= MAX_NAME or not text.isprintable():
        return f"a name is 1 to {MAX_NAME} printable characters"
    return ""


_CHECKS: Final[dict[int, Callable[[Fact], str]]] = {
    Link.KIND: _link,
    Address.KIND: _address,
    Route.KIND: _route,
    Neighbor.KIND: _neighbor,
    ShedRoutes.KIND: _shed,
    Network.KIND: _network,
    Machine.KIND: _machine,
    Port.KIND: _port,
    Bridge.KIND: _bridge,
    Handed.KIND: _handed,
    NodeLimits.KIND: _limits,
    Granted.KIND: _granted,
    Alarm.KIND: _alarm,
    PortQueues.KIND: _queues,
}

"""What each flow of the pipeline is for, in an operator's words (pure).

One function for each table; together they are the pipeline (xenflow_app/pipeline.py) read backwards.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from xenflow.bandwidth import CONTROL_CLASS
from xenflow.model import mac_text
from xenflow_app import pipeline, routing
from xenflow_app.openflow import fields, nxm
from xenflow_app.pipeline import Table
from xenflow_app.queries.names import Names
from xenflow_app.rules import CheckLarger, Multipath, Output, Rule, SetMac, SetPcp, SetQueue, SetVid, StripVlan

_ADMISSION_STATIC = {
    65000: "frames with the announcement's MAC address: dropped",
    64900: "frames from a group MAC address: dropped",
    64500: "frames to a MAC address that stays on its link: dropped",
    0: "everything else: dropped",
}
_FAMILIES = {nxm.ETH_ARP: "ARP", nxm.ETH_IP: "IPv4", nxm.ETH_IPV6: "IPv6"}
_ND = {133: "router solicitations", 134: "router advertisements", 135: "neighbor solicitations"}
_ND |= {136: "neighbor advertisements", 137: "redirects", 143: "multicast listener reports"}
_SOURCES, _DESTINATIONS = (fields.TCP_SRC, fields.UDP_SRC), (fields.TCP_DST, fields.UDP_DST)
_PROTOCOLS = {pipeline.IGMP: "IGMP", pipeline.RSVP: "RSVP", nxm.ICMP6: "MLD", nxm.UDP: "UDP"}


def purpose(names: Names, rule: Rule) -> str:
    """Return what a flow is for."""
    try:
        return _TABLES[Table(rule.table)](names, rule)
    except (KeyError, ValueError):
        return "not a flow of this pipeline"


def prefix(rule: Rule, *headers: int) -> str:
    """Return the addresses that a flow matches in the first of the fields that it looks at; empty for none."""
    for header in headers:
        if header in rule.matched:
            value, mask = rule.matched[header]
            width = header & 0xFF
            address = ipaddress.ip_address(value.to_bytes(width, "big"))
            length = mask.bit_count()
            return str(address) if length == width * 8 else f"{address}/{length}"
    return ""


def _admission(names: Names, rule: Rule) -> str:
    port = rule.number(fields.IN_PORT)
    if port is None:
        return _ADMISSION_STATIC[rule.priority]
    source = names.port_words(port)
    if rule.priority == 64600:
        return f"link probes from {source}: to the controller"
    if rule.priority == 60000:
        kind = "frames with two tags" if fields.ETH_TYPE in rule.matched else "frames with a tag of their own"
        return f"{kind} from {source}: dropped"
    frames = _frames(rule)
    if not rule.actions:
        return f"other {frames} from {source}: dropped, as they could claim foreign addresses"
    vid = rule.loads(pipeline.NETWORK)
    return f"{frames} from {source}: into {names.network(vid or 0)}"


def _frames(rule: Rule) -> str:
    """Return which of a port's frames an admission flow is about."""
    family = rule.number(fields.ETH_TYPE)
    tci = rule.matched.get(fields.VLAN_TCI)
    if family is None:
        tagged = "" if tci is None else f" with tag {tci[0] & 0xFFF}" if tci[0] else " without a tag"
        return f"frames{tagged}"
    kind = rule.number(fields.ICMP6_TYPE)
    name = _FAMILIES[family] if kind is None else _ND.get(kind, f"ICMPv6 type {kind}")
    claimed = prefix(rule, fields.ARP_SPA, fields.IP_SRC, fields.ND_TARGET, fields.IPV6_SRC)
    option = rule.packed(fields.ND_SLL) or rule.packed(fields.ND_TLL)
    if claimed and option and not any(option):
        claimed += " (without their MAC address)"
    protocol = rule.number(fields.IP_PROTO)
    if claimed == "0.0.0.0" and protocol is not None:
        return "DHCP requests"
    return f"{name} as {claimed}" if claimed else name


def _learn(names: Names, rule: Rule) -> str:
    vid, port = rule.number(fields.REG0), rule.number(fields.IN_PORT)
    if vid is None:
        return "an unknown source: report it, and go on"
    mac = rule.packed(fields.ETH_SRC)
    if port is None:
        return f"{names.who(vid, mac)} in {names.network(vid)} has a vif: frames in its name from outside are dropped"
    return f"{mac_text(mac)} is known behind {names.port_words(port)} in {names.network(vid)}"


def _learn_limit(_names: Names, rule: Rule) -> str:
    return "reported a moment ago: stay silent" if rule.priority else "report the source to the controller"


def _request(_names: Names, rule: Rule) -> str:
    if not rule.priority:
        return "everything else: go on"
    return f"{_questions(rule)}: does the switch answer it?"


def _answer(names: Names, rule: Rule) -> str:
    vid = rule.number(fields.REG0)
    if vid is None:
        if not rule.priority:
            return "an address that no router of ours has: go on"
        how = "from no address" if fields.IPV6_SRC in rule.matched else "to a group without the MAC address of who asks"
        return f"{_questions(rule)} {how}: go on, nobody could be told"
    address = prefix(rule, fields.ARP_TPA, fields.ND_TARGET)
    if fields.ETH_SRC in rule.matched:
        who = names.who(vid, rule.packed(fields.ETH_SRC))
        return f"what {who} itself asks about {address} in {names.network(vid)}: go on"
    mac = next((item.mac for item in rule.actions if isinstance(item, SetMac)), b"")
    return f"who asks for {address} in {names.network(vid)} is told {names.who(vid, mac)}"


def _questions(rule: Rule) -> str:
    return "neighbor solicitations" if fields.ICMP6_TYPE in rule.matched else "ARP requests"


def _advertise(_names: Names, _rule: Rule) -> str:
    return "an advertisement that was a solicitation: with the router's MAC address in its option"


def _return(names: Names, rule: Rule) -> str:
    port = rule.number(fields.IN_PORT)
    if port is None:
        return "an answer: back out of the port that the question came from"
    tag = next((item.vid for item in rule.actions if isinstance(item, SetVid)), 0)
    return f"an answer: back out of {names.port_words(port)} (tag {tag})"


def _link(names: Names, rule: Rule) -> str:
    vid = rule.number(fields.REG0)
    if vid is None:
        return "everything else: switch by MAC address, group addresses flood"
    if rule.packed(fields.ETH_SRC):
        return f"{names.who(vid, rule.packed(fields.ETH_SRC))} moves: its frames hide where they come from"
    router = rule.loads(pipeline.ROUTER) or 0
    link = names.link(router, rule.loads(pipeline.INTERFACE) or 0)
    return f"frames to {names.router_name(router)}, {link}: route"


def _local(names: Names, rule: Rule) -> str:
    owner = rule.number(fields.REG2)
    if owner is not None:
        address = prefix(rule, fields.IP_DST, fields.IPV6_DST)
        return f"{address} is {names.router_name(owner)} itself: to its VM"
    family = _FAMILIES.get(rule.number(fields.ETH_TYPE) or 0, "anything that is not IP")
    if rule.priority != 300:
        return f"{family}: forward by routes" if rule.priority else f"{family}: to the VM"
    ttl, protocol = rule.number(fields.IP_TTL), rule.number(fields.IP_PROTO)
    if ttl is not None:
        return f"{family} with TTL {ttl}: to the VM, which answers that time is exceeded"
    if protocol is not None:
        return f"{_PROTOCOLS.get(protocol, f'protocol {protocol}')} in {family}: to the VM, whatever the destination"
    target = prefix(rule, fields.IP_DST, fields.IPV6_DST)
    if target:
        return f"{family} to {target}: to the VM, routers do not forward it"
    return f"{family} from {prefix(rule, fields.IP_SRC, fields.IPV6_SRC)}: to the VM, routers do not forward it"


def _machine(names: Names, rule: Rule) -> str:
    router = rule.number(fields.REG2) or 0
    link = names.link(router, rule.number(fields.REG1) or 0)
    return f"to the VM of {names.router_name(router)} on {link}: out of {_outputs(names, rule)}"


def _exact(names: Names, rule: Rule) -> str:
    router = rule.number(fields.REG2)
    if router is None:
        return "a first packet: ask the controller"
    if fields.IN_PORT not in rule.matched:
        return _wildcard(names, router)
    source, target = prefix(rule, fields.IP_SRC, fields.IPV6_SRC), prefix(rule, fields.IP_DST, fields.IPV6_DST)
    way = onward(names, rule, router)
    return f"{names.router_name(router)}: {source} to {target} from {names.port_words(_port(rule))}: {way}"


def _port(rule: Rule) -> int:
    return rule.number(fields.IN_PORT) or 0


def _wildcard(names: Names, router: int) -> str:
    return f"{names.router_name(router)}: what has no flow of its own: to the VM"


def _fib(names: Names, rule: Rule) -> str:
    router = rule.number(fields.REG2)
    if router is None:
        return "a router without routes: to the VM"
    if rule.priority < routing.ROUTE_PRIORITY:
        return _wildcard(names, router)
    target = prefix(rule, fields.IP_DST, fields.IPV6_DST)
    if not target:
        target = "::/0" if rule.number(fields.ETH_TYPE) == nxm.ETH_IPV6 else "0.0.0.0/0"
    return f"{names.router_name(router)}: {target}: {onward(names, rule, router)}"


def onward(names: Names, rule: Rule, router: int) -> str:
    """Return what a route's flow does with a packet."""
    hop = rule.loads(pipeline.HOP)
    if hop is not None:
        return f"via {names.hop(router, hop)}"
    link = rule.loads(pipeline.LEAVES_BY)
    if link is not None:
        return f"directly connected to {names.link(router, link)}"
    group = rule.loads(pipeline.GROUP)
    if group is not None:
        return f"over several next hops (group {group:#x})"
    return "to the VM (slow path)" if Table.MACHINE in rule.goes_to() else "dropped (blackhole)"


def _onlink(names: Names, rule: Rule) -> str:
    router = rule.number(fields.REG2)
    if router is None:
        return "a destination whose MAC address is not known: to the VM, which asks for it"
    link = names.link(router, rule.number(fields.REG4) or 0)
    return f"{names.router_name(router)}: {prefix(rule, fields.IP_DST, fields.IPV6_DST)} is a neighbor on {link}"


def _ecmp(names: Names, rule: Rule) -> str:
    router = rule.number(fields.REG2)
    if router is None:
        return "an unknown group: to the VM"
    buckets = next((item.links for item in rule.actions if isinstance(item, Multipath)), 0)
    group = rule.number(fields.REG6) or 0
    return f"{names.router_name(router)}: group {group:#x}: a hash of the addresses picks one of {buckets} buckets"


def _bucket(names: Names, rule: Rule) -> str:
    router = rule.number(fields.REG2)
    if router is None:
        return "an unknown bucket: to the VM"
    group, bucket = rule.number(fields.REG6) or 0, rule.number(fields.REG3) or 0
    hop = names.hop(router, rule.loads(pipeline.HOP) or 0)
    return f"{names.router_name(router)}: group {group:#x}, bucket {bucket}: via {hop}"


def _neighbor(names: Names, rule: Rule) -> str:
    router = rule.number(fields.REG2)
    if router is None:
        return "a next hop whose MAC address is not known: to the VM, which asks for it"
    size = next((item.size_bytes - 18 for item in rule.actions if isinstance(item, CheckLarger)), 0)
    hop = names.hop(router, rule.number(fields.REG3) or 0)
    return f"{names.router_name(router)}: {hop}: does it fit into {size} bytes?"


def _rewrite(names: Names, rule: Rule) -> str:
    router = rule.number(fields.REG2)
    if router is None:
        return "larger than the MTU: to the VM, which fragments it or says so"
    vid = rule.loads(pipeline.NETWORK) or 0
    mac = next((item.mac for item in rule.actions if isinstance(item, SetMac) and item.header == fields.ETH_DST), b"")
    hop = names.hop(router, rule.number(fields.REG3) or 0)
    return f"{names.router_name(router)}: {hop}: TTL - 1, to {names.who(vid, mac)} in {names.network(vid)}"


def _class(names: Names, rule: Rule) -> str:
    number = next((item.pcp for item in rule.actions if isinstance(item, SetPcp)), 0)
    mac = rule.packed(fields.ETH_SRC)
    if number == CONTROL_CLASS and not mac:
        return f"{_traffic(rule)} from an edge: control traffic, priority {number}"
    if not mac:
        return "all else: the default class, priority 0"
    return f"{names.who(rule.number(fields.REG0) or 0, mac)}: {_traffic(rule)}: class {number}"


def _traffic(rule: Rule) -> str:
    """Return which packets a flow of a class is about."""
    family, protocol = rule.number(fields.ETH_TYPE) or 0, rule.number(fields.IP_PROTO)
    words = [_FAMILIES.get(family, "frames without an EtherType")]
    kind, tos = rule.number(fields.ICMP6_TYPE), rule.number(fields.IP_TOS)
    if kind is not None:
        words = [_ND.get(kind, "MLD")]
    elif protocol is not None:
        words.append(f"protocol {protocol}")
    if tos is not None:
        words.append(f"DSCP {tos >> 2}")
    for name, family_fields in (("from", (fields.IP_SRC, fields.IPV6_SRC)), ("to", (fields.IP_DST, fields.IPV6_DST))):
        if found := prefix(rule, *family_fields):
            words.append(f"{name} {found}")
    for name, headers in (("source", _SOURCES), ("destination", _DESTINATIONS)):
        for value, mask in (rule.matched[header] for header in headers if header in rule.matched):
            last = value + 0xFFFF - mask
            words.append(f"{name} port {value}" if last == value else f"{name} ports {value}-{last}")
    return " ".join(words)


def _queue(names: Names, rule: Rule) -> str:
    queue = next((item.queue for item in rule.actions if isinstance(item, SetQueue)), None)
    if queue is None:
        return "whoever has not hired anything: no queue"
    vid, mac = rule.number(fields.REG0) or 0, rule.packed(fields.ETH_SRC)
    tci = rule.matched.get(fields.VLAN_TCI)
    which = "" if tci is None else f" of priority {tci[0] >> 13}"
    who = f"{names.who(vid, mac)} in {names.network(vid)}" if mac else f"anyone in {names.network(vid)}"
    return f"frames{which} from {who}: queue {queue}"


def _egress(names: Names, rule: Rule) -> str:
    vid = rule.number(fields.REG0)
    if vid is None and rule.priority:
        return "an answer of this switch: back to who asked"
    if vid is None:
        return "a MAC address that is not known, or a group's: flood"
    who = names.who(vid, rule.packed(fields.ETH_DST))
    return f"{who} in {names.network(vid)}: out of {_outputs(names, rule)}"


def _gate(names: Names, rule: Rule) -> str:
    port = _port(rule)
    source = names.port_words(port) if port else "a router of this node"
    return f"what came from {source} may flood {names.network(rule.number(fields.REG0) or 0)}"


def _flood(names: Names, rule: Rule) -> str:
    return f"{names.network(rule.number(fields.REG0) or 0)}: copies out of {_outputs(names, rule)}"


def _outputs(names: Names, rule: Rule) -> str:
    """Return the ports that a flow sends to, with the tag that frames leave an access port with."""
    out, tag = [], ""
    for item in rule.actions:
        if isinstance(item, SetVid):
            tag = f" (tag {item.vid})"
        elif isinstance(item, StripVlan):
            tag = ""
        elif isinstance(item, Output):
            out.append(names.port_words(item.port) + tag)
    return ", ".join(out) or "no port"


_TABLES: dict[Table, Callable[[Names, Rule], str]] = {
    Table.ADMISSION: _admission,
    Table.LEARN: _learn,
    Table.LEARN_LIMIT: _learn_limit,
    Table.REQUEST: _request,
    Table.ANSWER: _answer,
    Table.CLASS: _class,
    Table.LINK: _link,
    Table.LOCAL: _local,
    Table.MACHINE: _machine,
    Table.EXACT: _exact,
    Table.FIB: _fib,
    Table.ONLINK: _onlink,
    Table.ECMP: _ecmp,
    Table.BUCKET: _bucket,
    Table.NEIGHBOR: _neighbor,
    Table.REWRITE: _rewrite,
    Table.ADVERTISE: _advertise,
    Table.RETURN: _return,
    Table.QUEUE: _queue,
    Table.EGRESS: _egress,
    Table.GATE: _gate,
    Table.FLOOD: _flood,
}

"""The model that traces use does with packets what a real Open vSwitch does: `ofproto/trace` over the same flows.

The flows are those that the controller plans for a node with two routers, hosts, an access port, two parallel trunks.
Packets differ in every respect that the pipeline looks at; what leaves, by which port and with which headers, must be
the same. Where a hash decides, the switch must do one of the things that the model offers.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.private_ovs import PrivateSwitch, SwitchClient, private_switch
from tests.unit.app.network import World, mac
from xenflow.model import (
    Address,
    Hop,
    Interface,
    Link,
    Machine,
    MachineKind,
    Neighbor,
    Port,
    PortKind,
    Route,
    RouteKind,
    link_local_of,
    pack_mac,
    pack_prefix,
)
from xenflow_app import frame
from xenflow_app.frame import Frame
from xenflow_app.openflow import fields, messages, nxm, text
from xenflow_app.openflow.messages import Command
from xenflow_app.walk import Tables, Walk, explore

pytestmark = [pytest.mark.root, pytest.mark.ovs]

TRUNK, PARALLEL, HOST, ACCESS = 11, 12, 1, 30
R1, R2 = 101, 111
Seen = tuple[int, int | None, bytes, bytes, int, tuple[int, ...]]
"""Port, VLAN id, Ethernet source and destination, TTL of what left; and what it says of neighbors."""
ARP = {"sip": fields.ARP_SPA, "tip": fields.ARP_TPA, "op": fields.ARP_OP, "sha": fields.ARP_SHA, "tha": fields.ARP_THA}
ND = {"target": fields.ND_TARGET, "tll": fields.ND_TLL, "nd_reserved": fields.ND_RESERVED}
ND |= {"nd_options_type": fields.ND_OPTIONS_TYPE}


def packed(address: str) -> bytes:
    return ip_address(address).packed


def plan() -> World:
    """Node a: r1 (lan, core), r2 (core, lan2 with a small MTU), host h1 in lan, an access port; node b with h2."""
    world = World("ab", (("a", TRUNK, "b", TRUNK), ("a", PARALLEL, "b", PARALLEL)))
    for name, vid in (("lan", 10), ("core", 20), ("lan2", 30)):
        world.network(name, vid)
    r1 = world.router("a", "r1", {"lan": "10.0.1.1/24", "core": "10.0.9.1/24"}, R1)
    r2 = world.router("a", "r2", {"core": "10.0.9.2/24", "lan2": "10.0.2.1/24"}, R2)
    r2.put(Link(2, "eth2", mac(R2 + 1), 1400, True))
    for address in ("2001:db8:1::1/64", f"{ip_address(link_local_of(mac(R1)))}/64"):
        r1.put(Address(1, packed(address.split("/")[0]) + b"\x40"))
    for outbox, link, address, number in (
        (r1, 1, "10.0.1.10", HOST), (r1, 1, "2001:db8:1::10", HOST), (r1, 1, "10.0.1.11", 2),
        (r1, 2, "10.0.9.2", R2), (r1, 2, "fe80::2", R2),
        (r2, 1, "10.0.9.1", R1 + 1), (r2, 2, "10.0.2.7", 7), (r2, 2, "2001:db8:2::7", 7),
    ):  # fmt: skip
        outbox.put(Neighbor(link, packed(address), mac(number)))
    for prefix, *hops in (
        ("10.0.1.0/24", Hop(1)), ("10.0.9.0/24", Hop(2)), ("10.0.2.0/24", Hop(2, packed("10.0.9.2"))),
        ("10.0.2.128/25", Hop(2, packed("10.0.9.99"))), ("2001:db8:1::/64", Hop(1)),
        ("2001:db8:2::/48", Hop(2, packed("fe80::2"))),
        ("10.7.0.0/16", Hop(1, packed("10.0.1.11")), Hop(2, packed("10.0.9.2"))),
    ):  # fmt: skip
        r1.put(Route(pack_prefix(prefix), RouteKind.UNICAST, tuple(hops)))
    r1.put(Route(pack_prefix("10.6.0.0/16"), RouteKind.UNICAST, (Hop(2, packed("10.0.9.2")),)))  # r2 sends it back
    r1.put(Route(pack_prefix("10.8.0.0/16"), RouteKind.BLACKHOLE))
    r1.put(Route(pack_prefix("10.9.0.0/16"), RouteKind.SLOW))
    for prefix, hop in (
        ("10.0.2.0/24", Hop(2)),
        ("2001:db8:2::/64", Hop(2)),
        ("10.7.0.0/16", Hop(2, packed("10.0.2.7"))),
        ("0.0.0.0/0", Hop(1, packed("10.0.9.1"))),
    ):
        r2.put(Route(pack_prefix(prefix), RouteKind.UNICAST, (hop,)))
    addresses = (packed("10.0.1.10"), packed("2001:db8:1::10"))
    world.servers["a"].node.put(Machine("h1", MachineKind.HOST, (Interface(1, "lan", mac(HOST), addresses),)))
    world.servers["a"].node.put(Port("h1", HOST, PortKind.VIF, "h1", 1))
    world.host("b", "h2", "lan", packed("10.0.1.11"), 2)
    world.host("b", "h7", "lan2", packed("10.0.2.7"), 7)
    world.access("a", ACCESS, {0: "lan2", 5: "core"})
    world.start()
    return world


@dataclass
class Real:
    """The same flows in a real switch; `ports` maps the datapath's port numbers to OpenFlow's."""

    switch: PrivateSwitch
    tables: Tables
    ports: dict[int, int]

    def trace(self, packet: Frame, port: int) -> list[Seen]:
        """Return what the switch would send."""
        entries = b"".join(
            header.to_bytes(4, "big") + number.to_bytes(header & 0xFF, "big")
            for header, number in packet.put(fields.IN_PORT, port).fields.items()
        )
        flow = text.match(entries)
        flow = flow.replace("icmp_type", "icmpv6_type") if flow.startswith("icmp6") else flow
        said = self.switch.run("ovs-appctl", "ofproto/trace", "br0", flow)
        (line,) = re.findall(r"^Datapath actions: (.*)$", said, re.MULTILINE)
        sent: list[Seen] = []
        _execute(line, packet, self.ports, sent)
        return sorted(sent, key=repr)


@pytest.fixture(scope="module")
def real() -> Iterator[Real]:
    flows = dict(plan().servers["a"].switch.flows)
    with private_switch(Path(tempfile.mkdtemp(prefix="xf"))) as switch:
        for number in (TRUNK, PARALLEL, HOST, ACCESS, R1, R1 + 1, R2, R2 + 1):
            switch.add_port(f"p{number}", number)
        client = SwitchClient(switch)
        client.send(b"".join(messages.flow_mod(Command.ADD, key, value) for key, value in flows.items()))
        client.barrier()
        assert {flow.key: flow.value for flow in client.dump()} == flows
        client.close()
        shown = re.findall(r"p\d+ (\d+)/(\d+):", switch.run("ovs-appctl", "dpif/show"))
        yield Real(switch, Tables(flows), {int(datapath): int(openflow) for openflow, datapath in shown})


def _execute(line: str, packet: Frame, ports: dict[int, int], sent: list[Seen]) -> Frame:
    """Do the datapath's actions."""
    for action in _parts(line):
        name, _, rest = action.partition("(")
        if action.isdigit():
            sent.append(_seen(ports[int(action)], packet))
        elif name == "push_vlan":
            packet = frame.tagged(packet, int(_value(rest, "vid")))
        elif name == "pop_vlan":
            packet = packet.put(fields.VLAN_TCI, 0)
        elif name == "set":
            packet = _set(rest, packet)
        elif name == "check_pkt_len":
            size, larger, fits = _parts(rest[:-1])
            chosen = larger if packet.size_bytes > int(size.removeprefix("size=")) else fits
            packet = _execute(chosen[3:-1], packet, ports, sent)
        else:
            assert name in ("drop", "userspace"), action
    return packet


SETS = {
    "eth": {"src": fields.ETH_SRC, "dst": fields.ETH_DST},
    "ipv4": {"ttl": fields.IP_TTL},
    "ipv6": {"hlimit": fields.IP_TTL, "src": fields.IPV6_SRC, "dst": fields.IPV6_DST},
    "icmpv6": {"type": fields.ICMP6_TYPE},
    "arp": ARP,
    "nd": {"target": fields.ND_TARGET, "tll": fields.ND_TLL},
    "nd_ext": {"nd_reserved": fields.ND_RESERVED, "nd_options_type": fields.ND_OPTIONS_TYPE},
}


def _set(rest: str, packet: Frame) -> Frame:
    kind, _, rest = rest.partition("(")
    for name, header in SETS[kind].items():
        if re.search(rf"\b{name}=", rest):
            packet = packet.put(header, _number(_value(rest, name)))
    return packet


def _number(text: str) -> int:
    """Return a MAC address, an IP address, or a number, as a number."""
    if re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", text):
        return int.from_bytes(pack_mac(text), "big")
    return int(ip_address(text)) if "." in text or ":" in text else int(text, 0)


def _value(rest: str, name: str) -> str:
    (found,) = re.findall(rf"\b{name}=([^,/)]+)", rest)
    return str(found)


def _parts(line: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth = [""], 0
    for char in line:
        depth += (char == "(") - (char == ")")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _seen(port: int, packet: Frame) -> Seen:
    macs = packet.packed(fields.ETH_SRC), packet.packed(fields.ETH_DST)
    says: tuple[int, ...] = ()
    if packet.get(fields.ETH_TYPE) == nxm.ETH_ARP:
        says = tuple(packet.get(header) for header in ARP.values())
    elif packet.get(fields.ICMP6_TYPE) in (135, 136):
        kinds = (fields.ICMP6_TYPE, fields.IPV6_SRC, fields.IPV6_DST, *ND.values())
        says = tuple(packet.get(header) for header in kinds)
    return (port, packet.vid, *macs, packet.get(fields.IP_TTL), says)


def model(walk: Walk) -> list[Seen]:
    return sorted((_seen(item.port, item.frame) for item in walk.outputs), key=repr)


def check(real: Real, packet: Frame, port: int) -> list[Seen]:
    """Compare; return what left."""
    offered = [model(walk) for walk in explore(real.tables, packet, port)]
    found = real.trace(packet, port)
    assert found in offered, f"from port {port}: {packet}"
    return found


V4 = ("10.0.1.10", "10.0.1.11", "10.0.1.1", "10.0.9.2", "10.0.9.77", "10.0.2.7", "10.0.2.9", "10.0.2.200", "10.7.1.2",
      "10.8.0.1", "10.9.0.1", "10.66.0.1", "10.0.1.255", "224.0.0.5", "127.0.0.1", "255.255.255.255")  # fmt: skip
V6 = ("2001:db8:1::10", "2001:db8:1::1", "2001:db8:2::7", "2001:db8:2::9", "2001:db8:3::1", "fe80::2", "ff02::5", "::1")


def test_packets_of_a_host_to_its_router(real: Real) -> None:
    counted = 0
    for to in V4 + V6:
        source = packed("10.0.1.10" if "." in to else "2001:db8:1::10")
        for ttl, size, protocol in ((64, 84, -1), (1, 84, -1), (0, 84, 6), (2, 1401, 17), (64, 1501, 17), (64, 84, 2)):
            packet = frame.ip((mac(HOST), mac(R1)), (source, packed(to)), ttl, size, protocol)
            counted += bool(check(real, packet, HOST))
    assert counted > 100


def test_every_mac_in_every_network_from_every_port(real: Real) -> None:
    group = [frame.BROADCAST, bytes.fromhex("01005e000005"), bytes.fromhex("333300000001")]
    macs = [mac(number) for number in (HOST, 2, 7, R1, R1 + 1, R2, R2 + 1, 999)] + group
    ways = [(HOST, 0), (R1, 0), (R2 + 1, 0), (ACCESS, 0), (ACCESS, 5), (ACCESS, 6), (HOST, 10)]
    ways += [(trunk, vid) for trunk in (TRUNK, PARALLEL) for vid in (0, 10, 20, 30, 40)]
    left = {port: 0 for port, _ in ways}
    for (port, vid), destination in itertools.product(ways, macs):
        sender = mac(port) if port in (HOST, R1, R2 + 1) else mac(500)
        packet = frame.ip((sender, destination), (packed("10.0.1.10"), packed("10.0.2.7")), 64, 84)
        left[port] += bool(check(real, frame.tagged(packet, vid) if vid else packet, port))
    assert all(left.values())


def test_what_is_refused(real: Real) -> None:
    ends = (packed("10.0.1.10"), packed("10.0.1.11"))
    good = frame.ip((mac(HOST), mac(2)), ends, 64, 84)
    assert check(real, good, HOST)
    for packet, port in (
        (good.put(fields.ETH_SRC, 0x020000000099), HOST),
        (good.put(fields.IP_SRC, 0x0A000163), HOST),
        (frame.tagged(good, 10), HOST),
        (frame.tagged(good, 20), HOST),
        (good, 77),
        (good.put(fields.ETH_DST, 0xAAAAAAAAAAAA), HOST),
        (good.put(fields.ETH_SRC, 0xAAAAAAAAAAAA), HOST),
        (good.put(fields.ETH_DST, 0x0180C2000000), HOST),
        (good.put(fields.ETH_SRC, 0x010000000001), TRUNK),
        (good.put(fields.ETH_SRC, int.from_bytes(mac(R2 + 1), "big")), ACCESS),
        (frame.arp_request(mac(HOST), (packed("10.0.1.1"), ends[1])), HOST),
    ):
        assert not check(real, packet, port), packet


def test_arp_and_neighbor_discovery(real: Real) -> None:
    for port, sender, source in ((HOST, HOST, "10.0.1.10"), (R1, R1, "10.0.1.1"), (ACCESS, 500, "10.0.2.77")):
        packet = frame.arp_request(mac(sender), (packed(source), packed("10.0.1.11")))
        assert check(real, packet, port)
        assert not check(real, packet.put(fields.ARP_SHA, 0x020000000042), HOST)
    allowed = 0
    for kind, source, option in itertools.product(
        (133, 134, 135, 136, 137), ("2001:db8:1::10", "::", "fe80::9"), (0, 1)
    ):
        packet = frame.ip((mac(HOST), bytes.fromhex("3333ff000001")), (packed(source), packed("ff02::1")), 255, 72, 58)
        target = int.from_bytes(packed("2001:db8:1::10"), "big")
        packet = packet.put(fields.ICMP6_TYPE, kind)
        if kind in (135, 136):
            packet = packet.put(fields.ND_TARGET, target)
        link_layer = {135: fields.ND_SLL, 136: fields.ND_TLL}.get(kind)
        if link_layer is not None and option:
            packet = packet.put(link_layer, int.from_bytes(mac(HOST), "big"))
        allowed += bool(check(real, packet, HOST))
    assert allowed


def test_who_asks_for_a_router_is_answered_where_it_asks(real: Real) -> None:
    group, asked = bytes.fromhex("3333ff000001"), packed("2001:db8:1::1")
    for port, wire, number, vid in ((HOST, 0, HOST, 10), (R2, 0, R2, 20), (ACCESS, 5, 500, 20), (TRUNK, 10, 2, 10)):
        own, target = ("10.0.1.10", "10.0.1.1") if vid == 10 else ("10.0.9.2", "10.0.9.1")
        router = mac(R1 if vid == 10 else R1 + 1)
        for to in (frame.BROADCAST, router):
            request = frame.arp_request(mac(number), (packed(own), packed(target)))
            request = request.put(fields.ETH_DST, int.from_bytes(to, "big"))
            left = check(real, frame.tagged(request, wire) if wire else request, port)
            if port == TRUNK:
                assert all(out[2] == mac(number) for out in left)
                continue
            says = tuple(
                int.from_bytes(item, "big") for item in (packed(target), packed(own), b"\2", router, mac(number))
            )
            assert left == [(port, wire or None, router, mac(number), 0, says)]
    for to, option in ((group, HOST), (mac(R1), HOST), (mac(R1), 0)):
        request = solicitation("2001:db8:1::10", "2001:db8:1::1", to, option)
        (out,) = check(real, request, HOST)
        option_says = int.from_bytes(mac(R1), "big")
        assert out[:5] == (HOST, None, mac(R1), mac(HOST), 255)
        assert out[5][:4] == (136, *(int.from_bytes(item, "big") for item in (asked, packed("2001:db8:1::10"), asked)))
        assert out[5][4:] == (option_says, 0xE0000000, 2)


def test_what_is_asked_that_nobody_can_be_told_goes_on(real: Real) -> None:
    group = bytes.fromhex("3333ff000001")
    for request, port in (
        (solicitation("::", "2001:db8:1::1", group, 0), HOST),
        (solicitation("2001:db8:1::10", "2001:db8:1::1", group, 0), HOST),
        (solicitation("2001:db8:1::10", "2001:db8:1::1", group, HOST).put(fields.IP_TTL, 254), HOST),
        (solicitation("2001:db8:1::10", "2001:db8:1::99", group, HOST), HOST),
        (frame.arp_request(mac(R1), (packed("10.0.1.1"), packed("10.0.1.1"))), R1),
        (frame.arp_request(mac(R1), (bytes(4), packed("10.0.1.1"))), R1),
    ):
        left = check(real, request, port)
        assert left
        assert all(out[2] == request.packed(fields.ETH_SRC) and out[0] != port for out in left)


def solicitation(source: str, target: str, to: bytes, option: int) -> Frame:
    """Ask for a target, with the sender's MAC in an option, or without one."""
    asked = frame.ip((mac(HOST), to), (packed(source), packed("ff02::1:ff00:1")), 255, 72, 58)
    asked = asked.put(fields.ICMP6_TYPE, 135).put(fields.ND_TARGET, int.from_bytes(packed(target), "big"))
    return asked.put(fields.ND_SLL, int.from_bytes(mac(option), "big")) if option else asked


def test_a_group_of_next_hops_is_one_of_what_the_model_offers(real: Real) -> None:
    seen = set()
    for number in range(40):
        ends = (packed("10.0.1.10"), packed(f"10.7.0.{number}"))
        packet = frame.ip((mac(HOST), mac(R1)), ends, 64, 84)
        walks = explore(real.tables, packet, HOST)
        assert sorted(walk.share for walk in walks) == [(8, 16), (8, 16)]
        seen.add(tuple(check(real, packet, HOST)))
    assert len(seen) == 2


def test_a_routing_loop_ends_where_the_switch_gives_up(real: Real) -> None:
    for ttl, ends in ((255, False), (65, False), (64, True), (3, True), (2, True)):
        packet = frame.ip((mac(HOST), mac(R1)), (packed("10.0.1.10"), packed("10.6.0.1")), ttl, 84)
        (walk,) = explore(real.tables, packet, HOST)
        assert bool(check(real, packet, HOST)) is ends
        assert walk.endless is not ends

"""Routers move between places that share nothing but XenFlow's switched path: no tunnel, and plain Ethernet on the way.

    LAN 1                                                LAN 2
    n1: h1, h4 ---- s1 (a switch, no machines) --[B]---- n2: h2, h3      B: a plain bridge that learns MAC addresses

    left: h1, h3, r1        r1 - core - r2 - mid - r3        right: h2, h4, r3

All routes are static, so that no routing daemon's packets teach the plain bridge where a router is. Every IPv4 address
and route has its like in IPv6, and each stream is half of the one and half of the other.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.lab import layout, moving, ring, tools
from tests.lab.conftest import LabFactory
from xenflow_app.disguise import LESSON_TYPE
from xenflow_app.pipeline import PROBE_TYPE
from xenflow_lab.lab import Lab
from xenflow_lab.plan import Kind
from xenflow_lab.traffic import frames
from xenflow_lab.traffic.launch import Tool

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

NETWORKS = {"left": 10, "core": 20, "mid": 30, "right": 40}
ROUTERS = {
    "r1": ("n1", {"left": "10.0.1.1", "core": "10.0.12.1"}, {"10.0.2.0/24": "10.0.12.2", "10.0.23.0/24": "10.0.12.2"}),
    "r2": ("n1", {"core": "10.0.12.2", "mid": "10.0.23.2"}, {"10.0.1.0/24": "10.0.12.1", "10.0.2.0/24": "10.0.23.3"}),
    "r3": ("n2", {"mid": "10.0.23.3", "right": "10.0.2.1"}, {"10.0.1.0/24": "10.0.23.2", "10.0.12.0/24": "10.0.23.2"}),
}
SUBNETS = {"left": 1, "right": 2}
HOSTS = {"h1": ("n1", "left", 1), "h3": ("n2", "left", 3), "h2": ("n2", "right", 2), "h4": ("n1", "right", 4)}
RATE_PPS = int(os.environ.get("XENFLOW_RATE_PPS", "1000")) // 4
"""Of each of at most four streams."""
TUNNELS = {4, 41, 47}
"""IP in IP, IPv6 in IP, GRE."""
TUNNEL_PORTS = {4789, 6081, 8472}
"""VXLAN, Geneve, and Linux's own port of VXLAN."""


def topology() -> str:
    trunks = [("n1", "s1"), ("s1", "n2")]
    routers = [
        layout.router(name, node, {net: both(own) for net, own in ends.items()}, routes | in_v6(routes))
        for name, (node, ends, routes) in ROUTERS.items()
    ]
    hosts = [
        layout.host(
            name, node, network, both(address(name)), [f"10.0.{SUBNETS[network]}.1", f"fd00:{SUBNETS[network]}::1"]
        )
        for name, (node, network, _) in HOSTS.items()
    ]
    return layout.text("lans", trunks, NETWORKS, plain=trunks[1:], router=routers, host=hosts)


def both(v4: str) -> list[str]:
    """Return an address and its like in IPv6, with their lengths."""
    return [f"{v4}/24", f"{v6(v4)}/64"]


def in_v6(routes: dict[str, str]) -> dict[str, str]:
    """Return the like of routes in IPv6."""
    return {f"{v6(to.removesuffix('0/24'))}/64": v6(via) for to, via in routes.items()}


def v6(v4: str) -> str:
    """Return the like of an IPv4 address, or of its first three parts: 10.0.12.1 -> fd00:12::1."""
    subnet, number = v4.split(".")[2:]
    return f"fd00:{subnet}::{number}"


def address(host: str) -> str:
    _, network, number = HOSTS[host]
    return f"10.0.{SUBNETS[network]}.1{number}"


def stream(source: str, to: str, port: int) -> ring.Stream:
    ways = (f"[{v6(address(to))}]:{port}", f"[::ffff:{address(to)}]:{port}")
    return ring.Stream(f"{source}-{to}", source, ways, (to,), 2, ("--ports", "2"))


SLOW = bool(os.environ.get("XENFLOW_SLOW"))
ONE_WAY = [stream("h1", "h2", 6001)]
EVERYBODY = [stream("h1", "h2", 6001), stream("h2", "h1", 6002), stream("h3", "h4", 6003), stream("h4", "h3", 6004)]


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    made = make_lab(topology(), "lans")
    made.wait_settled()
    return made


@pytest.fixture(autouse=True)
def _at_rest(lab: Lab) -> None:
    """All routers where the file has them; everybody has spoken with everybody."""
    for router, (node, _, _) in ROUTERS.items():
        if moving.node_of(lab, router) != node:
            moving.moved(lab, router, node)
    for host in HOSTS:
        others = [address(other) for other in HOSTS if other != host]
        answered = tools.answers(lab, host, [*others, *map(v6, others)])
        assert all(answered.values()), (host, answered)
    ring.wait_quiet(lab)


@contextmanager
def captured(lab: Lab, directory: Path) -> Iterator[Counter[str]]:
    """Take every frame off every trunk while the block runs; after it, how many there were of each kind."""
    kinds: Counter[str] = Counter()
    with ExitStack() as stack:
        running: list[tuple[Tool, Path]] = []
        for node in lab.plan.of_kind(Kind.NODE):
            path = directory / f"{node.name}.pcap"
            words = [word for end in lab.plan.trunk_ends(node.name) for word in ("--interface", end.port)]
            words += ["--pcap", str(path), "--pcap-frames", "1000000"]
            running.append((stack.enter_context(tools.start(lab, node.name, "capture", *words)), path))
        yield kinds
        for tool, path in running:
            assert tool.stop()["missed"] == 0
            kinds.update(looks(frame) for frame in records(path))


def records(path: Path) -> Iterator[bytes]:
    """Yield the frames of a pcap file."""
    content = path.read_bytes()
    at = 24
    while at < len(content):
        length = struct.unpack_from("=I", content, at + 8)[0]
        yield content[at + 16 : at + 16 + length]
        at += 16 + length


def looks(content: bytes) -> str:
    """Tell what a frame is to somebody who looks for tunnels."""
    frame = frames.parse(content)
    assert frame is not None
    packet = content[14 + 4 * len(frame.tags) :]
    if frame.ethertype == PROBE_TYPE and not frame.tags:
        return "probe"
    if not frame.tags:
        port = struct.unpack_from("!H", packet, 22)[0] if frame.ethertype == frames.ETHERTYPE_IPV4 else 0
        return "BFD" if (port, packet[9:10]) == (3784, b"\x11") else f"untagged {frame.ethertype:#06x}"
    if len(frame.tags) > 1 or frame.tags[0].tpid != frames.TPID_8021Q or frame.tags[0].vid not in NETWORKS.values():
        return f"tags {frame.tags}"
    if frame.ethertype == frames.ETHERTYPE_IPV4:
        protocol, port = packet[9], struct.unpack_from("!H", packet, 22)[0]
        return f"tunnel {protocol} {port}" if protocol in TUNNELS or port in TUNNEL_PORTS else "tagged"
    if frame.ethertype == frames.ETHERTYPE_IPV6:
        protocol, port = packet[6], struct.unpack_from("!H", packet, 42)[0]
        return f"tunnel {protocol} {port}" if protocol in TUNNELS or port in TUNNEL_PORTS else "tagged"
    return "tagged" if frame.ethertype in (frames.ETHERTYPE_ARP, LESSON_TYPE) else f"tagged {frame.ethertype:#06x}"


def assert_resolves(lab: Lab, router: str) -> None:
    """The router asks for neighbors on both sides of the bridge, by ARP and ND, and is answered where it is now."""
    devices = {vif.network: vif.interface.device for vif in lab.plan.vifs if vif.machine == router}
    others = [vif for vif in lab.plan.vifs if vif.machine != router and vif.network in devices]
    asked = [(where.split("/")[0], devices[vif.network]) for vif in others for where in vif.interface.addresses]
    for where, device in asked:
        lab.run(router, ["ip", "neigh", "change", where, "dev", device, "nud", "probe"], check=True)

    def answered() -> bool:
        there = lab.run(router, ["ip", "neigh", "show", "nud", "reachable"], check=True).stdout
        return all(f"{where} dev {device} " in there for where, device in asked)

    lab.wait_until(answered, 10, f"answers to {router} from {[where for where, _ in asked]}")


CASES = [(router, streams) for router in ROUTERS for streams in ("one way", "everybody")]


@pytest.mark.parametrize(("router", "kind"), CASES if SLOW else [("r1", "one way"), ("r2", "everybody")])
def test_a_learning_bridge_on_the_way_costs_no_packet(lab: Lab, router: str, kind: str) -> None:
    """To the other side of the bridge, and back."""
    streams = ONE_WAY if kind == "one way" else EVERYBODY
    home = ROUTERS[router][0]
    there = "n2" if home == "n1" else "n1"
    with moving.numbered(lab, *streams, rate_pps=RATE_PPS) as reports:
        for to in (there, home):
            print(f"{router} to {to}: {moving.steps(moving.moved(lab, router, to))} ms")
            assert_resolves(lab, router)
    print(ring.figures(reports))
    moving.assert_complete(reports)
    moving.assert_as_wanted(lab)


def test_all_that_the_trunks_carry_is_plain_ethernet_with_one_tag(lab: Lab, tmp_path: Path) -> None:
    """But the controller's probes and the switches' own BFD, which are not tagged; lessons for bridges are."""
    with captured(lab, tmp_path) as kinds, moving.numbered(lab, *EVERYBODY, rate_pps=RATE_PPS) as reports:
        moving.moved(lab, "r1", "n2")
        moving.moved_by_hand(lab, "r1", "n1", 0.2)
    print(f"{dict(kinds)}; {ring.figures(reports)}")
    assert kinds.keys() <= {"tagged", "probe", "BFD"}
    assert kinds["tagged"] > sum(report["received"] for report in reports.values())
    moving.assert_complete(reports)

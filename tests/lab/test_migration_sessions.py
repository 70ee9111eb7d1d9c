"""Sessions through a router that moves, and of the router itself: nobody notices that its VM stood still.

h1 --left-- r1 --fast-- r2 --right-- h2        OSPF hello 1 s, dead 4 s; BGP keepalive 1 s, hold 3 s
             '----slow-- r3 --far---- h3       OSPF hello 2 s, dead 40 s; BGP keepalive 20 s, hold 60 s
"""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

import pytest

from tests.lab import layout, moving, ring, tools
from tests.lab.conftest import LabFactory
from xenflow_lab.lab import Lab
from xenflow_lab.transfer import transfer

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

NODES = ("n1", "n2", "n3")
ROUTERS = ("r1", "r2", "r3")
SLOW = bool(os.environ.get("XENFLOW_SLOW"))
FREEZES_S = [0.05, 0.2, 1.0] if SLOW else [1.0]
LONG_FREEZES_S = [5.0, 20.0] if SLOW else [5.0]
RATE_PPS = 500
TCP_MOVES = 5 if SLOW else 3
STALL_S = 1.0
"""How long a transfer may stand still at most; on an idle machine it is 0.2 s."""

IMPATIENT_PEER = "timers 1 3"
PATIENT_PEER = "timers 20 60"
NETWORKS = {"left": 10, "fast": 20, "slow": 30, "right": 40, "far": 50}
PATIENT = """
interface {device}
 ip ospf network point-to-point
 ip ospf hello-interval 2
 ip ospf dead-interval 40
exit
"""


def frr(number: int, peers: dict[str, tuple[int, str]], patient: str = "") -> str:
    """Return the part of frr.conf that is not generated: a prefix of its own in BGP, and its neighbors."""
    lines = [
        PATIENT.format(device=patient) if patient else "",
        "interface lo",
        f" ip address 192.0.2.{number}/32",
        "exit",
    ]
    lines += ["router ospf", " log-adjacency-changes detail", "exit", f"router bgp 6500{number}"]
    lines += [" bgp log-neighbor-changes", " no bgp ebgp-requires-policy", " no bgp network import-check"]
    for address, (other, timers) in peers.items():
        lines += [f" neighbor {address} remote-as 6500{other}", f" neighbor {address} {timers}"]
    lines += [" address-family ipv4 unicast", f"  network 192.0.2.{number}/32", " exit-address-family"]
    return "\n".join(lines) + "\n"


def router(name: str, node: str, ends: dict[str, str], text: str) -> layout.Table:
    addresses = {network: [f"{address}/24"] for network, address in ends.items()}
    frr = {"routing": "frr", "ospf": True, "daemons": ["bgpd"], "frr": text}
    return layout.router(name, node, addresses, passive=("left", "right", "far"), **frr)


def topology() -> str:
    peers = {"10.0.20.2": (2, IMPATIENT_PEER), "10.0.30.3": (3, PATIENT_PEER)}
    ends = {"left": "10.0.10.1", "fast": "10.0.20.1", "slow": "10.0.30.1"}
    routers = [
        router("r1", "n1", ends, frr(1, peers, "eth2")),
        router("r2", "n2", {"right": "10.0.40.2", "fast": "10.0.20.2"}, frr(2, {"10.0.20.1": (1, IMPATIENT_PEER)})),
        router("r3", "n3", {"far": "10.0.50.3", "slow": "10.0.30.3"}, frr(3, {"10.0.30.1": (1, PATIENT_PEER)}, "eth1")),
    ]
    places = (("h1", "n3", "left", 1), ("h2", "n3", "right", 2), ("h3", "n1", "far", 3))
    hosts = [
        layout.host(name, node, network, [f"{address(name)}/24"], [f"10.0.{NETWORKS[network]}.{gateway}"])
        for name, node, network, gateway in places
    ]
    return layout.text("sessions", layout.RING, NETWORKS, router=routers, host=hosts)


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    made = make_lab(topology(), "sess")
    await_sessions(made)
    assert all(tools.answers(made, "h1", ["10.0.40.10", "10.0.50.10"]).values())
    return made


def await_sessions(lab: Lab) -> None:
    """Return when all sessions stand, and the daemons have nothing more to tell each other."""
    lab.wait_until(lambda: sessions(lab) == STANDING, 90, "all sessions")
    for name in ROUTERS:
        for number in {1, 2, 3} - {int(name[1])}:
            argv = ["ip", "route", "show", f"192.0.2.{number}"]
            lab.wait_until(lambda r=name, a=argv: bool(lab.run(r, a).stdout), 60, "the routes of BGP")  # type: ignore[misc]
    last: tuple[object, float] = (None, 0.0)

    def steady() -> bool:
        nonlocal last
        now = view(lab)
        if now != last[0]:
            last = (now, time.monotonic())
        return time.monotonic() - last[1] > 3

    lab.wait_until(steady, 60, "steady routing")
    ring.wait_quiet(lab)


def shown(lab: Lab, name: str, command: str) -> Any:
    return json.loads(lab.run(name, ["vtysh", "-c", f"{command} json"], check=True).stdout)


def sessions(lab: Lab) -> dict[str, int]:
    """Return how many OSPF neighbors of each router are full, and how many BGP sessions stand."""
    found = {}
    for name in ROUTERS:
        neighbors = shown(lab, name, "show ip ospf neighbor")["neighbors"]
        full = [item for items in neighbors.values() for item in items if item.get("nbrState", "").startswith("Full")]
        peers = shown(lab, name, "show bgp ipv4 unicast summary").get("peers", {})
        found[name] = len(full) * 10 + sum(peer["state"] == "Established" for peer in peers.values())
    return found


STANDING = {"r1": 22, "r2": 11, "r3": 11}


def changes(lab: Lab, names: tuple[str, ...], others: tuple[str, ...] = ("",)) -> list[str]:
    """Return the lines of the daemons' own logs that tell of a neighbor's change, as far as these others are meant."""
    found = []
    for name in names:
        for daemon in ("ospfd", "bgpd"):
            lines = lab.paths.log(name, daemon).read_text().splitlines()
            told = [line for line in lines if re.search(r"AdjChg|ADJCHANGE", line)]
            found += [f"{name} {line}" for line in told if any(other in line for other in others)]
    return found


def view(lab: Lab) -> dict[str, object]:
    """Return OSPF's database with its sequence numbers, BGP's table and the kernel's routes, without ages."""
    found: dict[str, object] = {}
    for name in ROUTERS:
        found[f"{name} database"] = without_ages(shown(lab, name, "show ip ospf database"))
        bgp = shown(lab, name, "show bgp ipv4 unicast")["routes"]
        found[f"{name} BGP"] = {prefix: [path["path"] for path in paths] for prefix, paths in bgp.items()}
        found[f"{name} routes"] = sorted(lab.run(name, ["ip", "route"], check=True).stdout.splitlines())
    return found


def without_ages(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_ages(item) for key, item in value.items() if "age" not in key.lower()}
    return [without_ages(item) for item in value] if isinstance(value, list) else value


def path(lab: Lab) -> list[str]:
    """Return the hops to both far hosts, as ICMP shows them: of the errors that UDP asks for, hosts send few."""
    far = ("10.0.40.10", "10.0.50.10")
    texts = [lab.run("h1", ["traceroute", "-n", "-I", "-q1", "-w2", address]).stdout for address in far]
    return [hop for text in texts for hop in re.findall(r"^ *\d+ +(\S+)", text, re.M)]


PATH = ["10.0.10.1", "10.0.20.2", "10.0.40.10", "10.0.10.1", "10.0.30.3", "10.0.50.10"]


def next_node(lab: Lab) -> str:
    return NODES[(NODES.index(moving.node_of(lab, "r1")) + 1) % len(NODES)]


def stream(to: str, port: int) -> ring.Stream:
    return ring.Stream(f"h1-{to}", "h1", (f"{address(to)}:{port}",), (to,), 4, ("--ports", "4"))


def address(host: str) -> str:
    return {"h1": "10.0.10.10", "h2": "10.0.40.10", "h3": "10.0.50.10"}[host]


@pytest.mark.parametrize("freeze_s", FREEZES_S)
def test_a_pause_that_is_shorter_than_the_timers_changes_nothing(lab: Lab, freeze_s: float) -> None:
    before, told = view(lab), changes(lab, ROUTERS)
    assert told, "the daemons tell of their sessions' start, and so would of an end"
    assert path(lab) == PATH
    with moving.numbered(lab, stream("h2", 6001), stream("h3", 6002), rate_pps=RATE_PPS) as reports:
        done = moving.moved_by_hand(lab, "r1", next_node(lab), freeze_s)
        ring.pause(lab, 3)  # for those who would give up
    print(f"still for {freeze_s} s: {moving.steps(done)} ms; {ring.figures(reports)}")
    moving.assert_complete(reports)
    assert changes(lab, ROUTERS) == told
    assert sessions(lab) == STANDING
    assert view(lab) == before
    assert path(lab) == PATH


def test_a_tcp_transfer_goes_through_migrations(lab: Lab) -> None:
    """As fast as it goes: whatever has to be done for the moves has to be done beside it."""
    before, told = view(lab), changes(lab, ROUTERS)
    with transfer(lab, "h1", "h2", address("h2")) as found:
        ring.pause(lab, 1)
        for _ in range(TCP_MOVES):
            moving.moved(lab, "r1", next_node(lab))
        ring.pause(lab, 1)
    print(f"{TCP_MOVES} moves: {found.rate_bps / 1e6:.1f} Mb/s, {found.retransmits} segments sent again,", end=" ")
    print(f"longest stall {found.stall_s * 1e3:.0f} ms, looked at least every {found.blind_s * 1e3:.0f} ms")
    assert found.whole, found.error  # it ended because it was asked to, not by a reset
    assert found.stall_s <= STALL_S
    assert (changes(lab, ROUTERS), sessions(lab), view(lab)) == (told, STANDING, before)


@pytest.mark.parametrize("freeze_s", LONG_FREEZES_S)
def test_a_long_pause_is_survived_by_who_has_patience(lab: Lab, freeze_s: float) -> None:
    """r2, whose timers are short, may give r1 up; r3 does not, and what goes its way goes on."""
    await_sessions(lab)
    patient = ("10.255.0.3", "10.0.30.3", "10.255.0.1", "10.0.30.1")
    told = changes(lab, ("r3",)), changes(lab, ("r1",), patient[:2])
    assert all(told), "the daemons tell of their sessions' start, and so would of an end"
    with moving.numbered(lab, stream("h3", 6003), rate_pps=RATE_PPS) as reports:
        done = moving.moved_by_hand(lab, "r1", next_node(lab), freeze_s, timeout_s=60)
        ring.pause(lab, 2)
    print(f"still for {freeze_s} s: {moving.steps(done)} ms; {ring.figures(reports)}")
    moving.assert_complete(reports)
    assert (changes(lab, ("r3",)), changes(lab, ("r1",), patient[:2])) == told
    assert all(tools.answers(lab, "h1", [address("h3")]).values())

"""A router moves from node to node while it forwards: each packet is numbered, none is lost, none comes twice.

Small packets and large ones come at the highest of some rates at which the machine loses nothing while nothing moves;
which that was is recorded. All pass two routers and up to three trunks. What floods beside them comes once, too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.lab import moving, ring, tools
from tests.lab.conftest import LabFactory
from tests.lab.moving import ended, migrations, of_router, order, steps, under_way
from tests.lab.test_lab_itself import XENFLOW
from xenflow.answers import MigrationStatus, Verified
from xenflow_lab import operator, stations
from xenflow_lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

TOPOLOGY = Path(__file__).with_name("migration.toml")
MOVES = int(os.environ.get("XENFLOW_MOVES", "4"))
NODES = ("n2", "n3", "n1")
RATE_PPS = int(os.environ.get("XENFLOW_RATE_PPS", "2000"))
"""Small packets: a fifth of what an idle machine of two cores carries, so that other load does not decide."""
RATE_MBPS = int(os.environ.get("XENFLOW_RATE_MBPS", "20"))
"""Large packets: the same."""
SMALL, LARGE = 64, 1472
RATES_PPS = {SMALL: RATE_PPS, LARGE: RATE_MBPS * 1_000_000 // (8 * LARGE)}
BASELINE_S = "2"
ROUTES = 1_000
FLOWS = 8
PORT = 5000
FLOODED = [
    ring.Stream("broadcast", "h1", ("10.0.1.255:6001",), ("h3", "h4")),
    ring.Stream("multicast", "h4", ("[ff02::1%eth0]:6002",), ("h1", "h3"), words=("--source", "fd00:1::12")),
]
"""To everybody in left, where r1 comes and goes."""
FLOODED_PPS = 100
CONVERGE_S = 20.0
GAP_S = 1.0
"""The longest that a flow may be silent; an idle machine stays below 0.05 s."""

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    """The routes of r1 are its kernel's: half of them by way of h3, half of r2, which does not hear of them."""
    made = make_lab(TOPOLOGY, "mig")
    for router, far in (("r1", "10.0.2.0/24"), ("r2", "10.0.1.0/24")):
        argv = ["ip", "route", "show", far]
        made.wait_until(lambda r=router, a=argv: bool(made.run(r, a).stdout), 60, f"{far} in {router}")  # type: ignore[misc]
    ways = ("10.0.1.11", "10.0.255.2")
    batch = "".join(f"route add 10.{64 + n // 250}.{n % 250}.0/24 via {ways[n % 2]}\n" for n in range(ROUTES))
    made.run("r1", ["ip", "-batch", "-"], stdin=batch, check=True)
    assert all(tools.answers(made, "h1", ["10.0.2.10", "10.0.1.11", "fd00:2::10"]).values())
    made.wait_until(lambda: next(r.routes for r in made.app_status().routers if r.name == "r1") > ROUTES, 20, "routes")
    ring.wait_quiet(made)
    return made


@pytest.fixture(autouse=True)
def _at_rest(lab: Lab) -> None:
    lab.wait_until(lambda: not under_way(lab), 90, "the end of what moves")
    ring.wait_quiet(lab)


@pytest.fixture(scope="module")
def rates_pps(lab: Lab) -> dict[int, int]:
    """What the machine carries without loss while nothing moves, by the packets' size."""
    return {size: carried(lab, size) for size in RATES_PPS}


@pytest.fixture
def rate_pps(rates_pps: dict[int, int]) -> int:
    return rates_pps[SMALL]


def carried(lab: Lab, size: int) -> int:
    for rate in (RATES_PPS[size], RATES_PPS[size] // 2, RATES_PPS[size] // 4):
        with tools.start(lab, "h2", "receive", "--port", str(PORT), "--flows", str(FLOWS)) as receiver:
            tools.run(lab, "h1", *sending(rate, size), "--duration", BASELINE_S)
            report = receiver.end(5)
        print(f"\nnothing moves, {rate} packets/s of {size} bytes: {figures(report)}")
        if report["lost"] == report["dropped_by_socket"] == 0:
            return rate
    pytest.fail(f"this machine loses packets of {size} bytes at {rate} packets/s, with nothing moving")


def sending(rate_pps: int, size: int) -> tuple[str, ...]:
    to = ("--to", f"10.0.2.10:{PORT}", "--ports", str(FLOWS))
    return ("send", *to, "--rate-pps", str(rate_pps), "--size", str(size))


def figures(report: dict[str, Any]) -> str:
    """Return one line; longest gap within a flow, whose packets are a few hundred microseconds apart."""
    flows = report["flows"]
    return (
        f"{report['received']}/{report['expected']} lost {report['lost']} doubled {report['duplicated']}"
        f" reordered {report['reordered']} in {sum(flow['reorder_windows'] for flow in flows)} windows"
        f" (at most {max((flow['reorder_windows'] for flow in flows), default=0)} in a flow,"
        f" {max((flow['reorder_extent_max'] for flow in flows), default=0)} late),"
        f" longest gap {report['longest_gap_ns'] / 1e6:.1f} ms, dropped by the socket {report['dropped_by_socket']}"
    )


@contextmanager
def traffic(lab: Lab, rate_pps: int, size: int = SMALL) -> Iterator[dict[str, Any]]:
    """Send while the block runs; what was counted is in the dictionary after it."""
    report: dict[str, Any] = {}
    with tools.start(lab, "h2", "receive", "--port", str(PORT), "--flows", str(FLOWS)) as receiver:
        with tools.begin(lab, "h1", *sending(rate_pps, size)) as sender:
            ring.pause(lab, 0.5)
            yield report
            ring.pause(lab, 0.5)
            sent = sender.stop()["sent"]
        report |= receiver.end(10)
    assert sent == report["expected"]


@contextmanager
def flooding(lab: Lab) -> Iterator[dict[str, dict[str, Any]]]:
    """While the block runs, numbered packets flood left, and h1 asks by ARP and ND where h4 is, to all and to it alone.

    What each receiver counted is in the dictionary after it; there is one answer to each question.
    """
    reports: dict[str, dict[str, Any]] = {}
    both = tools.addresses(lab, "h1"), tools.addresses(lab, "h4")
    words = [word for key, found in zip(("--own", "--target"), both, strict=True) for at in found for word in (key, at)]
    with (
        ring.Traffic(lab, FLOODED, FLOODED_PPS) as streams,
        tools.begin(lab, "h1", "ask", "--mac", stations.mac(lab, "h4"), *words) as asker,
    ):
        yield reports
        reports |= streams.reports()
        asked = asker.stop()
    questions = asked["asked"] + asked["kernel_asked"]
    print(f"{asked['without_number']} answers to {questions} questions for h4; {ring.figures(reports)}")
    assert asked["asked"] > 20
    assert asked["without_number"] == questions, asked  # it is h4's kernel that answers: it does not return numbers


def assert_complete(report: dict[str, Any]) -> None:
    counted = (report["lost"], report["duplicated"], report["dropped_by_socket"])
    assert counted == (0, 0, 0), figures(report)


def node_of(lab: Lab, router: str = "r1") -> str:
    return moving.node_of(lab, router)


def next_node(lab: Lab, router: str = "r1") -> str:
    return NODES[(NODES.index(node_of(lab, router)) + 1) % len(NODES)]


def assert_only_on(lab: Lab, node: str) -> None:
    """All of r1 is on the node, nothing on the others; and every switch has exactly what is wanted."""
    assert node_of(lab) == node
    lab.wait_until(
        lambda: not any(of_router(lab, other, "r1") for other in NODES if other != node), CONVERGE_S, "no r1 left"
    )
    assert len(of_router(lab, node, "r1")) > ROUTES
    verified = msgspec.json.decode(operator.ask(lab.app_socket, "verify"), type=list[Verified])
    assert [(item.node, item.differences, item.why) for item in verified] == [(node, [], "") for node in sorted(NODES)]


def adjacency_s(lab: Lab) -> float:
    """Return for how long r2 has been fully adjacent to r1. OSPF is seen from the end that never stands still."""
    found = json.loads(lab.run("r2", ["vtysh", "-c", "show ip ospf neighbor json"], check=True).stdout)["neighbors"]
    (neighbor,) = [entry for entries in found.values() for entry in entries]
    state = neighbor.get("nbrState", neighbor.get("state", ""))
    assert state.startswith("Full"), neighbor
    return float(neighbor["upTimeInMsec"] if "upTimeInMsec" in neighbor else neighbor["lastPrgrsvChangeMsec"]) / 1e3


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_planned_moves_lose_and_double_nothing(
    lab: Lab, rates_pps: dict[int, int], size: int, record_property: Record
) -> None:
    full_s, began, rate, overrun = adjacency_s(lab), time.monotonic(), rates_pps[size], moving.overrun(lab)
    done: list[MigrationStatus] = []
    with ExitStack() as stack:
        flooded = stack.enter_context(flooding(lab)) if size == SMALL else {}
        report = stack.enter_context(traffic(lab, rate, size))
        for _ in range(MOVES if size == SMALL or "XENFLOW_MOVES" in os.environ else 2):
            done.append(moving.moved(lab, "r1", next_node(lab)))
    for status in done:
        print(f"{status.source} -> {status.target}: {steps(status)} ms")
    print(f"{len(done)} moves at {rate} packets/s of {size} bytes: {figures(report)}")
    record_property("moves", {"rate_pps": rate, "size": size, "moves": len(done), "figures": figures(report)})
    print(f"{moving.overrun(lab) - overrun} frames came faster than the switches took them")
    assert_complete(report)
    moving.assert_complete(flooded)
    late = max(flow["reorder_extent_max"] for flow in report["flows"])
    delay_ns = max(flow["delay_ns"]["max"] for flow in report["flows"])
    print(f"late by at most {late * FLOWS / rate * 1e3:.1f} ms; on their way for at most {delay_ns / 1e6:.1f} ms")
    assert max(flow["reorder_windows"] for flow in report["flows"]) <= len(done)
    assert report["longest_gap_ns"] <= GAP_S * 1e9
    assert_only_on(lab, done[-1].target)
    assert adjacency_s(lab) >= full_s + (time.monotonic() - began) - 1


@pytest.mark.parametrize("freeze_s", [0.2, 1.0])
def test_a_move_by_hand_ends_as_a_planned_one_does(lab: Lab, rate_pps: int, freeze_s: float) -> None:
    before = len(migrations(lab))
    full_s, began, to = adjacency_s(lab), time.monotonic(), next_node(lab)
    with traffic(lab, rate_pps) as report:
        lab.move("r1", to, freeze_s)
        lab.wait_until(lambda: any(item.ended for item in migrations(lab)[before:]), 30, "the end of the migration")
    (found,) = migrations(lab)[before:]
    print(f"by hand, still for {freeze_s} s: {steps(found)} ms; {figures(report)}")
    assert (found.planned, found.state, found.target) == (False, "done", to)
    assert_complete(report)
    assert_only_on(lab, to)
    assert adjacency_s(lab) >= full_s + (time.monotonic() - began) - 1


def test_announcements_that_nobody_awaits_do_nothing(lab: Lab, rate_pps: int) -> None:
    """From another vif with its own MAC and with r1's, and from r1's vif without a move: no way changes."""
    before, where = ring.Flows(lab), node_of(lab)
    claim = ("--kind", "arp-reply", "--destination-mac", "aa:aa:aa:aa:aa:aa", "--source-ip", "10.0.1.1")
    mac = stations.mac(lab, "r1", "left")
    with traffic(lab, rate_pps) as report:
        for who, words in (("h3", ()), ("h3", ("--source-mac", mac)), ("h3", ("--sender-mac", mac)), ("r1", ())):
            tools.run(lab, who, "inject", "--interface", "eth0", *claim, *words, "--count", "200", "--rate-pps", "1000")
    assert_complete(report)
    assert before.difference() == (set(), set(), [])
    assert (node_of(lab), under_way(lab)) == (where, [])


def test_ctrl_c_before_the_machine_moves_leads_back(lab: Lab, rate_pps: int) -> None:
    source, to = node_of(lab), next_node(lab)
    flows = set(of_router(lab, source, "r1"))
    server = lab.process("server", to)
    server.signal(signal.SIGSTOP)  # it does not answer, so the migration cannot get on
    try:
        with traffic(lab, rate_pps) as report:
            words = ["migrate", "r1", "--to", to, "--app", f"unix:{lab.app_socket}"]
            asked = subprocess.Popen([*XENFLOW, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            lab.wait_until(lambda: bool(under_way(lab)), 20, "the migration")
            assert asked.stdout is not None
            assert "preparing" in asked.stdout.readline()
            asked.send_signal(signal.SIGINT)
            _, errors = asked.communicate(timeout=20)
    finally:
        server.signal(signal.SIGCONT)
    assert (asked.returncode, f"has stayed on {source}" in errors) == (1, True), errors
    assert_complete(report)
    assert len(of_router(lab, source, "r1")) == len(flows)
    assert_only_on(lab, source)
    assert ended(lab, order(lab, "r1", to)).state == "done"
    assert_only_on(lab, to)


KILLED = [
    ("controller", "moving"),
    ("source", "moving"),
    ("target", "resuming"),
    ("client", "resuming"),
]


@pytest.mark.parametrize(("who", "state"), KILLED)
def test_who_is_killed_during_a_move_catches_up(lab: Lab, rate_pps: int, who: str, state: str) -> None:
    """Kill -9, and start again."""
    full_s, began, to = adjacency_s(lab), time.monotonic(), next_node(lab)
    servers = {"source": node_of(lab), "target": to}
    if who == "client":
        process = lab.process("client", "r1")
    else:
        process = lab.process("server", servers[who]) if who in servers else lab.process("controller")
    with traffic(lab, rate_pps) as report:
        order(lab, "r1", to)
        lab.wait_until(lambda: any(item.state == state for item in under_way(lab)), 20, f"the state {state}")
        process.kill()
        process.start()
        lab.wait_until(lambda: node_of(lab) == to and not lab.awaited() and not under_way(lab), 60, "the new place")
        ring.wait_quiet(lab)
    print(f"{who} killed while {state}: {figures(report)}")
    assert_complete(report)
    assert_only_on(lab, to)
    assert adjacency_s(lab) >= full_s + (time.monotonic() - began) - 1


def test_evacuating_a_node_moves_its_routers_at_the_same_time(lab: Lab, rate_pps: int) -> None:
    """They are each other's neighbors: while one stands still and the other asks for it, a switch answers."""
    node = node_of(lab)
    if node_of(lab, "r2") != node:
        moving.moved(lab, "r2", node)
    with traffic(lab, rate_pps) as report:
        words = ["evacuate", node, "--at-once", "2", "--json", "--app", f"unix:{lab.app_socket}"]
        done = subprocess.run([*XENFLOW, *words], capture_output=True, text=True, timeout=60)
    print(f"evacuated: {figures(report)}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {node_of(lab), node_of(lab, "r2")} == set(NODES) - {node}
    assert_complete(report)
    assert_only_on(lab, node_of(lab))
    assert not of_router(lab, node, "r2")
    assert adjacency_s(lab) > 0


def test_two_neighbors_change_places(lab: Lab, rate_pps: int) -> None:
    one, other = node_of(lab), node_of(lab, "r2")
    if one == other:
        other = next_node(lab, "r2")
        moving.moved(lab, "r2", other)
    with traffic(lab, rate_pps) as report:
        for number in (order(lab, "r1", other), order(lab, "r2", one)):
            assert ended(lab, number).state == "done"
    print(f"{one} and {other} have changed places: {figures(report)}")
    assert (node_of(lab), node_of(lab, "r2")) == (other, one)
    assert_complete(report)
    assert_only_on(lab, other)


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_router_goes_and_comes_back_at_once(lab: Lab, rate_pps: int, by_hand: bool) -> None:
    """By hand it goes back while the controller still follows it there."""
    home, to = node_of(lab), next_node(lab)
    with traffic(lab, rate_pps) as report:
        for node in (to, home):
            if by_hand:
                lab.move("r1", node, 0.05)
            else:
                assert ended(lab, order(lab, "r1", node)).state == "done"
        lab.wait_until(lambda: not under_way(lab) and not of_router(lab, to, "r1"), 60, "rest")
    print(f"to {to} and back to {home}: {figures(report)}")
    assert_complete(report)
    assert_only_on(lab, home)


def test_a_router_that_is_destroyed_goes_at_once(lab: Lab) -> None:
    """Last, since it does not come back."""
    node = node_of(lab)
    assert of_router(lab, node, "r1")
    began = time.monotonic()
    lab.destroy("r1")
    lab.wait_until(lambda: not of_router(lab, node, "r1"), 5, "the end of the router's flows")
    print(f"nothing is left {time.monotonic() - began:.2f} s after the order to destroy it")
    assert not any(of_router(lab, other, "r1") for other in NODES)
    verified = msgspec.json.decode(operator.ask(lab.app_socket, "verify"), type=list[Verified])
    assert [(item.differences, item.why) for item in verified] == [([], "")] * 3

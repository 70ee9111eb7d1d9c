"""Processes are killed, alone and together: packets go on, and switches hear of exactly what changed meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab import ring, tools
from tests.lab.conftest import LabFactory
from xenflow_lab.lab import Lab
from xenflow_lab.processes import Process

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

STOPPED_S = float(os.environ.get("XENFLOW_STOPPED_S", "20"))
"""How long traffic has to go on without any process of XenFlow."""
STALE_LIMIT_S = 5.0
STREAMS = [ring.unicast(), ring.unicast_v6(), ring.broadcast("h1"), ring.multicast("h3")]
FOREIGN_FLOW = "cookie=0x1234,table=200,priority=7,in_port=77,actions=drop"
FOREIGN_ROWS = (
    ("Bridge", "xenbr0", "external_ids:somebody", "else"),
    ("Bridge", "xenbr0", "other_config:somebody", "else"),
    ("Interface", "t-n2", "external_ids:somebody", "else"),
    ("Interface", "vif1.1", "external_ids:somebody", "else"),
)

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    made = make_lab(ring.topology(), "restart")
    ring.settle(made)
    for router, prefix, via in OLD_ROUTES:
        made.run(router, ["ip", "route", "add", prefix, "via", via], check=True)
    for router, address, mac in OLD_NEIGHBORS:
        words = ["ip", "neigh", "replace", address, "lladdr", mac, "dev", "eth0", "nud", "permanent"]
        made.run(router, words, check=True)
    for table, row, column, value in FOREIGN_ROWS:
        made.vsctl("n1", "set", table, row, f"{column}={value}")
    qos = "-- --id=@q create QoS type=linux-noop external_ids:somebody=else -- set Port t-n3 qos=@q"
    made.vsctl("n1", *qos.split())
    made.ofctl("n1", "add-flow", FOREIGN_FLOW)
    return made


@pytest.fixture(autouse=True)
def _others_are_left_alone(lab: Lab) -> Iterator[None]:
    """Every test begins at rest, and leaves what somebody else made as it is."""
    ring.wait_quiet(lab)
    yield
    found = [
        (table, row, column, lab.vsctl("n1", "get", table, row, column).strip())
        for table, row, column, _ in FOREIGN_ROWS
    ]
    assert found == list(FOREIGN_ROWS)
    assert "else" in lab.vsctl("n1", "get", "Port", "t-n3", "qos", "--", "list", "QoS")
    assert sum("cookie=0x1234" in text for text in ring.flows(lab, "n1")) == 1


def chosen(lab: Lab, roles: str) -> list[Process]:
    """Return the processes of these roles: `app`, `servers`, `clients`, or `all`."""
    found = {
        "app": [lab.process("controller")],
        "servers": [lab.process("server", node) for node in ring.NODES],
        "clients": [lab.process("client", router) for router in ring.routers(lab)],
    }
    return [process for role in found if roles in (role, "all") for process in found[role]]


def kill(processes: list[Process]) -> None:
    """kill -9, all of them before waiting for any."""
    for process in processes:
        process.signal(9)
    for process in processes:
        process.wait_gone()


def assert_complete(reports: dict[str, dict[str, Any]]) -> None:
    counted = {name: (report["lost"], report["duplicated"]) for name, report in reports.items()}
    assert counted == dict.fromkeys(reports, (0, 0)), ring.figures(reports)
    assert all(flow["ended"] for report in reports.values() for flow in report["flows"]), ring.figures(reports)


def sent_since(lab: Lab, roles: str, before: int) -> int:
    """Return the flow-mods since `before`; an app that was started anew counts from 0."""
    return ring.flow_mods(lab) - (0 if roles in ("app", "all") else before)


@pytest.mark.parametrize("roles", ["clients", "servers", "app", "all"])
def test_a_kill_with_nothing_changed_costs_no_packet_and_no_flow_mod(
    lab: Lab, roles: str, record_property: Record
) -> None:
    before, flows = ring.flow_mods(lab), ring.Flows(lab)
    processes = chosen(lab, roles)
    with ring.Traffic(lab, STREAMS) as traffic:
        ring.pause(lab, 0.5)
        kill(processes)
        ring.pause(lab, 1)
        start = time.monotonic()
        for process in processes:
            process.start()
        ring.probe(lab)
        ring.wait_quiet(lab)
        settled_s = time.monotonic() - start
        reports = traffic.reports()
    print(f"\n{roles}: settled {settled_s:.1f} s after the start; {ring.figures(reports)}")
    record_property("settled_s", round(settled_s, 2))
    assert_complete(reports)
    assert flows.difference() == (set(), set(), [])
    assert sent_since(lab, roles, before) == ring.PROBE_FLOW_MODS


OLD_ROUTES = (
    ("r1", "10.51.0.0/16", "10.0.255.2"),
    ("r1", "10.52.0.0/16", "10.0.255.2"),
    ("r1", "fd51::/32", "fd00:ff::2"),
    ("r1", "fd52::/32", "fd00:ff::2"),
)
OLD_NEIGHBORS = (("r1", "10.0.1.99", "02:00:00:00:99:04"), ("r1", "fd00:1::99", "02:00:00:00:99:06"))
CHANGES = (
    "ip route add 10.50.0.0/16 via 10.0.255.2",
    "ip route del 10.51.0.0/16",
    "ip route change 10.52.0.0/16 via 10.0.1.11",
    "ip route add fd50::/32 via fd00:ff::2",
    "ip route del fd51::/32",
    "ip route replace fd52::/32 via fd00:1::11",
    "ip neigh replace 10.0.1.99 lladdr 02:00:00:00:aa:04 dev eth0 nud permanent",
    "ip neigh replace fd00:1::99 lladdr 02:00:00:00:aa:06 dev eth0 nud permanent",
)
REVERSED = (
    "ip route del 10.50.0.0/16",
    "ip route add 10.51.0.0/16 via 10.0.255.2",
    "ip route change 10.52.0.0/16 via 10.0.255.2",
    "ip route del fd50::/32",
    "ip route add fd51::/32 via fd00:ff::2",
    "ip route replace fd52::/32 via fd00:ff::2",
    "ip neigh replace 10.0.1.99 lladdr 02:00:00:00:99:04 dev eth0 nud permanent",
    "ip neigh replace fd00:1::99 lladdr 02:00:00:00:99:06 dev eth0 nud permanent",
)
ADDED, REMOVED, CHANGED = 2, 2, 4


@pytest.mark.parametrize("roles", ["clients", "servers", "app", "all"])
def test_exactly_what_changed_meanwhile_is_sent(lab: Lab, roles: str, record_property: Record) -> None:
    before, flows = ring.flow_mods(lab), ring.Flows(lab)
    processes = chosen(lab, roles)
    with ring.Traffic(lab, STREAMS) as traffic:
        ring.pause(lab, 0.5)
        kill(processes)
        for change in CHANGES:
            lab.run("r1", change.split(), check=True)
        start = time.monotonic()
        for process in processes:
            process.start()
        stale_s = ring.since(start, lambda: not stale(lab), lab, "the end of stale routes")
        ring.wait_quiet(lab)
        reports = traffic.reports()
    sent = sent_since(lab, roles, before)
    new, gone, again = flows.difference()
    print(f"\n{roles}: {sent} flow-mods, stale routes gone {stale_s:.1f} s after the start; {ring.figures(reports)}")
    record_property("stale_s", round(stale_s, 2))
    assert (len(new), len(gone), again) == (ADDED + CHANGED, REMOVED + CHANGED, [])
    assert sent == ADDED + REMOVED + CHANGED
    assert stale_s <= STALE_LIMIT_S
    assert_complete(reports)
    for change in REVERSED:
        lab.run("r1", change.split(), check=True)
    lab.wait_until(lambda: flows.difference()[:2] == (set(), set()), 10, "the flows of before")


def stale(lab: Lab) -> bool:
    """Tell whether r1's node still routes to a prefix that is gone."""
    return any("10.51.0.0/16" in text or "fd51::/32" in text for text in ring.flows(lab, "n1"))


def test_a_switch_that_dies_gets_exactly_its_full_set_again(lab: Lab, record_property: Record) -> None:
    vswitchd = lab.process("vswitchd", "n1")
    before = {node.name: node.flow_mods_sent for node in lab.app_status().nodes}
    flows = ring.Flows(lab)
    with ExitStack() as stack:
        watch = {
            host: stack.enter_context(tools.start(lab, host, "capture", "--interface", "eth0", "--tenant", tenant))
            for tenant, hosts in (("left", ("h1", "h2", "h3", "h4", "h5")), ("blue", ("b1", "b3")))
            for host in hosts
        }
        traffic = stack.enter_context(ring.Traffic(lab, [*STREAMS, ring.blue()]))
        ring.pause(lab, 0.5)
        vswitchd.kill()
        vswitchd.start()
        lab.wait_until(lambda: ring.links(lab) == 3 and not lab.awaited(), 30, "the switch and its links")
        ring.wait_quiet(lab)
        reports = traffic.reports()
        seen = {host: tool.stop() for host, tool in watch.items()}
    lab.ofctl("n1", "add-flow", FOREIGN_FLOW)  # it died with its switch, and its owner puts it back
    status = {node.name: node for node in lab.app_status().nodes}
    sent = {name: status[name].flow_mods_sent - before[name] for name in ring.NODES}
    print(f"\nvswitchd: flow-mods {sent}, full set {status['n1'].flows_actual}; {ring.figures(reports)}")
    outage_ms = max(report["longest_gap_ns"] for report in reports.values()) / 1e6
    record_property("outage_ms", round(outage_ms))
    new, gone, _ = flows.difference()
    assert (new, gone) == (set(), set())
    assert sent["n1"] == status["n1"].flows_actual
    assert {host: (report["foreign"], report["missed"]) for host, report in seen.items()} == dict.fromkeys(seen, (0, 0))
    assert all(seen[host]["interfaces"]["eth0"]["received"]["markers"] for host in ("h1", "h2", "h3", "h4", "b3"))
    assert {name: report["duplicated"] for name, report in reports.items()} == dict.fromkeys(reports, 0)


def test_traffic_goes_on_without_any_process_of_xenflow(lab: Lab, record_property: Record) -> None:
    """To 128 neighbors of one router, whose VM sees none of the packets; XENFLOW_STOPPED_S says for how long."""
    processes = chosen(lab, "all")
    flows = ring.Flows(lab)
    kill(processes)
    with ring.Traffic(lab, [*ring.everybody(), *STREAMS], 200) as traffic:
        ring.pause(lab, STOPPED_S)
        reports = traffic.reports()
    for process in processes:
        process.start()
    ring.probe(lab)
    ring.wait_quiet(lab)
    print(f"\nwithout XenFlow for {STOPPED_S:g} s: {ring.figures(reports)}")
    record_property("stopped", ring.figures(reports))
    assert_complete(reports)
    assert sum(len(report["flows"]) for name, report in reports.items() if name[-2:] in ("h4", "h5")) >= ring.NEIGHBORS
    assert flows.difference() == (set(), set(), [])
    assert ring.flow_mods(lab) == ring.PROBE_FLOW_MODS

"""Who asks for a router is told by the switch, once, whatever the VM does; so its neighbors never stop sending."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.lab import ring, tools
from tests.lab.conftest import LabFactory
from tests.lab.test_migration import ended, migrations, order, under_way
from xenflow.model import link_local_of, pack_mac
from xenflow_lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

NODES = ("n1", "n2", "n3")
ASKERS = ("h1", "h2", "h3", "a1", "a2")
REST_S = 0.3
RATE_HZ = "50"
RATE_PPS = "500"
PORT = 5000
SLOW = bool(os.environ.get("XENFLOW_SLOW"))
FREEZES_S = [("moves", (0.05, 0.2, 1.0)), ("moves", (5.0,)), ("stays", (0.2, 5.0))]
if SLOW:
    FREEZES_S += [("moves", (20.0,)), ("stays", (0.05, 1.0, 20.0))]
ROUTER = {"h3": ("eth0", "10.0.1.1", "fd00:1::1"), "r2": ("eth1", "10.0.255.1", "fd00:ff::1")}
"""Who sends by way of r1, and its addresses there."""


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    made = make_lab(Path(__file__).with_name("answers.toml"), "ans")
    made.wait_settled()
    for router, far, gateway in (("r1", 2, 2), ("r2", 1, 1)):
        made.run(router, ["ip", "route", "add", f"10.0.{far}.0/24", "via", f"10.0.255.{gateway}"], check=True)
        made.run(router, ["ip", "route", "add", f"fd00:{far}::/64", "via", f"fd00:ff::{gateway}"], check=True)
    assert all(tools.answers(made, "h3", ["10.0.2.11", "fd00:2::11"]).values())
    for who in ASKERS:
        assert all(tools.answers(made, who, ["10.0.1.1", "fd00:1::1"]).values()), who
    ring.wait_quiet(made)
    return made


@pytest.fixture(autouse=True)
def _at_rest(lab: Lab) -> None:
    lab.wait_until(lambda: not under_way(lab), 60, "the end of what moves")
    ring.wait_quiet(lab)


@contextmanager
def asking(lab: Lab, *who: str) -> Iterator[dict[str, dict[str, Any]]]:
    """The askers ask for r1 while the block runs; what each counted is in the dictionary after it."""
    mac = tools.macs(lab, "r1")[0]
    targets = ["10.0.1.1", "fd00:1::1", str(ip_address(link_local_of(pack_mac(mac))))]
    words = ["--mac", mac, "--rate-hz", RATE_HZ, *(word for target in targets for word in ("--target", target))]
    counted: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        askers = {}
        for name in who:
            (interface,) = lab.plan.machines[name].interfaces
            own = [word for address in interface.addresses for word in ("--own", address.split("/")[0])]
            askers[name] = stack.enter_context(tools.begin(lab, name, "ask", *words, *own))
        ring.pause(lab, REST_S)
        yield counted
        ring.pause(lab, REST_S)
        counted |= {name: tool.stop() for name, tool in askers.items()}


def assert_one_answer_each(counted: dict[str, dict[str, Any]]) -> None:
    for who, report in counted.items():
        print(f"{who}: {report['asked']} asked, answers {report['answered']}, by the kernel {report['kernel_asked']}")
        assert report["asked"] > 50, who
        assert report["answered"] == {"1": report["asked"]}, (who, report)
        assert report["without_number"] == report["kernel_asked"], (who, report)
        assert not report["wrong"], (who, report)


def next_node(lab: Lab) -> str:
    return NODES[(NODES.index(lab.plan.machines["r1"].node) + 1) % len(NODES)]


def move_by_hand(lab: Lab, freeze_s: float) -> None:
    """Move r1 as somebody does who uses the hypervisor's command; return when the controller is through with it."""
    before = len(migrations(lab))
    lab.move("r1", next_node(lab), freeze_s)
    lab.wait_until(lambda: any(item.ended for item in migrations(lab)[before:]), 30, "the end of the migration")


def test_each_question_gets_one_answer_whatever_becomes_of_the_router(lab: Lab) -> None:
    """Ordered moves, to and from each node; then without a controller."""
    with asking(lab, *ASKERS) as counted:
        for _ in NODES:
            assert ended(lab, order(lab, "r1", next_node(lab))).state == "done"
        lab.process("controller").kill()
        ring.pause(lab, 1)
        lab.process("controller").start()
        lab.wait_until(lambda: not lab.awaited(), 20, "the controller that starts")
    assert_one_answer_each(counted)


@pytest.mark.parametrize(("where", "freezes_s"), FREEZES_S)
def test_neighbors_whose_entries_are_stale_keep_sending(lab: Lab, where: str, freezes_s: tuple[float, ...]) -> None:
    """Their entries hold for a second or less: without an answer they give up within any of the longer freezes.

    The router comes to another node, or its VM only stands still where it is. All the time everybody else asks for it,
    too: answers to somebody's own questions would renew the entries.
    """
    others = [who for who in ASKERS if who not in ROUTER]
    with impatient(lab, *ROUTER), sending(lab) as reports, asking(lab, *others) as counted:
        before = solicitations(lab, "h3")
        for freeze_s in freezes_s:
            make_stale(lab)
            if where == "moves":
                move_by_hand(lab, freeze_s)
            else:
                stand_still(lab, freeze_s)
                ring.pause(lab, REST_S)
        asked = solicitations(lab, "h3") - before
    print(f"{where}, frozen for {freezes_s} s: {ring.figures(reports)}; h3 has asked {asked} times")
    assert_one_answer_each(counted)
    assert asked >= sum(freeze_s >= 1 for freeze_s in freezes_s)
    for name, report in reports.items():
        assert (report["lost"], report["duplicated"]) == (0, 0), (name, ring.figures(reports))
    assert not [item for item in lab.app_status().routers if item.node != lab.plan.machines[item.name].node]


@contextmanager
def sending(lab: Lab) -> Iterator[dict[str, dict[str, Any]]]:
    """Numbered packets pass r1 in both directions and families while the block runs; what came is there after it."""
    ways = {"v4": ("h3", "g1", "10.0.2.11"), "v6": ("h3", "g1", "[fd00:2::11]"), "back": ("g1", "h3", "10.0.1.13")}
    reports: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        receivers, senders = {}, []
        for number, (name, (_, to, _)) in enumerate(ways.items()):
            words = ("--port", str(PORT + number), "--flows", "1")
            receivers[name] = stack.enter_context(tools.start(lab, to, "receive", *words))
        for number, (source, _, address) in enumerate(ways.values()):
            words = ("--to", f"{address}:{PORT + number}", "--rate-pps", RATE_PPS, "--size", "64")
            senders.append(stack.enter_context(tools.begin(lab, source, "send", *words)))
        ring.pause(lab, REST_S)
        yield reports
        ring.pause(lab, REST_S)
        sent = [sender.stop()["sent"] for sender in senders]
        reports |= {name: receiver.end(10) for name, receiver in receivers.items()}
    assert [report["expected"] for report in reports.values()] == sent


def stand_still(lab: Lab, freeze_s: float) -> None:
    """Let r1's VM stand still where it is, and show it when there is time to: it does not answer a ping."""
    with lab.paused("r1"):
        end_s = time.monotonic() + freeze_s
        if freeze_s >= 5:
            assert not any(tools.answers(lab, "h1", ["10.0.1.1", "fd00:1::1"]).values())
        ring.pause(lab, max(0.0, end_s - time.monotonic()))


def solicitations(lab: Lab, who: str) -> int:
    """Return how often a machine's kernel has asked for a neighbor in IPv6; ARP is not counted."""
    found = re.search(r"Icmp6OutNeighborSolicits\s+(\d+)", lab.run(who, ["cat", "/proc/net/snmp6"], check=True).stdout)
    assert found is not None
    return int(found[1])


def make_stale(lab: Lab) -> None:
    """Let those who send by way of r1 doubt where it is, from now on."""
    macs = {vif.network: vif.interface.mac for vif in lab.plan.vifs if vif.machine == "r1"}
    for who, (device, *addresses) in ROUTER.items():
        mac = macs["left" if who == "h3" else "core"]
        for address in addresses:
            argv = ["ip", "neigh", "replace", address, "lladdr", mac, "dev", device, "nud", "stale"]
            lab.run(who, argv, check=True)


@contextmanager
def impatient(lab: Lab, *machines: str) -> Iterator[None]:
    """Let the machines' neighbors become stale within a second, and be asked for at once when they are used."""
    usual = {"base_reachable_time_ms": 30_000, "delay_first_probe_time": 5}
    short = {"base_reachable_time_ms": 500, "delay_first_probe_time": 1}
    try:
        for who in machines:
            _set(lab, who, short)

        yield
    finally:
        for who in machines:
            _set(lab, who, usual)


def _set(lab: Lab, who: str, values: dict[str, int]) -> None:
    lines = [
        f"for file in /proc/sys/net/*/neigh/eth*/{name}; do echo {value} > $file; done"
        for name, value in values.items()
    ]
    lab.run(who, ["sh", "-ec", "\n".join(lines)], check=True)

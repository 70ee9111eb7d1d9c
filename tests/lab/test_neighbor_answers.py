"""Who asks for a router is told by the switch, once, whatever the VM does; so its neighbors never stop sending."""

from __future__ import annotations

import os
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
RATE_HZ = "50"
RATE_PPS = "500"
PORT = 5000
SLOW = bool(os.environ.get("XENFLOW_SLOW"))
FREEZES_S = [(0.05, 0.2, 1.0), (5.0,), *([(20.0,)] if SLOW else [])]


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
def asking(lab: Lab) -> Iterator[dict[str, dict[str, Any]]]:
    """All askers ask for r1 while the block runs; what each counted is in the dictionary after it."""
    mac = tools.macs(lab, "r1")[0]
    targets = ["10.0.1.1", "fd00:1::1", str(ip_address(link_local_of(pack_mac(mac))))]
    words = ["--mac", mac, "--rate-hz", RATE_HZ, *(word for target in targets for word in ("--target", target))]
    counted: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        askers = {}
        for who in ASKERS:
            (interface,) = lab.plan.machines[who].interfaces
            own = [word for address in interface.addresses for word in ("--own", address.split("/")[0])]
            askers[who] = stack.enter_context(tools.begin(lab, who, "ask", *words, *own))
        ring.pause(lab, 1)
        yield counted
        ring.pause(lab, 0.5)
        counted |= {who: tool.stop() for who, tool in askers.items()}


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
    """Ordered moves and moves by hand, to and from each node; then without a controller."""
    with asking(lab) as counted:
        for _ in NODES:
            assert ended(lab, order(lab, "r1", next_node(lab))).state == "done"
        for freeze_s in (0.2, 1.0):
            move_by_hand(lab, freeze_s)
        lab.process("controller").kill()
        ring.pause(lab, 1)
        lab.process("controller").start()
        lab.wait_until(lambda: not lab.awaited(), 20, "the controller that starts")
    assert_one_answer_each(counted)


@pytest.mark.parametrize("freezes_s", FREEZES_S)
def test_neighbors_whose_entries_are_stale_keep_sending(lab: Lab, freezes_s: tuple[float, ...]) -> None:
    """Their entries hold for a second or less: without an answer they give up within any of the longer freezes."""
    with impatient(lab, "h3", "r2"), ExitStack() as stack:
        ways = {"v4": ("h3", "g1", "10.0.2.11"), "v6": ("h3", "g1", "[fd00:2::11]"), "back": ("g1", "h3", "10.0.1.13")}
        receivers, senders = {}, []
        for number, (name, (_, to, _)) in enumerate(ways.items()):
            words = ("--port", str(PORT + number), "--flows", "1")
            receivers[name] = stack.enter_context(tools.start(lab, to, "receive", *words))
        for number, (source, _, address) in enumerate(ways.values()):
            words = ("--to", f"{address}:{PORT + number}", "--rate-pps", RATE_PPS, "--size", "64")
            senders.append(stack.enter_context(tools.begin(lab, source, "send", *words)))
        ring.pause(lab, 2)
        for freeze_s in freezes_s:
            move_by_hand(lab, freeze_s)
        ring.pause(lab, 1)
        sent = [sender.stop()["sent"] for sender in senders]
        reports = {name: receiver.end(10) for name, receiver in receivers.items()}
    print(f"frozen for {freezes_s} s: {ring.figures(reports)}")
    for (name, report), count in zip(reports.items(), sent, strict=True):
        assert report["expected"] == count, name
        assert (report["lost"], report["duplicated"]) == (0, 0), (name, ring.figures(reports))


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

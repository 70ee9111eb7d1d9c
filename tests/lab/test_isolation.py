"""Two tenants with the same addresses: each reaches all of its own, nothing ever passes between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab import tools
from xenflow_lab.command import PATIENCE
from xenflow_lab.forgeries import forgeries
from xenflow_lab.lab import Lab
from xenflow_lab.traffic.launch import Tool

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

TENANTS = ("red", "blue")


class Watch:
    """Captures at every host: frames with another tenant's marker or MAC addresses are foreign."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self._tools: dict[str, Tool] = {}
        for tenant in TENANTS:
            known = [word for mac in tools.macs(lab, tenant) for word in ("--mac", mac)]
            for host in tools.hosts(lab, tenant):
                arguments = ("--interface", "eth0", "--tenant", tenant, *known)
                self._tools[host] = stack.enter_context(tools.start(lab, host, "capture", *arguments))

    def reports(self) -> dict[str, dict[str, Any]]:
        """End the captures; return what each host saw."""
        return {host: tool.stop() for host, tool in self._tools.items()}


@pytest.fixture
def watch(demo_lab: Lab) -> Iterator[Watch]:
    with ExitStack() as stack:
        yield Watch(demo_lab, stack)


def assert_nothing_foreign(reports: dict[str, dict[str, Any]]) -> None:
    assert {host: report["missed"] for host, report in reports.items()} == dict.fromkeys(reports, 0)
    assert {host: report["foreign"] for host, report in reports.items()} == dict.fromkeys(reports, 0), {
        host: report["interfaces"]["eth0"]["samples"] for host, report in reports.items() if report["foreign"]
    }


@pytest.mark.parametrize("tenant", TENANTS)
def test_every_host_of_a_tenant_reaches_every_other(demo_lab: Lab, tenant: str) -> None:
    found = tools.matrix(demo_lab, tenant)
    assert len(found) == 12
    assert all(found.values()), found


def test_equal_addresses_never_meet(demo_lab: Lab, watch: Watch) -> None:
    """Both tenants send to the same addresses at the same time; each receives its own packets, all of them."""
    lab = demo_lab
    receivers, senders = {}, []
    for tenant in TENANTS:
        for number, target in enumerate(("10.0.2.10", "fd00:0:0:2::10")):
            receiver = tools.start(lab, f"{tenant}-h2", "receive", "--port", str(7000 + number), "--flows", "1")
            receivers[tenant, target] = receiver
            where = f"[{target}]" if ":" in target else target
            arguments = ("--to", f"{where}:{7000 + number}", "--rate-pps", "500", "--count", "1500", "--tenant", tenant)
            senders.append(tools.begin(lab, f"{tenant}-h1", "send", *arguments, "--size", "100"))
    sent = [sender.result() for sender in senders]
    assert all(report["sent"] == 1500 for report in sent), sent
    for what, receiver in receivers.items():
        report = receiver.result()
        assert (report["received"], report["lost"], report["duplicated"]) == (1500, 0, 0), what
    reports = watch.reports()
    for tenant in TENANTS:
        for host, way in ((f"{tenant}-h1", "sent"), (f"{tenant}-h2", "received")):
            seen = reports[host]["interfaces"]["eth0"][way]["markers"]
            assert seen.keys() == {tenant}
            assert seen[tenant] >= 3000
    assert_nothing_foreign(reports)


def test_forged_frames_of_a_guest_reach_nobody(demo_lab: Lab, watch: Watch) -> None:
    lab = demo_lab
    with ExitStack() as stack:
        routers = {
            who: stack.enter_context(tools.start(lab, who, "capture", "--tenant", who.split("-")[0]))
            for who in ("red-r1", "red-r2", "blue-r1", "blue-r2")
        }
        tried = forgeries(lab)
        for arguments in tried.values():
            done = tools.run(
                lab, "red-h1", "inject", "--interface", "eth0", "--count", "20", "--rate-pps", "500", *arguments
            )
            assert done["sent"] == 20
        seen = {who: tool.stop() for who, tool in routers.items()}
    reports = watch.reports()
    assert reports["red-h1"]["interfaces"]["eth0"]["sent"]["markers"] == {
        "intruder": 20 * (len(tried) - 1),
        "red": 20,
    }
    reports.pop("red-h1")
    assert_nothing_foreign(reports)
    assert {who: report["foreign"] for who, report in seen.items()} == dict.fromkeys(seen, 0)


def test_routed_packets_do_not_pass_the_vm(demo_lab: Lab) -> None:
    lab = demo_lab
    assert all(tools.answers(lab, "red-h1", ["10.0.2.10", "fd00:0:0:2::10"]).values())
    with ExitStack() as stack:
        routers = {
            who: stack.enter_context(tools.start(lab, who, "capture", "--interface", "eth0", "--interface", "eth1"))
            for who in ("red-r1", "red-r2")
        }
        for target in ("10.0.2.10", "[fd00:0:0:2::10]"):
            receiver = tools.start(lab, "red-h2", "receive", "--port", "7100", "--flows", "1")
            arguments = (
                "--to",
                f"{target}:7100",
                "--rate-pps",
                f"{5000 / PATIENCE:g}",
                "--count",
                "10000",
                "--size",
                "64",
                "--tenant",
                "red",
            )
            assert tools.run(lab, "red-h1", "send", *arguments)["sent"] == 10000
            report = receiver.result()
            assert (report["received"], report["lost"], report["duplicated"]) == (10000, 0, 0)
        for who, tool in routers.items():
            seen = tool.stop()
            assert seen["missed"] == 0
            for report in seen["interfaces"].values():
                assert report["received"]["markers"] == {}, who
                assert report["sent"]["markers"] == {}, who


def test_matrix_still_holds_and_nothing_foreign_was_admitted(demo_lab: Lab) -> None:
    for tenant in TENANTS:
        found = tools.matrix(demo_lab, tenant)
        assert all(found.values()), found

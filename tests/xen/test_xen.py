"""Two emulated Xen hosts: packages and units in Dom0, migrations by Xen under numbered packets, upgrade and reboot.

`make test-xen`. The tests build on each other: r1 begins on n1, and what is where after each test is said there.
XENFLOW_RATE_PPS (default 2040) is the highest rate that is tried.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bench import interruption_xen
from bench.interruption_vms import XENFLOW, Trial
from bench.interruption_xen import NODES, ROUTER
from tests.debs import install
from tests.lab import moving
from tests.xen import hosts
from xenflow.answers import MigrationStatus
from xenflow_lab.xen import images, trial
from xenflow_lab.xen.lab import XenLab

pytestmark = [pytest.mark.xen, pytest.mark.root]

MOST_PPS = float(os.environ.get("XENFLOW_RATE_PPS", trial.MOST_PPS))
NEWER = "0~lab2"
UNITS = {"xenflow-server": {"Type": "notify", "NRestarts": "0", "WatchdogUSec": "1min", "ActiveState": "active"}}
FOLLOWED_S = 600.0


@pytest.fixture(scope="module")
def flow(lab: XenLab) -> trial.Flow:
    """The flow at the highest rate that these hosts carry without loss while nothing moves."""
    return trial.lossless(lab, MOST_PPS)


def test_everything_is_in_sync(lab: XenLab) -> None:
    hosts.assert_settled_at(lab, "n1")
    print(hosts.shown_status(lab))


@pytest.mark.parametrize("node", NODES)
def test_the_units_run_as_the_packages_have_them(lab: XenLab, node: str) -> None:
    for unit, expected in UNITS.items():
        assert hosts.properties(lab.hosts[node], unit, *expected) == expected, unit
    assert hosts.versions(lab.hosts[node]) == {f"{images.VERSION} installed"}


@pytest.mark.parametrize("node", NODES)
def test_the_kernel_forwards(lab: XenLab, node: str) -> None:
    assert lab.appctl(node, "dpctl/dump-dps").split() == ["system@ovs-system"]


def test_the_hosts_lose_nothing_while_nothing_moves(flow: trial.Flow) -> None:
    assert flow.rate_pps >= trial.LEAST_PPS


def test_xen_migrates_it_and_no_packet_notices(lab: XenLab, flow: trial.Flow, trials: list[Trial]) -> None:
    """r1 goes to n2. OSPF has 10 s between hellos and is patient for 120 s."""
    full_s, began = hosts.adjacency_s(lab), time.monotonic()
    ended: list[MigrationStatus] = []
    found = interruption_xen.measure(
        lab, XENFLOW, lambda: ended.append(interruption_xen.order(lab, "n2")), flow.rate_pps
    )
    print(f"\n  {interruption_xen.words(found)}; {moving.steps(ended[0])} ms")
    assert [(one.state, one.error, one.planned) for one in ended] == [("done", "", True)]
    assert (found.lost, found.doubled) == (0, 0)
    hosts.assert_settled_at(lab, "n2")
    assert full_s > 0
    assert hosts.adjacency_s(lab) >= time.monotonic() - began, "OSPF has lost its neighbor"
    trials.append(found)


def test_an_upgrade_and_a_reboot_lose_no_definition(lab: XenLab, tmp_path: Path) -> None:
    """On n2, which has r1 by a definition that it was handed over. r1 is started there again."""
    host = lab.hosts["n2"]
    before = hosts.definitions(host)
    assert f"/var/lib/xenflow/routers/{ROUTER}.json" in before
    images.build_packages(tmp_path, NEWER)
    install(host, images.pick(tmp_path, images.HOST_DEBS))
    assert hosts.versions(host) == {f"{NEWER} installed"}
    assert hosts.definitions(host) == before
    hosts.assert_settled_at(lab, "n2")
    hosts.reboot(lab, "n2")
    assert hosts.definitions(host) == before
    assert hosts.properties(host, "xenflow-server", "ActiveState") == {"ActiveState": "active"}
    host.check(["xl", "create", f"/etc/xen/{ROUTER}.cfg"], timeout_s=interruption_xen.CREATE_S)
    hosts.await_adjacency(lab)
    hosts.assert_settled_at(lab, "n2")
    trial.await_traffic(lab)


def test_a_migration_typed_by_hand_ends_in_the_same_state(lab: XenLab) -> None:
    """r1 goes back to n1."""
    before = {item.number for item in moving.migrations(lab)}
    found = trial.count(lab, lambda: lab.move(ROUTER, "n1"))
    print(f"\n  by hand, {trial.LEAST_PPS:g} packets/s: {found}")

    def followed() -> list[MigrationStatus]:
        return [item for item in moving.migrations(lab) if item.number not in before and item.ended]

    lab.wait_until(lambda: bool(followed()), FOLLOWED_S, "the end of a migration that nobody has ordered")
    assert [(one.planned, one.state, one.target) for one in followed()] == [(False, "done", "n1")]
    hosts.assert_settled_at(lab, "n1")
    assert found.is_whole


def test_the_same_guest_loses_packets_when_they_pass_it(lab: XenLab, trials: list[Trial]) -> None:
    """Last, since the hosts are plain switches from here on; draws both."""
    found = interruption_xen.native(lab)
    print(f"\n  {interruption_xen.words(found)}")
    interruption_xen.draw([*trials, found])
    assert found.lost > found.rate_pps, "less than a second of packets"

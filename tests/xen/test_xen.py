"""Two emulated Xen hosts: packages and units in Dom0, migrations by Xen under numbered packets, upgrade and reboot.

`make test-xen`. The tests build on each other, but r1 is brought where a test needs it: an earlier one may have failed.
XENFLOW_RATE_PPS (default 2040) is the highest rate that is tried.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from bench import interruption_xen
from bench.interruption_vms import Trial
from bench.interruption_xen import NODES, ROUTER
from tests.debs import install
from tests.lab import moving
from tests.xen import hosts
from xenflow.answers import MigrationStatus
from xenflow.qosanswers import Explanation
from xenflow_lab import shares
from xenflow_lab.xen import images, trial
from xenflow_lab.xen.lab import ANSWER_S, XenLab

pytestmark = [pytest.mark.xen, pytest.mark.root]

MOST_PPS = float(os.environ.get("XENFLOW_RATE_PPS", trial.MOST_PPS))
NEWER = "0~lab2"
UNITS = ("xenflow-server", "qos-controller")
RUNS = {"Type": "notify", "NRestarts": "0", "WatchdogUSec": "1min", "ActiveState": "active"}
FOLLOWED_S = 600.0
SHAPED_S, FRESH_S = 300.0, 60.0


@pytest.fixture(scope="module")
def flow(lab: XenLab) -> trial.Flow:
    """The flow at the highest rate that these hosts carry without loss while nothing moves."""
    return trial.lossless(lab, MOST_PPS)


@pytest.fixture
def on_n1(lab: XenLab) -> None:
    """r1 is there when a test begins."""
    hosts.bring(lab, "n1")


@pytest.fixture
def on_n2(lab: XenLab) -> None:
    """r1 is there when a test begins."""
    hosts.bring(lab, "n2")


def test_everything_is_in_sync(lab: XenLab) -> None:
    hosts.assert_settled_at(lab, "n1")
    print(hosts.shown_status(lab))


@pytest.mark.parametrize("node", NODES)
def test_the_units_run_as_the_packages_have_them(lab: XenLab, node: str) -> None:
    for unit in UNITS:
        assert hosts.properties(lab.hosts[node], unit, *RUNS) == RUNS, unit
    assert hosts.versions(lab.hosts[node]) == {f"{images.VERSION} installed"}


def test_what_was_hired_is_shaped(lab: XenLab) -> None:
    """r1 has hired 20 Mbit/s on its way to the sender, whose port at n1 is the only link with a capacity."""
    (port,) = (access.port for access in lab.built.accesses if access.table.capacity)
    lab.wait_until(lambda: (ROUTER, "") in shares.queue_ids(lab, "n1", port), SHAPED_S, f"a queue of {ROUTER}")
    found = shares.shares(lab)
    assert (found.refused, found.silent, found.broken) == ({}, {}, [])
    assert [(link.port, link.state, link.kept) for link in found.nodes["n1"].links] == [(port, "shaped", 1)]
    queues = {(queue.owner, queue.name): queue.hired for queue in found.nodes["n1"].links[0].queues}
    assert queues[ROUTER, ""] == 20_000_000
    explained = msgspec.json.decode(lab.ask("qos explain", {"link": f"n1:{port}"}), type=Explanation)
    assert explained.age_s < FRESH_S
    assert "class htb" in lab.hosts["n1"].shell(f"tc class show dev {port}", timeout_s=ANSWER_S)


@pytest.mark.parametrize("node", NODES)
def test_the_kernel_forwards(lab: XenLab, node: str) -> None:
    assert lab.appctl(node, "dpctl/dump-dps").split() == ["system@ovs-system"]


def test_the_hosts_lose_nothing_while_nothing_moves(flow: trial.Flow) -> None:
    assert flow.rate_pps >= trial.LEAST_PPS


@pytest.mark.usefixtures("on_n1")
def test_xen_migrates_it_and_no_packet_notices(lab: XenLab, flow: trial.Flow, trials: list[Trial]) -> None:
    """r1 goes to n2, and to and fro if the hosts are too slow for the rate and the copy, until a rate is low enough.

    OSPF has 10 s between hellos and is patient for 120 s.
    """
    full_s, began = hosts.adjacency_s(lab), time.monotonic()
    tries = interruption_xen.migrate(lab, flow.rate_pps)
    trials += [one.trial for one in tries]
    for one in tries:
        print(f"\n  {interruption_xen.words(one.trial)}; {moving.steps(one.status)} ms")
        assert (one.status.state, one.status.error, one.status.planned) == ("done", "", True)
        assert one.trial.doubled == 0
    last = tries[-1]
    assert last.trial.lost == 0, f"even at {last.trial.rate_pps} packets/s"
    hosts.assert_settled_at(lab, last.status.target)
    assert full_s > 0
    assert hosts.adjacency_s(lab) >= time.monotonic() - began, "OSPF has lost its neighbor"


@pytest.mark.usefixtures("on_n2")
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
    for unit in UNITS:
        assert hosts.properties(host, unit, "ActiveState") == {"ActiveState": "active"}
    hosts.start(lab, "n2")
    hosts.assert_settled_at(lab, "n2")
    trial.await_traffic(lab)


@pytest.mark.usefixtures("on_n2")
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
    found, rest = interruption_xen.native(lab, trials[-1].rate_pps if trials else trial.LEAST_PPS)
    print(f"\n  {rest.words}\n  {interruption_xen.words(found)}")
    interruption_xen.draw([*trials, found])
    by_itself = rest.count.lost_share * found.sent
    assert found.lost - by_itself > found.rate_pps, "less than a second of packets"

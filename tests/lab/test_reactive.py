"""Reactive forwarding: an exact flow at each first packet, none lost or doubled; it follows routes and neighbors."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import tools
from tests.lab.conftest import TOPOLOGIES, LabFactory, Overrides, await_demo
from xenflow_lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

REACTIVE = Overrides(mode="reactive")
EXACT_TABLE = 28
IDLE_TIMEOUT_S = 5
STARTED_S = 15
"""How long a sender may take to start and have its first packets decided."""
END_MARKERS_S = 2
"""How long a receiver waits for end markers: one that others took over from gets none."""
FIELDS = {"in_port", "reg0", "reg2", "dl_src", "dl_dst", "nw_tos"}
"""What an exact flow matches, besides the addresses."""


@pytest.fixture(scope="module")
def chain(make_lab: LabFactory) -> Lab:
    lab = make_lab(Path(__file__).parent / "chain.toml", "chain", overrides=REACTIVE)
    for host in ("h2", "h3", "plain"):
        lab.run(host, ["ip", "route", "add", "local", "10.64.0.0/10", "dev", "lo"], check=True)
        lab.run(host, ["ip", "-6", "route", "add", "local", "fd10::/16", "dev", "lo"], check=True)
    lab.wait_settled()
    far = ["10.0.3.10", "10.0.3.11", "10.0.3.20", "fd00:3::10"]
    assert all(tools.answers(lab, "h1", far).values())  # all neighbors are known: a VM drops what waits for one
    return lab


def exact_flows(lab: Lab, node: str = "n1") -> list[dict[str, str]]:
    """The exact flows of a switch: each field that they match, and their actions."""
    found = []
    for line in lab.ofctl(node, "dump-flows", f"table={EXACT_TABLE}").splitlines():
        if "priority=100," not in line:
            continue
        match, _, acts = line.partition("priority=100,")[2].partition(" actions=")
        fields = dict(word.partition("=")[::2] for word in match.split(","))
        found.append(fields | {"actions": acts, "idle_timeout": _number(line, "idle_timeout")})
    return found


def covered(lab: Lab, subnet: str) -> list[dict[str, str]]:
    """The exact flows of n1 to addresses that begin like this."""
    return [flow for flow in exact_flows(lab) if flow.get("nw_dst", "").startswith(f"{subnet}.")]


def installed(lab: Lab, node: str = "n1") -> set[str]:
    """All flows of a switch, without what counts and ages."""
    dumped = lab.ofctl(node, "dump-flows", "--no-stats")
    return set(dumped.splitlines())


def _number(line: str, name: str) -> str:
    matched = re.search(rf"{name}=(\d+)", line)
    return matched[1] if matched else ""


def send(lab: Lab, to: str, *words: str) -> dict[str, Any]:
    return tools.run(lab, "h1", "send", "--to", to, *words)


def assert_all(report: dict[str, Any], count: int) -> None:
    counts = (report["received"], report["lost"], report["duplicated"], report["dropped_by_socket"])
    assert counts == (count, 0, 0, 0)


@pytest.fixture
def replaced(chain: Lab) -> Iterator[Lab]:
    """The chain, with its routes as they were afterwards."""
    yield chain
    chain.run("r2", ["ip", "route", "replace", "10.64.0.0/16", "via", "10.0.3.10"], check=True)
    chain.run("r2", ["ip", "route", "flush", "10.64.41.0/24"])


def test_every_host_of_a_tenant_reaches_every_other(make_lab: LabFactory) -> None:
    lab = make_lab(TOPOLOGIES / "demo.toml", "demo-r", overrides=REACTIVE)
    await_demo(lab)
    assert lab.app_status().mode == "reactive"
    for tenant in ("red", "blue"):
        found = tools.matrix(lab, tenant)
        assert len(found) == 12
        assert all(found.values()), found
    lab.down()


@pytest.mark.parametrize(
    ("to", "flows"), [("10.64.0.1-10.64.7.208:7000", 2000), ("[fd10::1]-[fd10::1f4]:7000", 500)]
)  # fmt: skip
def test_first_packets_go_on_none_lost_none_doubled(chain: Lab, to: str, flows: int) -> None:
    """Each destination is new to both routers: its first packet passes the controller twice."""
    with tools.start(chain, "h2", "receive", "--port", "7000", "--flows", str(flows)) as receiver:
        send(chain, to, "--rate-pps", "500", "--count", str(2 * flows))
        assert_all(receiver.result(), 2 * flows)


def test_a_burst_of_a_new_flow_is_not_lost_while_its_first_packet_is_decided(chain: Lab) -> None:
    with tools.start(chain, "h2", "receive", "--port", "7001", "--flows", "1") as receiver:
        send(chain, "10.64.9.1:7001", "--rate-pps", "5000", "--count", "1000")
        assert_all(receiver.result(), 1000)


def test_an_exact_flow_has_the_fields_of_the_paper_and_no_layer_4(chain: Lab) -> None:
    destination = "10.64.10.1"
    for dscp in ("0", "46"):
        send(chain, f"{destination}:7002", "--ports", "5", "--count", "10", "--dscp", dscp)
    flows = [flow for flow in exact_flows(chain) if flow.get("nw_dst") == destination]
    assert len(flows) == 4  # two routers, two classes; the ports make no difference
    macs = {(vif.machine, vif.network): vif.interface.mac for vif in chain.plan.vifs}
    for flow in flows:
        assert flow.keys() - {"actions", "idle_timeout"} == FIELDS | {"ip", "nw_src", "nw_dst"}
        assert (flow["nw_src"], flow["idle_timeout"]) == ("10.0.1.10", str(IDLE_TIMEOUT_S))
        assert flow["actions"].startswith("load:")
    assert {flow["nw_tos"] for flow in flows} == {"0", str(46 << 2)}
    hops = {(int(flow["reg0"], 16), flow["dl_src"], flow["dl_dst"]) for flow in flows}
    assert hops == {
        (10, macs["h1", "left"], macs["r1", "left"]),
        (20, macs["r1", "middle"], macs["r2", "middle"]),
    }
    port = next(vif.ofport for vif in chain.plan.vifs if vif.machine == "h1")
    assert str(port) in {re.sub(r"\D", "", flow["in_port"]) or flow["in_port"] for flow in flows}


def test_a_restarted_app_takes_the_exact_flows_over(chain: Lab) -> None:
    lab, count = chain, 8000
    with (
        tools.start(lab, "h2", "receive", "--port", "7005", "--flows", "50") as receiver,
        tools.begin(lab, "h1", "send", "--to", "10.64.20.1-10.64.20.50:7005", "--count", str(count)) as sender,
    ):
        lab.wait_until(lambda: len(covered(lab, "10.64.20")) == 100, STARTED_S, "exact flows")
        before = installed(lab)
        process = lab.process("controller")
        process.kill()
        process.start()
        lab.wait_settled()
        assert [node.flow_mods_sent for node in lab.app_status().nodes] == [0, 0], before ^ installed(lab)
        assert sender.result()["sent"] == count
        assert_all(receiver.result(), count)


@pytest.mark.parametrize(("prefix", "subnet"), [("10.64.0.0/16", "10.64.40"), ("10.64.41.0/24", "10.64.41")])
def test_packets_follow_a_route_at_once(replaced: Lab, prefix: str, subnet: str) -> None:
    """The same route by another neighbor, and a longer one: the exact flows of what it covers are replaced."""
    lab, count = replaced, 4000
    with (
        tools.start(lab, "h2", "receive", "--port", "7003") as before,
        tools.start(lab, "h3", "receive", "--port", "7003") as after,
        tools.begin(lab, "h1", "send", "--to", f"{subnet}.1-{subnet}.20:7003", "--count", str(count)) as sender,
    ):
        lab.wait_until(lambda: len(covered(lab, subnet)) == 40, STARTED_S, "exact flows")
        actions = {flow["actions"] for flow in covered(lab, subnet)}
        changed_ns = time.monotonic_ns()
        lab.run("r2", ["ip", "route", "replace", prefix, "via", "10.0.3.11"], check=True)
        told_ns = time.monotonic_ns()
        assert sender.result()["sent"] == count
        assert len(covered(lab, subnet)) == 40
        assert {flow["actions"] for flow in covered(lab, subnet)} - actions
        old, new = before.end(END_MARKERS_S), after.end(END_MARKERS_S)
    assert old["received"] + new["received"] == count
    assert old["duplicated"] + new["duplicated"] == 0
    assert old["received"] > 0
    assert len(new["flows"]) == 20
    last_ns = max(flow["last_ns"] for flow in old["flows"])
    first_ns = max(flow["first_ns"] for flow in new["flows"])
    since_ns = {"ordered": changed_ns - told_ns, "last": last_ns - told_ns, "first": first_ns - told_ns}
    assert max(since_ns.values()) < 1e9, since_ns


def test_packets_follow_a_neighbor_s_new_mac_at_once(chain: Lab) -> None:
    lab, count, new = chain, 3000, "02:aa:00:00:00:77"
    lab.run("plain", ["ping", "-c1", "10.0.3.1"], check=True)
    with (
        tools.start(lab, "plain", "receive", "--port", "7004", "--flows", "1") as receiver,
        tools.begin(lab, "h1", "send", "--to", "10.65.0.1:7004", "--count", str(count)) as sender,
    ):
        lab.wait_until(
            lambda: any(flow.get("nw_dst") == "10.65.0.1" for flow in exact_flows(lab)), STARTED_S, "exact flows"
        )
        lab.run("plain", ["ip", "link", "set", "eth0", "address", new], check=True)
        lab.run(
            "r2", ["ip", "neigh", "replace", "10.0.3.20", "lladdr", new, "dev", "eth1", "nud", "reachable"], check=True
        )
        assert sender.result()["sent"] == count
        report = receiver.result()
    assert report["duplicated"] == 0
    assert report["longest_gap_ns"] < 1e9
    assert report["received"] >= count - 500


def test_exact_flows_go_when_nobody_uses_them(chain: Lab) -> None:
    send(chain, "10.64.30.1:7006", "--count", "5")
    assert any(flow.get("nw_dst") == "10.64.30.1" for flow in exact_flows(chain))
    chain.wait_until(lambda: not exact_flows(chain), IDLE_TIMEOUT_S + 5, "no exact flow")
    assert chain.app_status().nodes[0].flows_pending == 0
    with tools.start(chain, "h2", "receive", "--port", "7006", "--flows", "1") as receiver:
        send(chain, "10.64.30.1:7006", "--count", "5")
        assert_all(receiver.result(), 5)

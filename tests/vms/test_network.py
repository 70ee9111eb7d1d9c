"""What the core promises, with routers that are virtual machines: everybody of a tenant is reached, nobody else is."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from xenflow_lab import forgeries, stations
from xenflow_lab.demo import isolation
from xenflow_lab.lab import Lab
from xenflow_lab.traffic.launch import Tool

pytestmark = [pytest.mark.vms, pytest.mark.root, pytest.mark.ovs]


def test_everybody_of_a_tenant_is_reached(lab: Lab) -> None:
    for tenant in ("red", "blue"):
        found = stations.matrix(lab, tenant)
        assert len(found) == 4
        assert all(found.values()), found


def test_the_routers_are_hops(lab: Lab) -> None:
    routes = {"red": ["10.0.1.1", "10.0.9.2", "10.0.2.10"], "blue": ["10.0.1.1", "10.0.2.10"]}
    for tenant, hops in routes.items():
        text = lab.run(f"{tenant}-h1", ["traceroute", "-n", "-q1", "-w5", "10.0.2.10"]).stdout
        assert [line.split()[1] for line in text.splitlines()[1:]] == hops, text


def test_the_machines_are_debian_with_the_clients_package(lab: Lab) -> None:
    found = lab.run("red-r1", ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", "xenflow-client", "frr"])
    assert set(found.stdout.split("\n")) == {"xenflow-client installed", "frr installed", ""}, found
    assert lab.run("red-r1", ["uname", "-r"]).stdout.strip().endswith("-cloud-amd64")


def test_equal_addresses_never_meet(lab: Lab) -> None:
    with ExitStack() as stack:
        captures = {who: stack.enter_context(_capture(lab, who)) for who in stations.hosts(lab)}
        exchanges = isolation.exchange(lab)
        forged = sum(isolation.forge(lab, words) for words in forgeries.forgeries(lab).values())
        seen = {who: tool.stop() for who, tool in captures.items()}
    assert all(exchange.is_whole for exchange in exchanges.values()), exchanges
    assert forged > 100
    assert {who: report["foreign"] for who, report in seen.items()} == dict.fromkeys(seen, 0)


def _capture(lab: Lab, who: str) -> Tool:
    tenant = who.partition("-")[0]
    macs = [word for mac in stations.macs(lab, tenant) for word in ("--mac", mac)]
    return stations.start(lab, who, "capture", "--tenant", tenant, "--interface", "eth0", *macs)

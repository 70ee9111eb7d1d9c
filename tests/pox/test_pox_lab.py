"""A whole network under POX is the network that the stand-alone host makes, flow by flow."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator

import pytest

from tests.lab import tools
from tests.lab.conftest import TOPOLOGIES, Overrides, await_demo, own_name
from xenflow.model import link_local_of
from xenflow_lab.lab import Lab
from xenflow_lab.plan import Kind
from xenflow_lab.topology import Controller

pytestmark = [pytest.mark.root, pytest.mark.ovs, pytest.mark.lab, pytest.mark.pox]

TENANTS = ("red", "blue")
SETTLING_S = 30.0
EXACT_TABLE = 28

Dumps = dict[str, list[str]]


def demo(controller: Controller, mode: str) -> Iterator[Lab]:
    name = own_name(f"{controller.value[:3]}-{mode[:3]}")
    with Lab(TOPOLOGIES / "demo.toml", name, overrides=Overrides(controller, mode)) as lab:
        await_demo(lab)
        yield lab


def make_everybody_known(lab: Lab) -> None:
    """Which neighbors a router knows depends on who has talked to whom: let all of them, by each of their addresses."""
    for tenant in TENANTS:
        found = tools.matrix(lab, tenant)
        assert all(found.values()), found
    for router in lab.plan.of_kind(Kind.ROUTER):
        found = tools.answers(lab, router.name, neighbors(lab, router.name))
        assert all(found.values()), found
    lab.wait_settled()


def neighbors(lab: Lab, router: str) -> list[str]:
    """All addresses in the networks of a router, link-local ones included."""
    found = []
    for vif in (vif for vif in lab.plan.vifs if vif.machine == router):
        for other in (other for other in lab.plan.vifs if other.machine != router):
            if other.network == vif.network:
                found.append(f"{link_local(other.interface.mac)}%{vif.interface.device}")
                found += bare(other.interface.addresses)
    return found


def bare(addresses: tuple[str, ...]) -> list[str]:
    return [address.partition("/")[0] for address in addresses]


def link_local(mac: str) -> str:
    return str(ipaddress.IPv6Address(link_local_of(bytes.fromhex(mac.replace(":", "")))))


def dumps(lab: Lab) -> Dumps:
    """The flows of every node, sorted, without what counts packets or time."""
    return {
        node.name: sorted(
            re.sub(r"\b(duration|n_packets|n_bytes|idle_age|hard_age)=[^, ]+,? ?", "", line).strip()
            for line in lab.ofctl(node.name, "dump-flows").splitlines()
            if "cookie=" in line
        )
        for node in lab.plan.of_kind(Kind.NODE)
    }


def difference(expected: Dumps, found: Dumps) -> str:
    return "\n".join(
        line
        for node in expected
        for line in difflib.unified_diff(expected[node], found[node], f"{node} stand-alone", f"{node} POX", n=0)
    )


@pytest.fixture(scope="module")
def standalone() -> Dumps:
    """What the stand-alone host installs."""
    for lab in demo(Controller.STANDALONE, "proactive"):
        make_everybody_known(lab)
        found = dumps(lab)
    return found


@pytest.fixture(scope="module")
def pox_lab() -> Iterator[Lab]:
    yield from demo(Controller.POX, "proactive")


def test_the_same_topology_gives_the_same_flows(standalone: Dumps, pox_lab: Lab) -> None:
    make_everybody_known(pox_lab)
    assert sum(map(len, standalone.values())) > 500
    pox = dumps(pox_lab)
    assert not difference(standalone, pox)
    assert pox == standalone


def test_reactive_mode_passes_the_same_matrix(pox_lab: Lab) -> None:
    pox_lab.down()
    for lab in demo(Controller.POX, "reactive"):
        for tenant in TENANTS:
            found = tools.matrix(lab, tenant)
            assert len(found) == 12
            assert all(found.values()), found
        exact = [lab.ofctl(node.name, "dump-flows", f"table={EXACT_TABLE}") for node in lab.plan.of_kind(Kind.NODE)]
        assert any("nw_dst=10.0.2.10" in text for text in exact)
        assert any("ipv6_dst=fd00:0:0:2::10" in text for text in exact)

"""Names and numbers of a lab: unique, short enough, and the same every time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.unit.lab.topologies import EXAMPLES, RING, parsed
from xenflow_lab import fabric, openvswitch, topology
from xenflow_lab.lab import Overrides
from xenflow_lab.paths import Paths
from xenflow_lab.plan import MAX_INTERFACE_NAME, Kind, Plan, plan
from xenflow_lab.topology import Datapath


@pytest.fixture(params=["ring", *sorted(path.stem for path in EXAMPLES.glob("*.toml"))])
def built(request: pytest.FixtureRequest) -> Plan:
    if request.param == "ring":
        return plan(parsed(RING))
    return plan(topology.load(EXAMPLES / f"{request.param}.toml"))


def veth_ends(built: Plan) -> list[tuple[str, str]]:
    """Return (namespace, interface) of every veth end in the batch."""
    ends = []
    for line in fabric.links(built, Paths(built.name)).splitlines():
        words = line.split()
        ends.append((words[4], words[2]))
        peer = words.index("peer")
        ends.append((words[peer + 4], words[peer + 2]))
    return ends


def test_interfaces_are_unique_and_short(built: Plan) -> None:
    ends = veth_ends(built)
    assert [end for end, count in Counter(ends).items() if count > 1] == []
    assert [name for _, name in ends if len(name) > MAX_INTERFACE_NAME] == []


def test_every_namespace_is_a_machine(built: Plan) -> None:
    paths = Paths(built.name)
    assert {space for space, _ in veth_ends(built)} <= {paths.namespace(name) for name in built.machines}


def test_every_veth_end_is_brought_up(built: Plan) -> None:
    paths = Paths(built.name)
    batches = fabric.switch_side(built)
    for guest in built.of_kind(Kind.ROUTER, Kind.HOST, Kind.OUTSIDE):
        batches[guest.name] = fabric.guest_side(built, guest)
    up = {
        (paths.namespace(who), line.split()[2])
        for who, text in batches.items()
        for line in text.splitlines()
        if line.endswith(" up")
    }
    assert set(veth_ends(built)) <= up


def test_port_numbers_are_unique_on_each_node(built: Plan) -> None:
    for node in built.of_kind(Kind.NODE):
        ports = openvswitch.node_ports(built, node.name)
        assert len({port.ofport for port in ports}) == len(ports)
        assert all(0 < port.ofport < 0xFF00 for port in ports)


def test_macs_are_unique(built: Plan) -> None:
    macs = [interface.mac for machine in built.machines.values() for interface in machine.interfaces]
    macs += [control.mac for control in built.controls]
    assert len(set(macs)) == len(macs)


def test_plan_is_repeatable(built: Plan) -> None:
    assert plan(built.topology, built.name) == built


def test_guest_takes_mtu_of_its_network() -> None:
    ring = plan(parsed(RING))
    assert [interface.mtu for interface in ring.machines["r1"].interfaces] == [1500, 1400]


def test_parallel_trunks_have_names_of_their_own() -> None:
    ring = plan(parsed(RING))
    assert [end.port for end in ring.trunk_ends("n1")] == ["t-n2", "trunk2", "trunk3"]
    assert [trunk.is_direct for trunk in ring.trunks] == [True, False, False]


def test_long_node_name_gives_short_port_name() -> None:
    text = RING.replace('"n2"', '"a-node-with-a-long-name"')
    assert [end.port for end in plan(parsed(text)).trunk_ends("n1")] == ["trunk1", "trunk2", "trunk3"]


def test_vm_ids_differ_between_labs_and_machines() -> None:
    ids = {vif.vm_id for name in ("a", "b") for vif in plan(parsed(RING), name).vifs}
    assert len(ids) == 4


def test_name_given_wins() -> None:
    assert plan(parsed(RING), "other").name == "other"
    assert Paths("other").namespace("h1") == "xfl.other.h1"


def test_equal_cost_routes_become_one() -> None:
    assert fabric.routes(parsed(RING).router[0].route) == [
        "route add 10.7.0.0/16 nexthop via 10.0.9.2 nexthop via 10.0.9.3"
    ]


def test_rates_and_wires() -> None:
    text = fabric.wire_filters(plan(parsed(RING)))
    assert "qdisc add dev p2 root tbf rate 2500000bit" in text
    assert text.count("root tbf rate 100000000bit") == 2
    assert fabric.join("w1", "p1") in text
    assert fabric.join("p1", "w1") in text


def test_first_transaction_sets_everything_at_once(tmp_path: Path) -> None:
    ring = plan(parsed(RING))
    tls = openvswitch.Tls(tmp_path / "key", tmp_path / "cert", tmp_path / "ca")
    words = openvswitch.first_transaction(ring, ring.machines["n1"], tls)
    text = " ".join(words)
    controller = text.index("set-controller xenbr0 ssl:172.31.0.1:6653")
    assert text.index("add-br xenbr0") < controller < text.index("add-port")
    for wanted in ("fail_mode=secure", "protocols=OpenFlow10", "datapath_type=netdev", "ofport_request=1001"):
        assert wanted in words
    assert {"controller_rate_limit=2000", "controller_burst_limit=1000"} <= set(words)
    assert 'external_ids:iface-status="active"' in words


@pytest.mark.parametrize("wanted", Datapath)
def test_a_labs_datapath_is_the_files(wanted: Datapath) -> None:
    topology = parsed(RING)
    ring = plan(Overrides(datapath=wanted).apply(topology))
    assert ring.topology.lab.datapath is wanted
    assert Overrides().apply(ring.topology).lab.datapath is wanted
    words = openvswitch.first_transaction(ring, ring.machines["n1"], None, ring.topology.lab.datapath)
    assert f"datapath_type={wanted.value}" in words


def test_without_xenflow_there_is_no_controller() -> None:
    ring = plan(parsed(RING))
    assert "set-controller" not in openvswitch.first_transaction(ring, ring.machines["n1"], None)

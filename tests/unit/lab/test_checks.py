"""Every problem of a topology is found, all at once, with table, key and value."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.lab.topologies import EXAMPLES, RING, parsed
from xenflow.errors import ConfigError
from xenflow_lab import checks, topology


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_examples_are_good(path: Path) -> None:
    assert topology.load(path).lab.name == path.stem


def test_ring_is_good() -> None:
    assert checks.problems(parsed(RING)) == []


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ('name = "ring"', 'name = "Ring.1"', "lab.name: 1 to 20 of a-z, 0-9 and '-'"),
        ('name = "ring"', 'name = "ring"\nmode = "lazy"', 'lab.mode: "proactive" or "reactive" (\'lazy\')'),
        ('name = "n2"\n[[trunk]]', 'name = "n1"\n[[trunk]]', "node.name: already the name of a node ('n1')"),
        ('name = "h1"', 'name = "r1"', "host.name: already the name of a router ('r1')"),
        ('name = "h1"', 'name = "controller"', "host.name: reserved for the lab itself ('controller')"),
        ('name = "h1"', 'name = "H 1"', "host.name: 1 to 24 of a-z"),
        ('name = "core"\nvid', 'name = "lan"\nvid', "network.name: already the name of a network ('lan')"),
        ("vid = 20", "vid = 10", "network 'core': vid: already the id of network 'lan' (10)"),
        ("vid = 20", "vid = 4095", "network 'core': vid: a VLAN id is 1 to 4094 (4095)"),
        ("mtu = 1400", "mtu = 500", "network 'core': mtu: 1280"),
        ("mtu = 1400", "mtu = 9000", "trunk 1: mtu: 9004 (the largest network's and 4 for the tag)"),
        ('["n2", "n1"]', '["n2", "n9"]', "trunk 3: between: no node of this name ('n9')"),
        ('["n2", "n1"]', '["n2", "n2"]', "trunk 3: between: two different nodes (n2, n2)"),
        ("rate_mbps = 100", "rate_mbps = -1", "trunk 3: rate_mbps: 0 (no limit) or more (-1.0)"),
        ('node = "n1"', 'node = "n7"', "router 'r1': node: no node of this name ('n7')"),
        ('network = "core"\naddresses', 'network = "cor"\naddresses', "router 'r1': interface 2: network: no network"),
        ("10.0.9.1/24", "10.0.9.1", "router 'r1': interface 2: addresses: the prefix length is missing ('10.0.9.1')"),
        ("10.0.9.1/24", "10.0.9/24", "router 'r1': interface 2: addresses: an address with its prefix length"),
        ("max_flows = 7", "max_flows = -7", "router 'r1': max_flows: 0 (no cap) or more (-7)"),
        ('via = "10.0.9.3"', 'via = "fd00::3"', "router 'r1': route: an IPv4 prefix needs an IPv4 next hop"),
        ("10.7.0.0/16", "10.7.0.1/16", "router 'r1': route: 10.7.0.1/16 has host bits set"),
        ('routing = "frr"', 'routing = "static"', "router 'r1': ospf: only with routing"),
        ("max_flows = 7", "memory_mib = 7", "router 'r1': memory_mib: must be 8 to 16777216 (7)"),
        ("max_flows = 7", "vcpus = 0", "router 'r1': vcpus: must be 1 to 4096 (0)"),
        ("max_flows = 7", "cpu_weight = 65536", "router 'r1': cpu_weight: must be 1 to 65535 (65536)"),
        (
            "max_flows = 7",
            "vcpus = 2\ncpu_cap = 201",
            "router 'r1': cpu_cap: is more than vcpus = 2 can use, 200 percent",
        ),
        ("max_flows = 7", 'bird = "x"', "router 'r1': bird: only with routing = \"bird\" ('frr')"),
        ("max_flows = 7", 'daemons = ["rip"]', "router 'r1': daemons: one of bfdd, bgpd"),
        ("max_flows = 7", "ospf_hello_s = 9", "router 'r1': ospf_dead_s: more than ospf_hello_s (9, 4)"),
        ("max_flows = 7", 'router_id = "1"', "router 'r1': router_id: four numbers"),
        ("02:00:00:00:00:AB", "03:00:00:00:00:AB", "host 'h1': mac: the address of one interface"),
        ("02:00:00:00:00:AB", "02:00", "host 'h1': mac: six bytes"),
        ("02:00:00:00:00:AB", "aa:aa:aa:aa:aa:aa", "host 'h1': mac: the address of one interface"),
        (
            'gateways = ["10.0.1.1"',
            'gateways = ["10.0.1.1/24"',
            "host 'h1': gateways: an address without",
        ),
        ('{ 100 = "core" }', '{ 0 = "core" }', "access 'wall': vlans: a VLAN id is 1 to 4094 ('0')"),
        ('{ 100 = "core" }', '{ 100 = "cor" }', "access 'wall': vlans: no network of this name ('cor')"),
        ('access = "wall"\nvlan', 'access = "well"\nvlan', "outside 'ext': interface 1: access: no access port"),
        ("vlan = 100", "vlan = 4095", "outside 'ext': interface 1: vlan: 0 (untagged) to 4094 (4095)"),
    ],
)
def test_problem_is_found(old: str, new: str, wanted: str) -> None:
    assert old in RING
    found = checks.problems(parsed(RING.replace(old, new)))
    assert [line for line in found if wanted in line], found


def test_same_mac_twice_is_found() -> None:
    text = RING.replace("ospf_cost = 5", 'mac = "02:00:00:00:00:ab"')
    assert checks.problems(parsed(text)) == [
        "host 'h1': mac: already in use by router 'r1'; a machine is found by it ('02:00:00:00:00:AB')"
    ]


def test_all_problems_at_once_with_file_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(RING.replace("vid = 20", "vid = 0").replace('node = "n2"', 'node = "n9"'))
    with pytest.raises(ConfigError) as caught:
        topology.load(path)
    assert len(caught.value.problems) == 3
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)


def test_unknown_key_and_wrong_type_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[lab]\nname = "x"\ncolour = 1\n[[node]]\nname = 5\n')
    with pytest.raises(ConfigError) as caught:
        topology.load(path)
    assert len(caught.value.problems) == 2


def test_missing_file_is_said() -> None:
    with pytest.raises(ConfigError, match=r"no-such-file\.toml"):
        topology.load(Path("no-such-file.toml"))

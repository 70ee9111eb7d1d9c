"""Configuration of routing daemons."""

from __future__ import annotations

from tests.unit.lab.topologies import RING, parsed
from xenflow_lab import routing, spaces, vlan
from xenflow_lab.plan import Machine, plan
from xenflow_lab.topology import Routing


def machine(name: str, text: str = RING) -> Machine:
    return plan(parsed(text)).machines[name]


def test_frr_has_ospf_per_family_and_interface() -> None:
    blocks = routing.frr_config(machine("r1")).split("exit\n")
    assert "interface eth0\n ip ospf area 0" in blocks[0]
    assert " ip ospf passive" in blocks[0]
    assert " ipv6 ospf6 passive" in blocks[0]
    assert " ip ospf cost 5" in blocks[1]
    assert "ipv6" not in blocks[1]  # it has no IPv6 address


def test_frr_timers_and_own_text() -> None:
    text = RING.replace("max_flows = 7", 'ospf_hello_s = 2\nospf_dead_s = 9\nfrr = """\nrouter bgp 65001\n"""')
    config = routing.frr_config(machine("r1", text))
    assert " ip ospf hello-interval 2\n ip ospf dead-interval 9" in config
    assert config.endswith("router bgp 65001\n")


def test_frr_daemons() -> None:
    text = RING.replace("max_flows = 7", 'daemons = ["bgpd", "ospfd"]')
    assert routing.frr_daemons(machine("r1", text)) == ["zebra", "staticd", "ospfd", "ospf6d", "bgpd"]
    assert routing.frr_daemons(machine("h1")) == []


def test_router_ids_differ_inside_and_outside() -> None:
    assert routing.router_id(machine("r1")) == "10.255.0.1"
    assert routing.router_id(machine("ext")) == "10.255.1.1"
    assert routing.router_id(machine("r1", RING.replace("max_flows = 7", 'router_id = "1.2.3.4"'))) == "1.2.3.4"


def test_bird_has_both_versions_of_ospf() -> None:
    config = routing.bird_config(machine("ext"))
    assert "protocol ospf v2 ospf4" in config
    v3 = config.partition("protocol ospf v3 ospf6")[2]
    assert 'interface "eth0"' in v3
    assert 'interface "eth1"' not in v3


def test_who_runs_what() -> None:
    assert routing.uses(machine("r1"), Routing.FRR)
    assert routing.uses(machine("ext"), Routing.BIRD)
    assert not routing.uses(machine("h1"), Routing.FRR)


def test_only_routers_forward() -> None:
    def forwarding(name: str) -> int | None:
        return spaces.kernel_settings(machine(name)).get("net/ipv4/conf/all/forwarding")

    assert forwarding("r1") == 1
    assert forwarding("ext") == 1
    assert forwarding("h1") is None
    assert spaces.kernel_settings(machine("h1"))["net/ipv4/ip_forward"] == 0


def test_nodes_kernel_is_silent() -> None:
    wanted = spaces.kernel_settings(machine("n1"))
    assert wanted["net/ipv6/conf/default/disable_ipv6"] == 1
    assert wanted["net/ipv4/conf/default/arp_ignore"] == 8


def test_bpf_programs_are_whole_instructions() -> None:
    for program in (vlan.push_program(100), vlan.pop_program(100), vlan.pop_program(0)):
        assert len(program) % 8 == 0
        assert program.endswith(bytes([0x95, 0, 0, 0, 0, 0, 0, 0]))

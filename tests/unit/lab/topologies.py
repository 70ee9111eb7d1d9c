"""Small topologies for the tests of this directory."""

from __future__ import annotations

from pathlib import Path

from xenflow import settings
from xenflow_lab.topology import Topology

EXAMPLES = Path(__file__).parents[3] / "deploy" / "lab"

RING = """
[lab]
name = "ring"
[[network]]
name = "lan"
vid = 10
[[network]]
name = "core"
vid = 20
mtu = 1400
[[node]]
name = "n1"
[[node]]
name = "n2"
[[trunk]]
between = ["n1", "n2"]
[[trunk]]
between = ["n1", "n2"]
bridge = true
[[trunk]]
between = ["n2", "n1"]
rate_mbps = 100
[[router]]
name = "r1"
node = "n1"
routing = "frr"
ospf = true
max_flows = 7
[[router.interface]]
network = "lan"
addresses = ["10.0.1.1/24", "fd00:1::1/64"]
passive = true
[[router.interface]]
network = "core"
addresses = ["10.0.9.1/24"]
ospf_cost = 5
rate_mbps = 2.5
[[router.route]]
to = "10.7.0.0/16"
via = "10.0.9.2"
[[router.route]]
to = "10.7.0.0/16"
via = "10.0.9.3"
[[host]]
name = "h1"
node = "n2"
network = "lan"
addresses = ["10.0.1.10/24", "fd00:1::10/64"]
gateways = ["10.0.1.1", "fd00:1::1"]
mac = "02:00:00:00:00:AB"
[[access]]
name = "wall"
node = "n2"
network = "lan"
vlans = { 100 = "core" }
[[outside]]
name = "ext"
routing = "bird"
ospf = true
[[outside.interface]]
access = "wall"
vlan = 100
addresses = ["10.0.9.9/24", "fd00:9::9/64"]
[[outside.interface]]
access = "wall"
addresses = ["10.0.1.99/24"]
[app]
limits = { max_macs_per_port = 3 }
mode = "reactive"
"""


def parsed(text: str) -> Topology:
    """Return the topology in `text`, types checked only."""
    return settings.parse(text, Topology, Path("topology.toml"))

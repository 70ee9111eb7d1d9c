"""Ports that come and go at a lab's switches, as they do when a machine moves, and nothing else.

Open vSwitch changes its ports in the thread that, in the userspace datapath, carries the packets as well: this is what
a migration costs them before any of our programs has done anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from bench import network
from xenflow_lab import openvswitch
from xenflow_lab.lab import Lab
from xenflow_lab.openvswitch import BridgePort

STAYS_S = 1.2
"""How long the ports are there, and then not: a migration to and fro takes twice as long."""
_FIRST_NUMBER = 60_000


def come_and_go(lab: Lab, nodes: Iterable[str], count: int, times: int) -> None:
    """Add `count` ports to a node in one transaction and remove them in another, `times` times, the nodes by turns."""
    ports = [BridgePort(f"floor{number}", _FIRST_NUMBER + number) for number in range(count)]
    wires = [f"link add {port.name} up type veth peer name {port.name}p\n" for port in ports]
    for node in itertools.islice(itertools.cycle(nodes), times):
        lab.run(node, ["ip", "-batch", "-"], stdin="".join(wires), check=True)
        lab.vsctl(node, *(word for port in ports for word in openvswitch.add_port(port)))
        network.wait(lab, STAYS_S)
        lab.vsctl(node, *(word for port in ports for word in openvswitch.del_port(port.name)))
        lab.run(node, ["ip", "-batch", "-"], stdin="".join(f"link del {port.name}\n" for port in ports), check=True)
        network.wait(lab, STAYS_S)

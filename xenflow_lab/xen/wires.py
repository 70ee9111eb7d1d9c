"""The cables of a lab whose nodes are emulated hosts: a node's namespace has nothing but QEMU and its taps. Pure.

    the lab's cable: mgmt, t-n2, acc1 [node] -- q0, q1, q2 [node, QEMU's taps] -- mgmt, t-n2, acc1 [Dom0]

Everything else is as in `fabric`. Routers are no namespaces here: their vifs are between Dom0 and its guests.
"""

from __future__ import annotations

from xenflow_lab import fabric
from xenflow_lab.plan import WIRE_MTU, Plan
from xenflow_lab.xen import node as nodes


def node_links(plan: Plan, node: str) -> str:
    """Return the ip(8) batch of a node's namespace."""
    lines = []
    for index, (name, _, _) in enumerate(nodes.ports(plan, node)):
        tap = nodes.tap(index)
        lines += [f"tuntap add dev {tap} mode tap", f"link set {tap} mtu {WIRE_MTU} txqueuelen {nodes.QUEUE} up"]
        lines.append(f"link set {name} up")
    return "\n".join(lines) + "\n"


def node_filters(plan: Plan, node: str) -> str:
    """Return the tc(8) batch of a node's namespace: what enters a cable leaves its tap, and back."""
    lines = []
    for index, (name, _, _) in enumerate(nodes.ports(plan, node)):
        tap = nodes.tap(index)
        lines += [f"qdisc add dev {end} ingress" for end in (name, tap)]
        lines += [fabric.join(name, tap), fabric.join(tap, name)]
    return "\n".join(lines) + "\n"

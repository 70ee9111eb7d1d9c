"""Facts in the app -> barrier reply, against `ovs-ofctl --bundle add-flows` of the same flows on the same bridge.

What is timed begins when a server's updates with the routes are there, and ends with the acknowledgement to it: taking
them in, RIB, plan, difference, encoding, and the switch's barrier reply.
"""

from __future__ import annotations

import statistics
import tempfile
import time

from bench import network
from bench.app_in_process import AppInProcess
from bench.figure import Figure, figure
from bench.rtnetlink import prefixes
from xenflow.model import (
    Bridge,
    Fact,
    Hop,
    Interface,
    Link,
    Machine,
    MachineKind,
    Neighbor,
    Network,
    Port,
    PortKind,
    Route,
    RouteKind,
)
from xenflow.replica import Outbox
from xenflow.wire import NODE_SCOPE, Message
from xenflow_lab.command import run as run_command
from xenflow_lab.lab import Lab
from xenflow_lab.plan import BRIDGE

ROUTES = 10_000
ROUNDS = 10
NODE, ROUTER = "n1", "r1"
_LEFT, _RIGHT = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
_GATEWAY = bytes([10, 0, 2, 10])


def run() -> list[Figure]:
    """Return flow_mods_ratio: flows/s of the app over those of ovs-ofctl; a sample is a pair."""
    ratios, ours, theirs = [], [], []
    with network.one_node(with_xenflow=False) as lab:
        lab.vsctl(NODE, "set", "bridge", BRIDGE, "protocols=OpenFlow10,OpenFlow14")
        for _ in range(ROUNDS):
            lab.ofctl(NODE, "del-flows")
            ours.append(app_seconds(lab))
            flows = lab.ofctl(NODE, "dump-flows", "--no-stats", "table=30")
            lab.ofctl(NODE, "del-flows", "table=30")
            theirs.append(_bundle_seconds(lab, flows))
            ratios.append(theirs[-1] / ours[-1])
    print(f"    {ROUTES} routes: app {statistics.median(ours):.3f} s, bundle {statistics.median(theirs):.3f} s")
    return [figure("flow_mods_ratio", ratios)]


def _bundle_seconds(lab: Lab, dumped: str) -> float:
    """Add the flows of a dump in one bundle; return how long it took."""
    lines = [line.strip() for line in dumped.splitlines() if "actions=" in line]
    if len(lines) < ROUTES:
        raise RuntimeError(f"the switch has {len(lines)} route flows, not {ROUTES}")
    bridge = f"unix:{lab.ovs_rundir(NODE)}/{BRIDGE}.mgmt"
    with tempfile.NamedTemporaryFile("w", suffix=".flows") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        began = time.monotonic()
        run_command(["ovs-ofctl", "-O", "OpenFlow14", "--bundle", "add-flows", bridge, file.name])
        return time.monotonic() - began


def app_seconds(lab: Lab) -> float:
    """Have a new app install the routes; return the time from facts to acknowledgement."""
    with AppInProcess(NODE, lab.ovs_rundir(NODE) / f"{BRIDGE}.mgmt") as app:
        node, router = Outbox(NODE_SCOPE), Outbox(ROUTER)
        node.replace(_node_facts(app.dpid or 0))
        router.replace(_router_facts())
        for outbox in (node, router):
            outbox.restart()
            app.say(_all(outbox))
        app.until_acknowledged(ROUTER, router.last_seq)
        hops = (Hop(2, _GATEWAY),)
        for address, length in prefixes(ROUTES):
            router.put(Route(address + bytes([length]), RouteKind.UNICAST, hops))
        messages = _all(router)
        began = time.monotonic()
        app.say(messages)
        app.until_acknowledged(ROUTER, router.last_seq)
        return time.monotonic() - began


def _all(outbox: Outbox) -> list[Message]:
    found: list[Message] = []
    while messages := outbox.take():
        found += messages
    return found


def _node_facts(dpid: int) -> list[Fact]:
    interfaces = (Interface(1, "left", _LEFT), Interface(2, "right", _RIGHT))
    return [
        Bridge(BRIDGE, dpid, "netdev"),
        Network("left", 10),
        Network("right", 20),
        Machine(ROUTER, MachineKind.ROUTER, interfaces),
        Port("vif1.1", 1001, PortKind.VIF, ROUTER, 1),
        Port("vif1.2", 1002, PortKind.VIF, ROUTER, 2),
    ]


def _router_facts() -> list[Fact]:
    return [
        Link(1, "eth0", _LEFT, 1500, True),
        Link(2, "eth1", _RIGHT, 1500, True),
        Neighbor(2, _GATEWAY, bytes.fromhex("0200000000aa")),
    ]

"""First packet of a new flow: reactive mode under POX against POX's own l2_learning, on the same bridge.

Both controllers run the whole time, and the bridge is pointed to one and the other by turns. A new flow is a DSCP that
was not used before: both install exact flows that match it, one in each direction.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bench import network
from bench.agent import Agent
from bench.figure import Figure, figure
from bench.network import OTHER_GATEWAY, RIGHT_ADDRESS, Paths
from xenflow_lab.lab import Lab
from xenflow_lab.openvswitch import OPENFLOW_PORT
from xenflow_lab.plan import BRIDGE, CONTROLLER_ADDRESS
from xenflow_lab.topology import Controller, Topology

BLOCKS = 8
PINGS = 14
"""New flows in a block. Two addresses times 64 values of DSCP make 126 flows that are new to both controllers."""
NODE = "n1"
_POX_PORT = 6699
_OURS = f"ssl:{CONTROLLER_ADDRESS}:{OPENFLOW_PORT}"
_THEIRS = f"tcp:127.0.0.1:{_POX_PORT}"
_NOBODY = "tcp:127.0.0.1:9"


def reactive(controller: Controller, idle_timeout_s: int = 60) -> Topology:
    """Return the usual network, with a reactive controller."""
    base = network.topology()
    lab = msgspec.structs.replace(base.lab, controller=controller, mode="reactive")
    return msgspec.structs.replace(base, lab=lab, app={"reactive": {"idle_timeout_s": idle_timeout_s}})


def run() -> list[Figure]:
    """Return first_packet_reactive_ratio: a sample is a block's median over that of the block next to it."""
    ratios, ours, theirs = [], [], []
    with network.one_node(reactive(Controller.POX)) as lab, network.hosts(lab) as (left, _right), l2_learning(lab):
        paths = Paths(lab)
        flows = [(address, dscp) for address in (RIGHT_ADDRESS, OTHER_GATEWAY) for dscp in range(1, 64)]
        for block in range(BLOCKS):
            fresh = flows[block * PINGS :][:PINGS]
            paths.pipeline()
            _point(lab, _OURS)
            network.await_traffic(lab)
            ours.append(_first_packets(left, fresh))
            paths.direct()
            _point(lab, _THEIRS)
            network.await_traffic(lab)
            theirs.append(_first_packets(left, fresh))
            ratios.append(ours[-1] / theirs[-1])
    mine, their = statistics.median(ours) / 1e6, statistics.median(theirs) / 1e6
    print(f"    first packet: reactive {mine:.2f} ms, l2_learning {their:.2f} ms")
    return [figure("first_packet_reactive_ratio", ratios)]


def _first_packets(left: Agent, flows: list[tuple[str, int]]) -> float:
    found = []
    for address, dscp in flows:
        trip = left.ask("ping", to=address, dscp=dscp)[0]
        if trip is None:
            raise RuntimeError("a first packet was lost")
        found.append(trip)
    return statistics.median(found)


def _point(lab: Lab, target: str) -> None:
    """Let the bridge have another controller, and no flows of the one before."""
    _set_controller(lab, _NOBODY)
    lab.ofctl(NODE, "del-flows")
    _set_controller(lab, target)


def _set_controller(lab: Lab, target: str) -> None:
    lab.vsctl(NODE, "set-controller", BRIDGE, target, "--", "set", "Controller", BRIDGE, "max_backoff=1000")


@contextmanager
def l2_learning(lab: Lab) -> Iterator[None]:
    """Run POX with forwarding.l2_learning on the node."""
    argv = [sys.executable, f"{os.environ['POX_HOME']}/pox.py", "openflow.of_01", f"--port={_POX_PORT}"]
    argv += ["--address=127.0.0.1", "forwarding.l2_learning"]
    process = lab.popen(NODE, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

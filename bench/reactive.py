"""First packet of a new flow: reactive mode under POX against POX's own l2_learning, on the same bridge.

Both controllers run the whole time, and the bridge is pointed to one and the other by turns. A new flow is a DSCP that
was not used before: both install exact flows that match it, one in each direction.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles

import msgspec

from bench import network
from bench.agent import Agent
from bench.figure import Figure, figure, percentile
from bench.network import OTHER_GATEWAY, RIGHT_ADDRESS, Paths
from xenflow_lab.lab import Lab
from xenflow_lab.openvswitch import OPENFLOW_PORT
from xenflow_lab.plan import BRIDGE, CONTROLLER_ADDRESS
from xenflow_lab.topology import Controller, Topology

SETTLE_S = 1.5
"""How long a controller is left alone after the bridge was pointed to it."""
BLOCKS = 6
PINGS = 20
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
    """Return first_packet_reactive_ratio: that of the lower quartiles of all first packets; samples are blocks' ratios.

    Quartiles, because a first packet waits for two processes, and whatever else the machine does can only delay it.
    """
    ratios: list[float] = []
    ours: list[float] = []
    theirs: list[float] = []
    with network.one_node(reactive(Controller.POX)) as lab, network.hosts(lab) as (left, _right), l2_learning(lab):
        paths = Paths(lab)
        flows = [(address, dscp) for address in (RIGHT_ADDRESS, OTHER_GATEWAY) for dscp in range(1, 64)]
        for block in range(BLOCKS):
            fresh = flows[block * PINGS :][:PINGS]
            paths.pipeline()
            _point(lab, _OURS)
            mine = _first_packets(left, fresh)
            paths.direct()
            _point(lab, _THEIRS)
            their = _first_packets(left, fresh)
            ratios.append(percentile(mine, 0.25) / percentile(their, 0.25))
            ours += mine
            theirs += their
    for name, found in (("reactive", ours), ("l2_learning", theirs)):
        print(f"    first packet, {name}: quartiles {', '.join(f'{quartile:.2f}' for quartile in quantiles(found))} ms")
    return [figure("first_packet_reactive_ratio", ratios, percentile(ours, 0.25) / percentile(theirs, 0.25))]


def _first_packets(left: Agent, flows: list[tuple[str, int]]) -> list[float]:
    """Return round-trip times in ms."""
    found = []
    for address, dscp in flows:
        trip = left.ask("ping", to=address, dscp=dscp)[0]
        if trip is None:
            raise RuntimeError("a first packet was lost")
        found.append(trip / 1e6)
    return found


def _point(lab: Lab, target: str) -> None:
    """Let the bridge have another controller, and no flows of the one before; on return it is at rest."""
    _set_controller(lab, _NOBODY)
    lab.ofctl(NODE, "del-flows")
    _set_controller(lab, target)
    network.await_traffic(lab)
    time.sleep(SETTLE_S)


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

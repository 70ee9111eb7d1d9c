"""The network that most figures are measured on: h1 - r1 - h2 on one node, and the static flow that they compare with.

    h1 ---- left ---- r1 ---- right ---- h2        by way of the router's pipeline
    h1 ==================================== h2     `static`: one output flow in each direction, on the same bridge

The static flows have a higher priority and no cookie of ours, so the program under test leaves them alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.agent import Agent
from xenflow_lab.lab import Lab
from xenflow_lab.plan import Vif
from xenflow_lab.topology import Topology, load

TOPOLOGIES = Path(__file__).parent / "topology"
LEFT, RIGHT = "h1", "h2"
LEFT_ADDRESS, RIGHT_ADDRESS = "10.0.1.10", "10.0.2.10"
OTHER_GATEWAY = "10.0.2.11"
"""A second address of h2, so that routes have another next hop to change to."""
_GATEWAYS = {LEFT: "10.0.1.1", RIGHT: "10.0.2.1"}
_STATIC_PRIORITY = 65535


def topology(name: str = "one_node") -> Topology:
    """Return a topology of the benches."""
    return load(TOPOLOGIES / f"{name}.toml")


def lab_of(wanted: Topology, *, with_xenflow: bool = True) -> Lab:
    """Return a lab, not up yet, under a name of this process."""
    return Lab(wanted, f"bench{os.getpid()}", with_xenflow=with_xenflow)


@contextmanager
def one_node(wanted: Topology | None = None, *, with_xenflow: bool = True) -> Iterator[Lab]:
    """Bring up the network; inside the block h1 reaches h2."""
    with lab_of(wanted or topology(), with_xenflow=with_xenflow) as lab:
        if with_xenflow:
            await_traffic(lab)
        yield lab


def await_traffic(lab: Lab) -> None:
    """Return once h1 reaches h2 by way of the switch, with all neighbors known."""
    lab.wait_until(lambda: _reaches(lab, RIGHT_ADDRESS) and _reaches(lab, OTHER_GATEWAY), 60, "traffic from h1 to h2")


def _reaches(lab: Lab, address: str) -> bool:
    return lab.run(LEFT, ["ping", "-q", "-c2", "-i0.05", "-W1", address]).returncode == 0


def vif(lab: Lab, machine: str, number: int = 1) -> Vif:
    """Return a vif of a machine."""
    return next(item for item in lab.plan.vifs if item.machine == machine and item.number == number)


def set_neighbor(lab: Lab, who: str, address: str, mac: str) -> None:
    """Tell a host for good which MAC an address has."""
    lab.run(who, ["ip", "neigh", "replace", address, "lladdr", mac, "nud", "permanent", "dev", "eth0"], check=True)


def wait(lab: Lab, seconds: float) -> None:
    """Let packets flow for a while: the time is what is measured."""
    end = time.monotonic() + seconds
    lab.wait_until(lambda: time.monotonic() >= end, seconds + 5, "the end of a pause")


class Paths:
    """Switches between the router's pipeline and the static flow."""

    def __init__(self, lab: Lab, node: str = "n1") -> None:
        self._lab = lab
        self._node = node
        self._ends = (vif(lab, LEFT), vif(lab, RIGHT))

    def pipeline(self) -> None:
        """Let packets go through the router's pipeline."""
        self._lab.ofctl(self._node, "del-flows", "--strict", self._match(0))
        self._lab.ofctl(self._node, "del-flows", "--strict", self._match(1))
        for number, who in enumerate((LEFT, RIGHT), start=1):
            set_neighbor(self._lab, who, _GATEWAYS[who], vif(self._lab, "r1", number).interface.mac)

    def static(self, actions: str = "") -> None:
        """Let packets go by one flow in each direction, straight to the other host; without `actions` an output."""
        for place in range(2):
            wanted = actions or f"output:{self._ends[1 - place].ofport}"
            self._lab.ofctl(self._node, "add-flow", f"{self._match(place)},actions={wanted}")
        self.direct()

    def direct(self) -> None:
        """Let the hosts address each other's MAC, as in one network without a router."""
        for place, who in enumerate((LEFT, RIGHT)):
            set_neighbor(self._lab, who, _GATEWAYS[who], self._ends[1 - place].interface.mac)

    def cold(self) -> None:
        """Empty the datapath's cache: the next packet of every flow is looked up in the tables."""
        self._lab.appctl(self._node, "revalidator/purge")

    def _match(self, place: int) -> str:
        return f"table=0,priority={_STATIC_PRIORITY},in_port={self._ends[place].ofport}"


@contextmanager
def hosts(lab: Lab) -> Iterator[tuple[Agent, Agent]]:
    """Run agents on h1 and h2."""
    with Agent(lab, LEFT) as left, Agent(lab, RIGHT) as right:
        yield left, right

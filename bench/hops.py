"""Migrations on a path over three routers: each moves in turn, while numbered packets pass all of them.

Four trunks and six ends of them for each packet, so it is the load that a small machine carries least of: each has a
baseline without migrations in the same lab, and the rate is halved until that loses nothing. Every router has 1,000
routes besides those that are used.
"""

from __future__ import annotations

from bench import network
from bench.figure import Figure
from bench.migration import LOADS, MOVES, RECEIVER, ROUTES, measure, of_packets
from bench.moving import to_and_fro
from xenflow_lab import stations
from xenflow_lab.lab import Lab

BETWEEN = {"r1": ("n1", "n2"), "r2": ("n2", "n3"), "r3": ("n3", "n1")}
VIA = {"r1": "10.0.12.2", "r2": "10.0.23.3", "r3": "10.0.2.10"}
"""The next hops of the routes that nobody uses."""


def run() -> list[Figure]:
    """Return what is lost, doubled, late and out of order."""
    with network.lab_of(network.topology("hops")) as lab:
        _prepare(lab)
        runs = [measure(lab, load, to_and_fro(lab, BETWEEN, MOVES)) for load in LOADS]
    return of_packets(runs, "mig_hops")


def _prepare(lab: Lab) -> None:
    """Return once packets pass all routers, and each of them has its routes in the switches."""
    lab.wait_settled()
    lab.wait_until(lambda: all(stations.answers(lab, "h1", [RECEIVER]).values()), 60, "traffic from h1 to h2")
    for router, via in VIA.items():
        batch = "".join(f"route add 20.0.{n >> 8}.{n & 255} via {via}\n" for n in range(ROUTES))
        lab.run(router, ["ip", "-batch", "-"], stdin=batch, check=True)
    lab.wait_until(lambda: all(item.routes > ROUTES for item in lab.app_status().routers), 60, f"{ROUTES} routes each")
    lab.wait_settled()

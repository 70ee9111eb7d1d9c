"""Round trip of the first packet of a new flow, against static flows on the same bridge; both with a cold cache."""

from __future__ import annotations

import statistics

from bench import network
from bench.figure import Figure, figure
from bench.network import RIGHT_ADDRESS, Paths

BLOCKS = 10
PINGS = 6
"""Pings of each kind in a block; the first is not counted: it also pays for what the change of paths upset."""
_APART_S = 0.02


def run() -> list[Figure]:
    """Return first_packet_ratio: a sample is a block's median by the pipeline over its median by static flows."""
    with network.one_node() as lab, network.hosts(lab) as (left, _right):
        paths = Paths(lab)

        def first_packets() -> float:
            found = []
            for _ in range(PINGS):
                paths.cold()
                trip = left.ask("ping", to=RIGHT_ADDRESS)[0]
                if trip is None:
                    raise RuntimeError("a first packet was lost")
                found.append(trip)
            return statistics.median(found[1:])

        ratios, ours, floors = [], [], []
        for _ in range(BLOCKS):
            paths.pipeline()
            ours.append(first_packets())
            paths.static()
            floors.append(first_packets())
            ratios.append(ours[-1] / floors[-1])
    print(f"    first packet {statistics.median(ours) / 1e6:.2f} ms, floor {statistics.median(floors) / 1e6:.2f} ms")
    return [figure("first_packet_ratio", ratios)]

"""Longest-prefix look-up in a RIB of a million prefixes, with lengths as in the Internet's table."""

from __future__ import annotations

import random
import time

from bench.figure import Figure, figure
from xenflow.model import Hop, Route, RouteKind
from xenflow_app.rib import Rib

PREFIXES = 1_000_000
LOOKUPS = 20_000
ROUNDS = 20
LENGTHS = {24: 60, 23: 10, 22: 11, 21: 5, 20: 4.5, 19: 2.5, 18: 1.5, 17: 1, 16: 1.5, 15: 0.3, 14: 0.3, 12: 0.1, 8: 0.01}
"""Share of each length in percent; about that of the Internet's table."""


def run() -> list[Figure]:
    """Return lookup_us: a sample is the mean of a round of look-ups of random addresses."""
    pick = random.Random(1)
    rib = Rib()
    hops = (Hop(1, bytes([10, 0, 0, 1])),)
    lengths, weights = list(LENGTHS), list(LENGTHS.values())
    while len(rib) < PREFIXES:
        for length in pick.choices(lengths, weights, k=10_000):
            number = pick.getrandbits(length) << 32 - length
            rib.put(Route(number.to_bytes(4, "big") + bytes([length]), RouteKind.UNICAST, hops))
    samples = []
    for _ in range(ROUNDS):
        addresses = [pick.randbytes(4) for _ in range(LOOKUPS)]
        look = rib.lookup
        began = time.perf_counter()
        for address in addresses:
            look(address)
        samples.append((time.perf_counter() - began) / LOOKUPS * 1e6)
    return [figure("lookup_us", samples)]

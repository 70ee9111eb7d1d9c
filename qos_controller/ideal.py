"""The oracle: what each class of a link would get if idle capacity went to all in proportion to what they hired (pure).

Weighted max-min fairness by progressive filling: all rise together, each at the speed of its weight, until it has what
it wants; what is left goes on rising. `policy.decide` uses the same filling for amounts that it hands out at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from qos_controller.history import Load
from qos_controller.plan import ClassPlan, LinkPlan, groups


def fill(amount: float, weights: Sequence[float], limits: Sequence[float]) -> list[float]:
    """Return how an amount divides by weights where nobody takes more than its limit.

    The parts sum to the amount, or to all limits if that is less; without weight there is nothing.
    """
    parts = [0.0] * len(weights)
    rising = sorted((limits[i] / weights[i], i) for i in range(len(weights)) if weights[i] > 0 and limits[i] > 0)
    below = [*accumulate(weights[i] for _, i in reversed(rising))]
    for level, i in rising:
        weight = below.pop()
        if level * weight > amount:
            level = amount / weight
            parts[i] = min(level * weights[i], limits[i])
        else:
            parts[i] = limits[i]
        amount = max(0.0, amount - parts[i])
    return parts


def fair_shares(link: LinkPlan, demands_bps: Mapping[int, float]) -> dict[int, float]:
    """Return the ideal rate of each queue: first control, then owners by what they hired, then each one's classes."""
    shares = {
        item.queue: min(demands_bps.get(item.queue, 0.0), item.hired_bps) for item in link.classes if item.control
    }
    owners = groups(link)
    wanted = [[_limit(item, link, demands_bps) for item in owner.classes] for owner in owners]
    left = max(0.0, link.capacity_bps - sum(shares.values()))
    most = [
        min(math.fsum(limits), owner.most_bps(link.capacity_bps)) for owner, limits in zip(owners, wanted, strict=True)
    ]
    parts = fill(left, [owner.hired_bps for owner in owners], most)
    for owner, limits, part in zip(owners, wanted, parts, strict=True):
        inner = fill(part, [item.hired_bps for item in owner.classes], limits)
        shares.update((item.queue, rate) for item, rate in zip(owner.classes, inner, strict=True))
    return shares


def expected(link: LinkPlan, loads: Mapping[int, Load]) -> dict[int, float]:
    """Return the ideal rates for what was measured: the backlogged want any amount, the others what they use."""
    return fair_shares(link, {queue: math.inf if load.backlogged else load.rate_bps for queue, load in loads.items()})


def fitness(obtained_bps: float, expected_bps: float) -> float:
    """Return how well a rate fits what was expected (the paper's equation (2)): 1 is exact, or both are nothing."""
    if expected_bps <= 0:
        return 1.0 if obtained_bps <= 0 else 0.0
    return 1 - abs(1 - obtained_bps / expected_bps)


def _limit(item: ClassPlan, link: LinkPlan, demands_bps: Mapping[int, float]) -> float:
    most = item.ceiling_bps or link.capacity_bps
    return min(demands_bps.get(item.queue, 0.0), most if item.borrows else item.hired_bps)

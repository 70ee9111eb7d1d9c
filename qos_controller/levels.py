"""Levels 1 and 2 of the paper (section II-E): from what owners hired and used to guarantees and ceilings (pure).

All sequences go by owner; rates are in bit/s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from qos_controller.ideal import fill


class Owner(msgspec.Struct, frozen=True):
    """What an owner hired, may have at most, and uses."""

    hired_bps: float
    most_bps: float
    load_bps: float
    backlogged: bool


def level_1_weights(owners: Sequence[Owner]) -> list[float]:
    """Return w = h / max(1, load / h): who hired more weighs more, who uses relatively more than hired weighs less.

    What a backlogged owner uses is what we have let it have, and says nothing of what it wants. So all backlogged
    owners count as equally over their hires, by what they use together. Otherwise who got too much would get too
    little next, and so on: each step would multiply the error by -(1 - sum h / L), which dies out slowly or never.
    """
    used = math.fsum(owner.load_bps for owner in owners if owner.backlogged)
    hired = math.fsum(owner.hired_bps for owner in owners if owner.backlogged)
    together = used / hired if hired else 0.0
    return [
        owner.hired_bps / max(1.0, together if owner.backlogged else owner.load_bps / owner.hired_bps)
        for owner in owners
    ]


def guarantees(
    owners: Sequence[Owner], kept: Sequence[float], weights: Sequence[float], shared_bps: float
) -> list[float]:
    """Return level 1: `kept` (what can be kept of each hire) and what is left of the link, by weight."""
    spare = max(0.0, shared_bps - math.fsum(kept))
    extra = fill(spare, weights, [max(0.0, owner.most_bps - least) for owner, least in zip(owners, kept, strict=True)])
    return [least + more for least, more in zip(kept, extra, strict=True)]


def lent_ceilings(owners: Sequence[Owner], guaranteed: Sequence[float], idle_bps: float) -> list[float]:
    """Return equation (1) among the backlogged owners; the others may start with all that they may ever have."""
    lent = fill(
        idle_bps,
        [rate if owner.backlogged else 0.0 for owner, rate in zip(owners, guaranteed, strict=True)],
        [max(0.0, owner.most_bps - rate) for owner, rate in zip(owners, guaranteed, strict=True)],
    )
    return [
        rate + more if owner.backlogged else max(rate, owner.most_bps)
        for owner, rate, more in zip(owners, guaranteed, lent, strict=True)
    ]


def raised_ceilings(owners: Sequence[Owner], guaranteed: Sequence[float], idle_bps: float) -> list[float]:
    """Return equation (1) among all owners, as the paper has it."""
    total = math.fsum(guaranteed)
    return [
        max(rate, min(owner.most_bps, rate + idle_bps * rate / total))
        for owner, rate in zip(owners, guaranteed, strict=True)
    ]


def unused_guarantees(owners: Sequence[Owner], guaranteed: Sequence[float], shared_bps: float) -> float:
    """Return C as capacity that is guaranteed and not used: what an owner has borrowed does not count against it."""
    return max(0.0, shared_bps - math.fsum(min(o.load_bps, rate) for o, rate in zip(owners, guaranteed, strict=True)))


def unused_capacity(owners: Sequence[Owner], shared_bps: float) -> float:
    """Return C as capacity that nobody uses."""
    return max(0.0, shared_bps - math.fsum(owner.load_bps for owner in owners))

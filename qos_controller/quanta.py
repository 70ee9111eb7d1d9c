"""Quanta: in which proportion HTB's classes borrow, packet by packet (pure).

HTB lends idle capacity by deficit round robin: each leaf in turn sends its quantum of bytes. Where nobody says what the
quantum is, the kernel takes a tenth of the rate in bytes, at most 200,000: equal for all classes from 16 Mbit/s on,
which is why Open vSwitch shares idle capacity equally. We set quanta proportional to what was hired.

Inner classes have no quantum: in one round an inner class sends the sum of its active leaves' quanta (sch_htb.c,
htb_lookup_leaf). So quanta of a group's leaves follow who of them borrows, that the group gets its part in sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import truediv
from typing import Final

from qos_controller.history import IDLE, Load
from qos_controller.ideal import fill
from qos_controller.plan import Group

KERNEL_MIN: Final = 1000
KERNEL_MAX: Final = 200_000
FRAMES: Final = 4
"""Frames in the least quantum, if there is room. With one, an inner class, which turns from its rate to borrowing and
back all the time, misses most of its turns (measured: it borrowed nothing instead of 10 Mbit/s)."""
NOTICED: Final = 0.01
"""A group borrows if it borrows at least this part of what it is guaranteed."""
R2Q: Final = 10
"""Rate to quantum: the kernel's default divisor."""


def kernel_quantum(rate_bps: float) -> int:
    """Return the quantum that the kernel gives a leaf of that rate if nobody says otherwise."""
    return min(max(int(rate_bps) // 8 // R2Q, KERNEL_MIN), KERNEL_MAX)


def proportional_quanta(
    owners: Sequence[Group], loads: Mapping[int, Load], guaranteed: Sequence[float], frame_bytes: int
) -> dict[int, int]:
    """Return queue id -> bytes, proportional to what was hired: a few frames for the least, what HTB allows at most.

    The least get down to one frame where hires are far apart. Where they are further apart than that allows, the least
    get a frame all the same: they borrow more than their part, and the largest less.
    """
    weights: dict[int, float] = {}
    for owner, guarantee_bps in zip(owners, guaranteed, strict=True):
        weights.update(_leaf_weights(owner, loads, guarantee_bps))
    if not weights:
        return {}
    least = min(item.hired_bps for owner in owners for item in owner.classes)
    scale = min(FRAMES * frame_bytes / least, KERNEL_MAX / max(owner.hired_bps for owner in owners))
    return {queue: max(frame_bytes, min(int(weight * scale), KERNEL_MAX)) for queue, weight in weights.items()}


def is_too_wide(owners: Sequence[Group], frame_bytes: int) -> bool:
    """Return whether hires are too far apart for quanta that are all proportional to them."""
    if not owners:
        return False
    least = min(item.hired_bps for owner in owners for item in owner.classes)
    return max(owner.hired_bps for owner in owners) * frame_bytes > KERNEL_MAX * least


def _leaf_weights(owner: Group, loads: Mapping[int, Load], guarantee_bps: float) -> dict[int, float]:
    """Return what a round is to give each leaf, so that the owner gets its weight whichever of them borrow.

    All of an owner's leaves get alike for what they hired. Of what the owner borrows of the link, the leaf that borrows
    most for its hire has a part; it gets that part of the owner's weight. The others are content with less than theirs.
    """
    hired = [float(item.hired_bps) for item in owner.classes]
    scale = 1.0
    if owner.is_nested:
        rates = [guarantee_bps * hire / owner.hired_bps for hire in hired]
        used = [loads.get(item.queue, IDLE).rate_bps for item in owner.classes]
        beyond = [max(0.0, load - rate) for load, rate in zip(used, rates, strict=True)]
        unused = guarantee_bps - sum(map(min, used, rates))
        within = fill(unused, hired, beyond)
        borrowed = [more - inner for more, inner in zip(beyond, within, strict=True)]
        if sum(borrowed) < NOTICED * guarantee_bps:
            borrowed = beyond
        if (total := sum(borrowed)) > NOTICED * guarantee_bps:
            scale = owner.hired_bps * max(map(truediv, borrowed, hired)) / total
    return {item.queue: scale * hire for item, hire in zip(owner.classes, hired, strict=True)}

"""Quanta: in which proportion HTB's classes borrow, packet by packet (pure).

HTB lends idle capacity by deficit round robin: each leaf in turn sends its quantum of bytes. Where nobody says what the
quantum is, the kernel takes a tenth of the rate in bytes, at most 200,000: equal for all classes from 16 Mbit/s on,
which is why Open vSwitch shares idle capacity equally. We set quanta proportional to what was hired.

Inner classes have no quantum: in one round an inner class sends the sum of its active leaves' quanta (sch_htb.c,
htb_lookup_leaf). So what belongs to a group is divided among those of its leaves that borrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from qos_controller.history import IDLE, Load
from qos_controller.plan import Group

KERNEL_MIN: Final = 1000
KERNEL_MAX: Final = 200_000
R2Q: Final = 10
"""Rate to quantum: the kernel's default divisor."""


def kernel_quantum(rate_bps: float) -> int:
    """Return the quantum that the kernel gives a leaf of that rate if nobody says otherwise."""
    return min(max(int(rate_bps) // 8 // R2Q, KERNEL_MIN), KERNEL_MAX)


def proportional_quanta(owners: Sequence[Group], loads: Mapping[int, Load], frame_bytes: int) -> dict[int, int]:
    """Return queue id -> bytes, proportional to what was hired, at least a frame and at most what the kernel allows.

    Where hires are further apart than that allows, the smallest get a frame all the same: they borrow more than their
    part, and the largest less.
    """
    weights = {queue: weight for owner in owners for queue, weight in _leaf_weights(owner, loads).items()}
    if not weights:
        return {}
    least = min(item.hired_bps for owner in owners for item in owner.classes)
    scale = min(frame_bytes / least, KERNEL_MAX / max(owner.hired_bps for owner in owners))
    return {queue: max(frame_bytes, int(weight * scale)) for queue, weight in weights.items()}


def is_too_wide(owners: Sequence[Group], frame_bytes: int) -> bool:
    """Return whether hires are too far apart for quanta that are all proportional to them."""
    if not owners:
        return False
    least = min(item.hired_bps for owner in owners for item in owner.classes)
    return max(owner.hired_bps for owner in owners) * frame_bytes > KERNEL_MAX * least


def _leaf_weights(owner: Group, loads: Mapping[int, Load]) -> dict[int, float]:
    """Return what a round is to give each leaf: those that borrow have the whole group's weight among them."""
    borrowing = [item for item in owner.classes if loads.get(item.queue, IDLE).backlogged]
    among = sum(item.hired_bps for item in borrowing)
    weights = {item.queue: float(item.hired_bps) for item in owner.classes}
    weights.update((item.queue, owner.hired_bps * item.hired_bps / among) for item in borrowing)
    return weights

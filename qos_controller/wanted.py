"""What a port's HTB tree is to be: settings in the kernel's terms, and two classes that nobody hires (pure).

Place in the flow: `Decision.settings` -> *wanted `Tree`* -> `tree.changes` -> kernel.

- 1:ffff, the default class: frames that no queue claims. It has next to nothing for sure and borrows after all others.
- 1:fffd, the node's own class: BFD of the switch itself, on which the trunk's life depends. Served first.

A leaf's queue is bounded by bytes: what it may hold is sent within `QUEUE_S` at the hired rate. So one class's standing
queue delays nobody else, and itself by a known time. On the userspace datapath it drops heads, and is bounded by
frames: a sender that hears of a drop (ENOBUFS) gives up the rest of its batch, which is other classes' traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from qos_controller.decision import Setting
from qos_controller.plan import LINK_MINOR, LinkPlan
from qos_controller.tree import (
    DEFAULT_MINOR,
    FRAME_BYTES,
    NODE_MINOR,
    OUR_ROOT,
    TICK_NS,
    HtbClass,
    Program,
    Tree,
    as_inner,
)

QUEUE_S: Final = 0.1
"""How much a leaf may hold, in time at the hired rate."""
MIN_QUEUE_BYTES: Final = 64 << 10
"""At least that: the userspace datapath sends 32 frames at a time."""
MAX_QUEUE_BYTES: Final = 4 << 20
DEFAULT_PART: Final = 1000
"""The default class has this part of the link for sure."""
NODE_BPS: Final = 256_000
DEFAULT_PRIO: Final = 7
"""HTB lends to the lower numbers first."""


def wanted_tree(
    link: LinkPlan,
    settings: Mapping[int, Setting],
    programs: tuple[Program, ...],
    *,
    is_static: bool = False,
    head_drop: bool = False,
) -> Tree:
    """Return the tree of a link under these settings (by minor number); `is_static`: borrowing ignores who hired.

    `head_drop`: queues drop their oldest frame instead of the newest, so that no sender hears of it.
    """
    bounds = {item.minor: queue_bytes(item.hired_bps, link.frame_bytes) for item in link.classes}
    classes = {minor: _class(minor, setting, bounds.get(minor, 0)) for minor, setting in settings.items()}
    top = settings[LINK_MINOR]
    default_bps = max(link.capacity_bps // DEFAULT_PART, 8_000)
    prio = top.prio if is_static else DEFAULT_PRIO
    classes[DEFAULT_MINOR] = _class(
        DEFAULT_MINOR, _own(link, top, default_bps, prio), queue_bytes(link.capacity_bps // 10, link.frame_bytes)
    )
    node_bps = min(NODE_BPS, link.capacity_bps)
    classes[NODE_MINOR] = _class(NODE_MINOR, _own(link, top, node_bps, 0), queue_bytes(0, link.frame_bytes))
    if head_drop:
        classes = {minor: _dropping_heads(item) for minor, item in classes.items()}
    return Tree(OUR_ROOT, classes, programs)


def queue_bytes(hired_bps: int, frame_bytes: int = FRAME_BYTES) -> int:
    """Return the bound of the queue of a class that hired this: at least two of the largest frames fit."""
    return min(max(int(hired_bps * QUEUE_S / 8), MIN_QUEUE_BYTES, 2 * frame_bytes), MAX_QUEUE_BYTES)


def _own(link: LinkPlan, top: Setting, rate_bps: int, prio: int) -> Setting:
    burst = 2 * link.frame_bytes
    return Setting(LINK_MINOR, rate_bps, top.ceil_bps, link.frame_bytes, prio, burst, max(burst, top.cburst_bytes))


def _class(minor: int, setting: Setting, limit_bytes: int) -> HtbClass:
    rate, ceil = max(setting.rate_bps // 8, 1), max(setting.ceil_bps // 8, 1)
    made = HtbClass(
        minor=minor,
        parent=setting.parent,
        rate=rate,
        ceil=ceil,
        buffer=_ticks(setting.burst_bytes, rate),
        cbuffer=_ticks(setting.cburst_bytes, ceil),
        quantum=setting.quantum_bytes,
        prio=setting.prio,
        limit_bytes=limit_bytes,
    )
    return made if limit_bytes else as_inner(made)


def _dropping_heads(item: HtbClass) -> HtbClass:
    if not item.limit_bytes:
        return item
    return replace(item, limit_bytes=item.limit_bytes // FRAME_BYTES * FRAME_BYTES, head_drop=True)


def _ticks(size_bytes: int, rate: int) -> int:
    """Return how long `size_bytes` take at `rate` bytes/s, in the kernel's ticks."""
    return min(max(size_bytes * 1_000_000_000 // (rate * TICK_NS), 1), 0xFFFFFFFF)

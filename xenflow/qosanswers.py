"""What a node's qos-controller answers to ``Query("qos")`` and ``Query("qos explain", {"port": ...})``, as values.

Place in the flow: `xenflow qos` -> app -> server -> qos-controller -> *answer as JSON* -> back. With --json an answer
is printed as it is, so these names are what scripts rely on: fields may be added, none renamed. Rates are in bit/s.
"""

from __future__ import annotations

import msgspec


class QueueStatus(msgspec.Struct, frozen=True):
    """A queue of a link. `ceiling_declared` 0: the link; `guarantee` and `ceiling` are in force now.

    `used` is the mean of the last k_med measurements, `expected` the ideal for what was measured, `fitness` the paper's
    equation (2) on the two; `drops` counts packets since the class was made, `backlog_bytes` wait now.
    """

    id: int
    owner: str
    name: str
    control: bool
    hired: int
    ceiling_declared: int
    guarantee: int
    ceiling: int
    used: float
    expected: float
    fitness: float
    backlogged: bool
    backlog_bytes: int
    drops: int
    bytes: int = 0
    packets: int = 0


class LinkQueues(msgspec.Struct, frozen=True):
    """A link and its queues; `state` is shaped, waiting or refused, with the reason in `why`.

    `kept` is the part of each promise that can be kept: less than 1 where more was hired than the link has.
    """

    port: str
    capacity: int
    state: str
    why: str
    policy: str
    hired: int
    used: float
    kept: float
    queues: list[QueueStatus]


class QosStatus(msgspec.Struct, frozen=True):
    """All links of a node. `ovsdb` says whether the database is there."""

    policy: str
    t_med_s: float
    k_med: int
    datapath_type: str
    ovsdb: bool
    links: list[LinkQueues]


class Explanation(msgspec.Struct, frozen=True):
    """How the last decision on a link came about: `lines` for a person, `decision` (may change) for a program."""

    port: str
    age_s: float
    lines: list[str]
    decision: msgspec.Raw

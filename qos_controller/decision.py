"""What is decided for a link: policies, settings of HTB classes, and how they came about (values only).

A `Decision` holds all that `xenflow qos explain` shows, so that nobody has to work it out a second time.
"""

from __future__ import annotations

import enum

import msgspec


class PolicyKind(enum.StrEnum):
    """How idle capacity is redistributed."""

    WORK_CONSERVING = "work-conserving"
    """C is guaranteed capacity that nobody uses, lent to those with a standing backlog."""
    PAPER = "paper"
    """C is capacity that nobody uses; ceilings move only while less is used than guaranteed."""
    EQUATION_1_ONLY = "equation-1-only"
    """The same C, always, on the hired rates: no level 1."""
    STATIC = "static"
    """Open vSwitch as it comes: hired rates, configured ceilings, the kernel's quanta."""


class Weights(enum.StrEnum):
    """What counts in level 1."""

    USAGE = "usage"
    """What was hired, less for those who use more than that (both of the paper's criteria)."""
    HIRED = "hired"
    """What was hired."""


class Ceilings(enum.StrEnum):
    """Where the `work-conserving` policy puts the ceilings of classes with a standing backlog."""

    EQUATION = "equation"
    """At what equation (1) gives."""
    LINK = "link"
    """At the link: only the quanta divide."""


class Policy(msgspec.Struct, frozen=True):
    """Which policy, and its variants."""

    kind: PolicyKind = PolicyKind.WORK_CONSERVING
    weights: Weights = Weights.USAGE
    ceilings: Ceilings = Ceilings.EQUATION


def standard(kind: PolicyKind) -> Policy:
    """Return a policy as it is meant: the paper's text has weights by usage too, its results come without them."""
    return Policy(kind, Weights.HIRED if kind is PolicyKind.PAPER else Weights.USAGE)


class Setting(msgspec.Struct, frozen=True):
    """An HTB class as it is to be: child of 1:`parent`, bit/s, bytes. Of inner classes HTB ignores quantum and prio."""

    parent: int
    rate_bps: int
    ceil_bps: int
    quantum_bytes: int
    prio: int
    burst_bytes: int
    cburst_bytes: int


class Share(msgspec.Struct, frozen=True):
    """How the decision came about for one owner: what was hired and measured, its weight, and the result."""

    owner: str
    minor: int
    queues: tuple[int, ...]
    hired_bps: int
    load_bps: float
    backlogged: bool
    weight: float
    """In level 1, as a part of all weights."""
    guarantee_bps: float
    ceiling_bps: float

    @property
    def is_lent_to(self) -> bool:
        """Whether its ceiling is above its guarantee."""
        return self.ceiling_bps > self.guarantee_bps


class Decision(msgspec.Struct, frozen=True):
    """What is to be set on a link, and why. `explain.explain` says it in words.

    `settings` has every class by its HTB minor number: leaves (queue id + 1), groups, and the link's own (LINK_MINOR).
    `changed` are those to be written, parents first; `removed` are minors of `previous` that are no more, leaves first.
    """

    port: str
    policy: Policy
    capacity_bps: int
    reserved_bps: int
    """For control classes; what is shared is the rest."""
    hired_bps: int
    kept: float
    """The part of each promise that can be kept: less than 1 where more was hired than the link has."""
    used_bps: float
    idle_bps: float
    """C of level 2."""
    shares: tuple[Share, ...]
    settings: dict[int, Setting]
    changed: tuple[int, ...]
    removed: tuple[int, ...]
    are_quanta_compressed: bool = False
    """Hires are too far apart for quanta that are all proportional to them."""
    are_ceilings_held: bool = False
    """The `paper` policy left the ceilings as they were: all that is guaranteed is used, or nothing is measured yet."""

    @property
    def spare_bps(self) -> int:
        """What the link has beyond all that was hired: level 1 hands it out."""
        return max(0, self.capacity_bps - self.reserved_bps - self.hired_bps)

    @property
    def is_broken(self) -> bool:
        """Whether more was promised than the link has."""
        return self.kept < 1

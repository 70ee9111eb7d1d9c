"""How a link is shared: from what was hired and measured to the settings of its HTB classes (pure; design/qos.md).

Place in the flow: `LinkPlan` and `Load` per queue -> `decide` -> `Setting` per HTB class -> netlink and Queue rows.

    h  hired      level 1   g = h + (L - sum h) * w / sum w,   w = h / max(1, load / h)
    g  guarantee  level 2   c = g + C * g / sum g              (the paper's equation (1))
    c  ceiling    C = idle capacity, as the policy reads it

Rules: owners are shared between by what they hired in sum; classes of one owner share what it has. A guarantee is never
less than what was hired, unless more was hired than the link has: then all are scaled alike and the decision says so.
What would move by less than `STEADY` stays as it was. Control classes take part in nothing of this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from qos_controller.decision import Ceilings, Decision, Policy, PolicyKind, Setting, Share, Weights
from qos_controller.history import IDLE, Load
from qos_controller.levels import (
    Owner,
    guarantees,
    lent_ceilings,
    level_1_weights,
    raised_ceilings,
    unused_capacity,
    unused_guarantees,
)
from qos_controller.plan import LINK_MINOR, ClassPlan, Group, LinkPlan, groups
from qos_controller.quanta import is_too_wide, kernel_quantum, proportional_quanta

STEADY: Final = 0.01
"""A setting that would move by less than this part of itself is not written."""
FULL: Final = 0.98
"""Where this part of all guarantees is used, all is used: the `paper` policy leaves ceilings alone."""
BURST_S: Final = 0.002
"""How long a class may send at once at its rate: the kernel wakes up late by about that."""
MIN_RATE_BPS: Final = 1000
"""HTB has no class of rate 0."""
CONTROL_PRIO: Final = 0
SHARED_PRIO: Final = 1
DEFAULT: Final = Policy()


class _Levels(NamedTuple):
    """The result of levels 1 and 2 by owner, and C."""

    weights: list[float]
    guaranteed: list[float]
    ceilings: list[float]
    idle_bps: float
    are_held: bool = False


def decide(
    link: LinkPlan, loads: Mapping[int, Load], previous: Mapping[int, Setting], policy: Policy = DEFAULT
) -> Decision:
    """Return what a link's classes are to be, given the loads by queue id and the settings in force by minor number.

    `previous` is `Decision.settings` of the last decision, empty at a fresh start: then, and as long as nothing has
    been measured, ceilings are at the link. The plan has no `plan.problems`.
    """
    reserved = sum(item.hired_bps for item in link.classes if item.control)
    shared = max(0, link.capacity_bps - reserved)
    parties = groups(link)
    owners = [_owner(party, loads, shared) for party in parties]
    hired = sum(party.hired_bps for party in parties)
    kept = min(1.0, shared / hired) if hired else 1.0
    is_known = any(loads.get(item.queue, IDLE).is_known for party in parties for item in party.classes)
    levels = _levels(policy, parties, owners, kept, shared, previous if is_known else {})
    shares = _shares(parties, owners, levels)
    wanted = _settings(link, parties, shares, loads, policy)
    settings = _steady(wanted, previous, link, kept)
    gone = [minor for minor in previous if minor not in settings]
    return Decision(
        port=link.port,
        policy=policy,
        capacity_bps=link.capacity_bps,
        reserved_bps=reserved,
        hired_bps=hired,
        kept=kept,
        used_bps=math.fsum(owner.load_bps for owner in owners),
        idle_bps=levels.idle_bps,
        shares=shares,
        settings=settings,
        changed=tuple(minor for minor, setting in settings.items() if previous.get(minor) != setting),
        removed=tuple(sorted(gone, key=lambda minor: previous[minor].parent == LINK_MINOR)),
        are_quanta_compressed=_is_ours(policy) and is_too_wide(parties, link.frame_bytes),
        are_ceilings_held=levels.are_held,
    )


def _owner(party: Group, loads: Mapping[int, Load], shared_bps: int) -> Owner:
    """Return an owner with what its classes use together."""
    seen = [loads.get(item.queue, IDLE) for item in party.classes]
    return Owner(
        hired_bps=party.hired_bps,
        most_bps=party.most_bps(shared_bps),
        load_bps=math.fsum(load.rate_bps for load in seen),
        backlogged=any(load.backlogged for load in seen),
    )


def _levels(
    policy: Policy,
    parties: Sequence[Group],
    owners: Sequence[Owner],
    kept: float,
    shared_bps: int,
    previous: Mapping[int, Setting],
) -> _Levels:
    """Return what a policy gives each owner."""
    promised = [owner.hired_bps * kept for owner in owners]
    most = [max(rate, owner.most_bps) for rate, owner in zip(promised, owners, strict=True)]
    weights = [float(owner.hired_bps) for owner in owners]
    unused = unused_capacity(owners, shared_bps)
    if policy.kind is PolicyKind.STATIC:
        return _Levels(weights, promised, most, unused)
    if policy.kind is PolicyKind.EQUATION_1_ONLY:
        return _Levels(weights, promised, raised_ceilings(owners, promised, unused) if previous else most, unused)
    if policy.weights is Weights.USAGE:
        weights = level_1_weights(owners)
    guaranteed = guarantees(owners, promised, weights, shared_bps)
    if policy.kind is PolicyKind.WORK_CONSERVING:
        idle = unused_guarantees(owners, guaranteed, shared_bps)
        if policy.ceilings is Ceilings.LINK:
            return _Levels(weights, guaranteed, most, idle)
        return _Levels(weights, guaranteed, lent_ceilings(owners, guaranteed, idle), idle)
    if previous and math.fsum(owner.load_bps for owner in owners) < FULL * math.fsum(guaranteed):
        return _Levels(weights, guaranteed, raised_ceilings(owners, guaranteed, unused), unused)
    held = [
        max(rate, min(limit, previous[party.minor].ceil_bps if party.minor in previous else limit))
        for party, rate, limit in zip(parties, guaranteed, most, strict=True)
    ]
    return _Levels(weights, guaranteed, held, unused, are_held=True)


def _shares(parties: Sequence[Group], owners: Sequence[Owner], levels: _Levels) -> tuple[Share, ...]:
    """Return what each owner gets, with what it was decided from."""
    total = math.fsum(levels.weights) or 1.0
    return tuple(
        Share(
            owner=party.owner,
            minor=party.minor,
            queues=tuple(item.queue for item in party.classes),
            hired_bps=party.hired_bps,
            load_bps=owner.load_bps,
            backlogged=owner.backlogged,
            weight=levels.weights[i] / total,
            guarantee_bps=levels.guaranteed[i],
            ceiling_bps=levels.ceilings[i],
        )
        for i, (party, owner) in enumerate(zip(parties, owners, strict=True))
    )


def _settings(
    link: LinkPlan, parties: Sequence[Group], shares: Sequence[Share], loads: Mapping[int, Load], policy: Policy
) -> dict[int, Setting]:
    """Return every class of a link by its minor number, parents before children."""
    frame = link.frame_bytes
    guaranteed = [share.guarantee_bps for share in shares]
    quanta = proportional_quanta(parties, loads, guaranteed, frame) if _is_ours(policy) else {}
    settings = {LINK_MINOR: _setting(0, link.capacity_bps, link.capacity_bps, frame, SHARED_PRIO, frame)}
    for item in link.classes:
        if item.control:
            ceiling = max(item.hired_bps, min(item.ceiling_bps or link.capacity_bps, link.capacity_bps))
            settings[item.minor] = _setting(LINK_MINOR, item.hired_bps, ceiling, frame, CONTROL_PRIO, frame)
    for party, share in zip(parties, shares, strict=True):
        parent = LINK_MINOR
        if party.is_nested:
            parent = party.minor
            settings[parent] = _setting(LINK_MINOR, share.guarantee_bps, share.ceiling_bps, frame, SHARED_PRIO, frame)
        for item in party.classes:
            least, most = _leaf_rates(item, share)
            quantum = quanta.get(item.queue) or kernel_quantum(least)
            settings[item.minor] = _setting(parent, least, most, quantum, SHARED_PRIO, frame)
    return settings


def _leaf_rates(item: ClassPlan, share: Share) -> tuple[float, float]:
    """Return guarantee and ceiling of a class: its part of its owner's guarantee, and what the owner may have."""
    rate = share.guarantee_bps * item.hired_bps / share.hired_bps
    most = min(item.ceiling_bps or share.ceiling_bps, share.ceiling_bps) if item.borrows else item.hired_bps
    return min(rate, most), most


def _setting(parent: int, rate_bps: float, ceil_bps: float, quantum: int, prio: int, frame_bytes: int) -> Setting:
    rate = max(int(rate_bps), MIN_RATE_BPS)
    ceiling = max(int(ceil_bps), rate)
    burst, cburst = (max(2 * frame_bytes, int(bps * BURST_S / 8)) for bps in (rate, ceiling))
    return Setting(parent, rate, ceiling, quantum, prio, burst, cburst)


def _is_ours(policy: Policy) -> bool:
    """Return whether quanta are proportional: the other policies are there to compare with what others have."""
    return policy.kind is PolicyKind.WORK_CONSERVING


def _steady(
    wanted: dict[int, Setting], previous: Mapping[int, Setting], link: LinkPlan, kept: float
) -> dict[int, Setting]:
    """Return the settings, those of before where they would hardly move and still keep every promise and limit."""
    least = {item.minor: int(item.hired_bps * kept) for item in link.classes if not item.control}
    least.update((party.minor, int(party.hired_bps * kept)) for party in groups(link))
    most = {item.minor: item.ceiling_bps for item in link.classes if item.ceiling_bps}
    most.update((party.minor, party.most_bps(link.capacity_bps)) for party in groups(link) if party.ceiling_bps)
    settings = dict(wanted)
    for minor, now in wanted.items():
        before = previous.get(minor)
        if before is None or not _is_close(before, now):
            continue
        if before.rate_bps >= least.get(minor, 0) and before.ceil_bps <= most.get(minor, link.capacity_bps):
            settings[minor] = before
    total = sum(setting.rate_bps for setting in settings.values() if setting.parent == LINK_MINOR)
    return settings if total <= link.capacity_bps else wanted


def _is_close(before: Setting, now: Setting) -> bool:
    """Return whether a class would hardly move."""
    if (before.parent, before.prio) != (now.parent, now.prio):
        return False
    pairs = (
        (before.rate_bps, now.rate_bps),
        (before.ceil_bps, now.ceil_bps),
        (before.quantum_bytes, now.quantum_bytes),
    )
    return all(new == old or abs(new - old) < STEADY * old for old, new in pairs)

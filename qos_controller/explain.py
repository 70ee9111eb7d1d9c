"""A decision in words, as `xenflow qos explain LINK` shows it (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from qos_controller.decision import Ceilings, Decision, PolicyKind, Share
from xenflow.bandwidth import rate_text


def explain(decision: Decision) -> list[str]:
    """Return lines that tell how a decision came about: measured, level 1, C, who is lent what, the result."""
    return [*_link(decision), *_level_1(decision), *_level_2(decision), *_owners(decision), *_written(decision)]


def _link(decision: Decision) -> Iterator[str]:
    yield (
        f"{decision.port}: {rate_text(decision.capacity_bps)}, policy {decision.policy.kind.value}; "
        f"hired {rate_text(decision.hired_bps)}, used {rate_text(decision.used_bps)}, "
        f"{rate_text(decision.reserved_bps)} set aside for control"
    )
    if decision.is_broken:
        yield f"BROKEN PROMISE: more is hired than the link has; {decision.kept:.1%} of each guarantee is kept"
    if decision.are_quanta_compressed:
        yield "hires are too far apart for proportional quanta: the smallest borrow more than their part"


def _level_1(decision: Decision) -> Iterator[str]:
    spare = decision.spare_bps
    if decision.policy.kind in (PolicyKind.STATIC, PolicyKind.EQUATION_1_ONLY):
        yield "level 1: not in this policy; what was hired is guaranteed"
    elif spare <= 0:
        yield "level 1: nothing is left beyond what was hired"
    else:
        weights = ", ".join(f"{share.owner} {share.weight:.1%}" for share in decision.shares)
        yield f"level 1: {rate_text(spare)} beyond what was hired, by {decision.policy.weights.value}: {weights}"


def _level_2(decision: Decision) -> Iterator[str]:
    kind, idle = decision.policy.kind, rate_text(decision.idle_bps)
    backlogged = ", ".join(share.owner for share in decision.shares if share.backlogged) or "nobody"
    if kind is PolicyKind.STATIC:
        yield "level 2: not in this policy; ceilings are as configured"
    elif kind is PolicyKind.WORK_CONSERVING and decision.policy.ceilings is Ceilings.LINK:
        yield f"level 2: C = {idle} of what is guaranteed is idle, lent by quanta alone; backlogged: {backlogged}"
    elif kind is PolicyKind.WORK_CONSERVING:
        yield f"level 2: C = {idle} of what is guaranteed is idle, lent to whom is backlogged: {backlogged}"
    elif decision.are_ceilings_held:
        yield f"level 2: C = {idle} is not used, but all that is guaranteed is: ceilings stay"
    else:
        yield f"level 2: C = {idle} is not used, added to every ceiling in proportion to the guarantees"


def _owners(decision: Decision) -> Iterator[str]:
    for share in decision.shares:
        yield (
            f"{share.owner}: hired {rate_text(share.hired_bps)}, uses {rate_text(share.load_bps)}"
            f"{' and wants more' if share.backlogged else ''} -> guarantee {rate_text(share.guarantee_bps)}, "
            f"ceiling {rate_text(share.ceiling_bps)}{_queues(decision, share)}"
        )


def _queues(decision: Decision, share: Share) -> str:
    if len(share.queues) == 1:
        return f", quantum {decision.settings[share.queues[0] + 1].quantum_bytes} bytes"
    leaves = ((queue, decision.settings[queue + 1]) for queue in share.queues)
    return "; its queues: " + ", ".join(
        f"{queue} {rate_text(leaf.rate_bps)} to {rate_text(leaf.ceil_bps)}, quantum {leaf.quantum_bytes} bytes"
        for queue, leaf in leaves
    )


def _written(decision: Decision) -> Iterator[str]:
    if decision.changed or decision.removed:
        classes = [f"1:{minor:x}" for minor in decision.changed] + [
            f"1:{minor:x} removed" for minor in decision.removed
        ]
        yield f"to write: {', '.join(classes)}"
    else:
        yield "nothing to write: all is within 1 % of what is set"

"""Answers for operators, from what the links know (pure)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from qos_controller.decision import Decision
from qos_controller.explain import explain
from qos_controller.history import IDLE
from qos_controller.ideal import expected, fitness
from qos_controller.link import Link
from qos_controller.settings import Sharing
from xenflow.qosanswers import Explanation, LinkQueues, QosStatus, QueueStatus


def qos_status(links: Mapping[str, Link], sharing: Sharing, datapath_type: str, *, ovsdb: bool) -> QosStatus:
    """Return all links with their queues."""
    rows = [link_queues(port, link, sharing) for port, link in sorted(links.items())]
    return QosStatus(sharing.policy, sharing.t_med_s, sharing.k_med, datapath_type, ovsdb, rows)


def link_queues(port: str, link: Link, sharing: Sharing) -> LinkQueues:
    """Return a link with its queues as they are now."""
    loads = link.loads()
    ideal = expected(link.plan, loads)
    queues = []
    for item in link.plan.classes:
        load, setting, counters = (
            loads.get(item.queue, IDLE),
            link.settings.get(item.minor),
            link.counters.get(item.minor),
        )
        queues.append(
            QueueStatus(
                id=item.queue,
                owner=item.owner,
                name=item.name,
                control=item.control,
                hired=item.hired_bps,
                ceiling_declared=item.ceiling_bps,
                guarantee=setting.rate_bps if setting else 0,
                ceiling=setting.ceil_bps if setting else 0,
                used=load.rate_bps,
                expected=ideal.get(item.queue, 0.0),
                fitness=fitness(load.rate_bps, ideal.get(item.queue, 0.0)),
                backlogged=load.backlogged,
                backlog_bytes=counters.backlog_bytes if counters else 0,
                drops=counters.drops if counters else 0,
                bytes=counters.bytes if counters else 0,
                packets=counters.packets if counters else 0,
            )
        )
    decision = link.decision
    return LinkQueues(
        port=port,
        capacity=link.fact.capacity if link.fact else 0,
        state=link.standing,
        why=link.why,
        policy=sharing.policy_of(port).kind,
        hired=decision.hired_bps if decision else 0,
        used=sum(loads[item.queue].rate_bps for item in link.plan.classes if item.queue in loads),
        kept=decision.kept if decision else 1.0,
        queues=queues,
    )


def explanation(port: str, link: Link, decision: Decision, now_s: float) -> Explanation:
    """Return how the last decision came about."""
    raw = msgspec.Raw(msgspec.json.encode(decision))
    return Explanation(port, max(now_s - link.decided_s, 0.0), explain(decision), raw)

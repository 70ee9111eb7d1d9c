"""Migrations of a lab's router, ordered as an operator orders them, and what their steps took."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from xenflow.answers import MigrationStatus
from xenflow_lab import operator
from xenflow_lab.command import LabError
from xenflow_lab.lab import Lab

MOVE_S = 60.0
"""A migration ends within this time, or the bench is broken."""
POLL_S = 0.05
"""Each question is a connection to the controller: seldom enough not to disturb it."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A migration that is done. All times in ms.

    `sync_ms`: from when the target has the VM until its packets follow the tables that the client has sent there.
    `repoint_ms`: from then, and the announcements heard, until every other node's packets take the new way.
    """

    source: str
    target: str
    sync_ms: float
    repoint_ms: float


def migrate(lab: Lab, router: str, to: str) -> Steps:
    """Move a router, and return when that is done. Raises LabError if it ends otherwise."""
    answer = operator.ask(lab.app_socket, "migrate", {"router": router, "to": to})
    found = msgspec.json.decode(answer, type=MigrationStatus)
    question = {"number": str(found.number)}

    def ended() -> bool:
        nonlocal found
        answer = operator.ask(lab.app_socket, "migrations", question)
        (found,) = msgspec.json.decode(answer, type=list[MigrationStatus])
        return found.ended

    lab.wait_until(ended, MOVE_S, f"the end of the migration to {to}")
    if found.state != "done":
        raise LabError(f"migration of {router} to {to} has {found.state}: {found.error}")
    return steps(found)


def steps(found: MigrationStatus) -> Steps:
    """Return what the steps of a migration that is done took."""
    at_ms = {item.state: item.after_s * 1e3 for item in found.reached}
    return Steps(
        found.source,
        found.target,
        at_ms["announcing"] - at_ms["resuming"],
        at_ms["draining"] - at_ms["re-pointing"],
    )


def to_and_fro(lab: Lab, between: Mapping[str, tuple[str, str]], count: int) -> Iterator[tuple[str, str]]:
    """Return `count` orders, a router and its target each: the routers by turns, each between its two nodes."""
    here = {router: lab.plan.machines[router].node for router in between}
    targets = {router: itertools.cycle(sorted(ends, key=here[router].__eq__)) for router, ends in between.items()}
    for router in itertools.islice(itertools.cycle(between), count):
        yield router, next(targets[router])

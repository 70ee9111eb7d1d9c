"""What operators order and ask about migrations: the only questions that change something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from xenflow.answers import MigrationStatus, Reached
from xenflow_app.migration import ENDED, State
from xenflow_app.queries.names import QueryError, find_node, find_router

if TYPE_CHECKING:
    from xenflow_app.controller import Controller
    from xenflow_app.truths import Migration

AWAITED = {
    State.PREPARING: "the target's server to take the definition",
    State.INSTALLING: "the target's switch to follow the router's flows",
    State.MOVING: "the hypervisor to move the VM",
    State.CANCELLING: "the hypervisor to give up",
    State.RESUMING: "the VM's client to report to the target",
    State.ANNOUNCING: "the announcement on each interface",
    State.REPOINTING: "every node to turn to the target",
    State.DRAINING: "packets that are still on their way through the source",
    State.UNDOING: "the target to be cleaned",
}
"""State -> what has to happen next, in words."""


def migrate(controller: Controller, arguments: Mapping[str, str]) -> MigrationStatus:
    """Begin to move a router. Raises QueryError with the reason why it cannot be."""
    name = arguments.get("router", "")
    find_router(controller, name)
    find_node(controller, arguments.get("to", ""))
    problem = controller.moves.start(name, arguments["to"])
    if problem:
        raise QueryError(problem)
    return _status(controller, controller.moves.under_way[name])


def abort(controller: Controller, arguments: Mapping[str, str]) -> MigrationStatus:
    """Take a router back that is on its way. Raises QueryError if it is too late, or not on its way."""
    name = arguments.get("router", "")
    problem = controller.moves.abort(name)
    if problem:
        raise QueryError(problem)
    return migrations(controller, {"router": name})[-1]


def migrations(controller: Controller, arguments: Mapping[str, str]) -> list[MigrationStatus]:
    """Return the migrations of a router, or of all, the oldest first."""
    name, number = arguments.get("router", ""), arguments.get("number", "")
    moves = [*controller.moves.ended, *controller.moves.under_way.values()]
    return [
        _status(controller, move)
        for move in sorted(moves, key=lambda item: item.number)
        if name in ("", move.name) and number in ("", str(move.number))
    ]


def _status(controller: Controller, move: Migration) -> MigrationStatus:
    ended = move.state in ENDED
    reached = [Reached(state, round(after, 3)) for state, after in move.reached]
    elapsed = reached[-1].after_s if ended else round(controller.now - move.started, 3)
    return MigrationStatus(
        move.number,
        move.name,
        move.source,
        move.target,
        move.planned,
        move.state,
        ended,
        AWAITED.get(move.state, ""),
        move.percent,
        move.error,
        elapsed,
        reached,
    )

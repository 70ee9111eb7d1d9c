"""The migration of a router as a table: state and event -> state and actions (pure).

    planned:    PREPARING -> INSTALLING -> MOVING --+
    by hand:                                        +-> RESUMING -> ANNOUNCING -> REPOINTING -> DRAINING -> DONE
                    \\            \\          \\       |        |             |
                     +------------+----------+------+--------+-------------+--> UNDOING -> FAILED

Make before break: the source goes on until DRAINING, so whatever happens before REPOINTING leads back to it with
nothing left on the target. From REPOINTING on the only way is forward. What is not in the table changes nothing: an
event that is late, doubled or out of place is ignored; one that came too early is seen again, because who drives the
table repeats what is true (moves.py) after each transition.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a migration is."""

    PREPARING = "preparing"
    """The target's server is told the definition."""
    INSTALLING = "installing"
    """The target's switch gets all of the router's flows but the way to them."""
    MOVING = "moving"
    """The hypervisor moves the VM; the source forwards."""
    CANCELLING = "cancelling"
    """The hypervisor is asked to stop."""
    RESUMING = "resuming"
    """The VM is on the target; its client reconnects and reports."""
    ANNOUNCING = "announcing"
    """The router says on each interface where it is."""
    REPOINTING = "re-pointing"
    """The ways to its addresses turn to the target, node by node."""
    DRAINING = "draining"
    """The source forwards what is still on its way."""
    UNDOING = "undoing"
    """What was made on the target goes."""
    DONE = "done"
    FAILED = "failed"


class Event(StrEnum):
    """What happens, or is true."""

    DEFINED = "the target has the definition"
    INSTALLED = "the target's packets would follow the flows"
    ARRIVED = "the VM runs on the target"
    RETURNED = "the VM runs on the source again"
    CANCELLED = "the hypervisor has given up"
    IN_SYNC = "the client's tables are complete and installed"
    ANNOUNCED = "every interface has announced itself"
    REPOINTED = "packets take the new ways on all nodes"
    DRAINED = "nothing is on its way through the source any more"
    UNDONE = "nothing is left on the target"
    FAILED = "a step has failed"
    ABORT = "somebody wants it back"
    OVERDUE = "the state has lasted too long"


class Action(StrEnum):
    """What is to be done on entering a state."""

    INSTALL = "install the router's flows on the target"
    START = "have the hypervisor move the VM"
    CANCEL = "have the hypervisor stop"
    ROUTE = "let the target route what comes its way"
    KEEP = "keep what neighbors its kernel gives up, until the end"
    ANNOUNCE = "ask the client to announce"
    QUIET = "tell the client that it has been heard, and let no more announcements in"
    REPOINT = "turn the other nodes"
    LEAVE = "let the source route no more"
    CLEAN = "remove the router from the source"
    UNDO = "remove the router from the target"


_FORWARD = (Action.KEEP, Action.INSTALL, Action.ROUTE)
_BACK: tuple[State, tuple[Action, ...]] = (State.UNDOING, (Action.UNDO,))
TABLE: dict[tuple[State, Event], tuple[State, tuple[Action, ...]]] = {
    (State.PREPARING, Event.DEFINED): (State.INSTALLING, (Action.INSTALL,)),
    (State.PREPARING, Event.ARRIVED): (State.RESUMING, _FORWARD),
    (State.PREPARING, Event.FAILED): _BACK,
    (State.PREPARING, Event.ABORT): _BACK,
    (State.PREPARING, Event.OVERDUE): _BACK,
    (State.INSTALLING, Event.INSTALLED): (State.MOVING, (Action.START,)),
    (State.INSTALLING, Event.ARRIVED): (State.RESUMING, _FORWARD),
    (State.INSTALLING, Event.FAILED): _BACK,
    (State.INSTALLING, Event.ABORT): _BACK,
    (State.INSTALLING, Event.OVERDUE): _BACK,
    (State.MOVING, Event.ARRIVED): (State.RESUMING, _FORWARD),
    (State.MOVING, Event.FAILED): _BACK,
    (State.MOVING, Event.ABORT): (State.CANCELLING, (Action.CANCEL,)),
    (State.MOVING, Event.OVERDUE): (State.CANCELLING, (Action.CANCEL,)),
    (State.CANCELLING, Event.OVERDUE): _BACK,
    (State.CANCELLING, Event.ARRIVED): (State.RESUMING, _FORWARD),
    (State.CANCELLING, Event.CANCELLED): _BACK,
    (State.CANCELLING, Event.FAILED): _BACK,
    (State.RESUMING, Event.IN_SYNC): (State.ANNOUNCING, (Action.ANNOUNCE,)),
    (State.RESUMING, Event.OVERDUE): (State.REPOINTING, (Action.QUIET, Action.REPOINT)),
    (State.RESUMING, Event.RETURNED): (State.UNDOING, (Action.QUIET, Action.UNDO)),
    (State.ANNOUNCING, Event.ANNOUNCED): (State.REPOINTING, (Action.QUIET, Action.REPOINT)),
    (State.ANNOUNCING, Event.OVERDUE): (State.REPOINTING, (Action.QUIET, Action.REPOINT)),
    (State.ANNOUNCING, Event.RETURNED): (State.UNDOING, (Action.QUIET, Action.UNDO)),
    (State.REPOINTING, Event.REPOINTED): (State.DRAINING, (Action.LEAVE,)),
    (State.DRAINING, Event.DRAINED): (State.DONE, (Action.CLEAN,)),
    (State.UNDOING, Event.UNDONE): (State.FAILED, ()),
}
"""Every transition there is."""
ENDED = frozenset({State.DONE, State.FAILED})
PAST_RETURN = frozenset({State.REPOINTING, State.DRAINING, State.DONE})
"""States from which nothing leads back to the source."""


def step(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """Return the next state and what is to be done; the same state and nothing for an event that does not count."""
    return TABLE.get((state, event), (state, ()))


def why_back(state: State, event: Event, limit_s: float) -> str:
    """Return why a migration turns back, if the event itself tells; `limit_s` is how long the state may last."""
    if step(state, event)[0] not in (State.UNDOING, State.CANCELLING):
        return ""
    silent = f"the hypervisor has not said for {limit_s:g} s that the VM gets on"
    reasons = {
        Event.ABORT: "taken back",
        Event.OVERDUE: silent if state is State.MOVING else f"{state} has taken longer than {limit_s:g} s",
        Event.RETURNED: "the VM has come back",
    }
    return reasons.get(event, "")

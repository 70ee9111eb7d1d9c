"""The table of a migration as a graph: every way through it ends, and no way leads back too late."""

from __future__ import annotations

import itertools

import pytest

from xenflow_app.migration import ENDED, PAST_RETURN, TABLE, Action, Event, State, step


def reached(state: State) -> set[State]:
    """Return the states that some events lead to, and the state itself."""
    found, new = {state}, [state]
    while new:
        here = new.pop()
        after = {then for (before, _), (then, _) in TABLE.items() if before is here} - found
        found |= after
        new += after
    return found


@pytest.mark.parametrize("state", State)
def test_each_state_is_reached_from_one_of_the_beginnings_and_leads_to_an_end(state: State) -> None:
    assert state in reached(State.PREPARING)
    assert reached(state) & ENDED


def test_what_has_ended_stays_so_and_what_is_past_return_goes_on() -> None:
    assert all(reached(state) == {state} for state in ENDED)
    assert all(reached(state) <= PAST_RETURN for state in PAST_RETURN)
    assert all(State.UNDOING in reached(state) for state in set(State) - PAST_RETURN - ENDED)


def test_the_source_is_left_only_when_the_others_have_turned_and_cleaned_only_after_that() -> None:
    actions = {key: then[1] for key, then in TABLE.items()}
    assert [key for key, done in actions.items() if Action.LEAVE in done] == [(State.REPOINTING, Event.REPOINTED)]
    assert [key for key, done in actions.items() if Action.CLEAN in done] == [(State.DRAINING, Event.DRAINED)]
    assert {then for then, done in TABLE.values() if Action.UNDO in done} == {State.UNDOING}


def test_whoever_was_asked_to_announce_or_let_in_already_is_told_to_be_quiet() -> None:
    let_in = (State.RESUMING, State.ANNOUNCING)
    ways = [(then, done) for (before, _), (then, done) in TABLE.items() if before in let_in and then not in let_in]
    assert ways
    assert all(Action.QUIET in done for _, done in ways)


def test_any_other_event_changes_nothing() -> None:
    others = [pair for pair in itertools.product(State, Event) if pair not in TABLE]
    assert others
    assert all(step(state, event) == (state, ()) for state, event in others)


@pytest.mark.parametrize("state", [State.PREPARING, State.INSTALLING, State.MOVING])
def test_what_can_hang_is_bounded(state: State) -> None:
    assert (state, Event.OVERDUE) in TABLE

"""Histories of moves that were once found to go wrong, told step by step."""

from __future__ import annotations

from tests.unit.app.test_moves_stateful import Moving


def told() -> Moving:
    """A history to be told step by step."""
    history = Moving()
    history.begin()
    return history


def test_a_vm_that_returns_to_a_node_without_its_tables_is_forwarded_for_by_the_one_that_has_them() -> None:
    history = told()
    history.carry(True)
    history.restart_the_controller()
    history.carry(False)
    history.report()
    history.carry(False)
    history.teardown()


def test_a_switch_and_the_controller_die_while_the_client_is_away() -> None:
    history = told()
    history.order("b")
    history.abort()
    history.carry(False)
    history.kill_a_switch("c")
    history.restart_the_controller()
    history.teardown()


def test_a_vm_that_left_while_its_server_was_away_is_forwarded_for() -> None:
    history = told()
    history.carry(False)
    history.wait(50)
    history.teardown()

"""`xenflow flows`: the flows that a switch has, with what each is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from xenflow.answers import FlowStatus, Page
from xenflow_app.answering import answers_of
from xenflow_app.flowtable import FlowKey, FlowTable, kind_of, owner_of
from xenflow_app.openflow import text
from xenflow_app.pipeline import Table
from xenflow_app.queries.names import Names, QueryError, find_node, kind_name, table_name
from xenflow_app.queries.paging import page
from xenflow_app.queries.words import purpose
from xenflow_app.rules import Rule

if TYPE_CHECKING:
    from xenflow_app.controller import Controller


def flows(controller: Controller, arguments: Mapping[str, str]) -> Page[FlowStatus]:
    """Return a page of the flows of `node`; only of `table`, only of `router`, if given. Raises QueryError.

    Sorted by table, then highest priority first, as the switch looks at them.
    """
    node = find_node(controller, arguments.get("node", ""))
    names, table = Names(controller, node), node.flows
    keys: Iterable[FlowKey] = table.actual.keys() | table.desired.keys()
    if arguments.get("table"):
        wanted = parse_table(arguments["table"])
        keys = [key for key in keys if key[0] == wanted]
    if arguments.get("router"):
        router = node.routers.get(arguments["router"])
        if router is None:
            raise QueryError(f"no router {arguments['router']!r} runs on {node.name}; there: {', '.join(node.routers)}")
        owners = (router.number, answers_of(router.number))
        keys = [key for key in keys if owner_of(table.actual.get(key) or table.desired[key]) in owners]
    return page(map(turn, keys), arguments, lambda key: row(names, table, turn(key)))


def turn(key: FlowKey) -> bytes:
    """Return a key that sorts highest priority first; turned again it is the key as it was."""
    return key[:1] + (0xFFFF - int.from_bytes(key[1:3], "big")).to_bytes(2, "big") + key[3:]


def parse_table(name: str) -> int:
    """Return a table's number from its number or name. Raises QueryError."""
    known = {table_name(table): int(table) for table in Table}
    if name.isascii() and name.isdigit():
        return int(name)
    if name.lower() not in known:
        raise QueryError(f"no table {name!r}; there are: {', '.join(known)}")
    return known[name.lower()]


def row(names: Names, table: FlowTable, key: FlowKey) -> FlowStatus:
    """Return one flow as an operator sees it."""
    value = table.actual.get(key)
    state = state_of(table, key)
    rule = Rule(key, table.desired[key] if value is None else value)
    return FlowStatus(
        table=rule.table,
        table_name=table_name(rule.table),
        priority=rule.priority,
        kind=kind_name(kind_of(rule.value)),
        owner=names.owner_name(owner_of(rule.value)),
        words=purpose(names, rule),
        text=text.flow(rule.key, rule.value),
        state=state,
    )


def state_of(table: FlowTable, key: FlowKey) -> str:
    """Return whether a flow is installed, or what is between it and that."""
    if key in table.refused:
        return f"refused: {table.refused[key][1]}"
    if not table.ready:
        return "unknown"
    wanted, actual = table.desired.get(key), table.actual.get(key)
    if wanted is None:
        return "to be removed" if table.is_pending(key) else "held"
    if actual == wanted:
        return "installed"
    return "pending" if actual is None else "to be changed"

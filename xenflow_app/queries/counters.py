"""Counters of the slow path, as the switches have them now: what went to a VM, and what by the wildcard flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from xenflow.answers import RouterStatus
from xenflow_app.flowtable import COOKIE_PREFIX, cookie, kind_of, owner_of
from xenflow_app.openflow import fields
from xenflow_app.openflow.values import Flow
from xenflow_app.pipeline import Kind, Table
from xenflow_app.queries.routers import routers
from xenflow_app.rules import Rule

if TYPE_CHECKING:
    from xenflow_app.controller import Controller

OURS = (COOKIE_PREFIX << 48, 0xFFFF << 48)
"""Cookie and mask of all flows of ours."""
_KIND_MASK = 0xFFFFFF << 40


@dataclass(slots=True)
class Counters:
    """Packets, of the nodes that answered: slow path by router and interface, wildcard flow by router."""

    slow: dict[tuple[int, int], int] = field(default_factory=dict)
    wildcard: dict[int, int] = field(default_factory=dict)

    def take(self, flow: Flow) -> None:
        """Count a flow, if it is one of those."""
        rule = Rule(flow.key, flow.value)
        router = owner_of(flow.value)
        if rule.table == Table.MACHINE:
            interface = rule.number(fields.REG1) or 0
            self.slow[router, interface] = self.slow.get((router, interface), 0) + flow.packets
        elif kind_of(flow.value) == Kind.WILDCARD:
            self.wildcard[router] = self.wildcard.get(router, 0) + flow.packets


class Round:
    """Questions to several switches; `done` is called once, when all are answered or lost."""

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done
        self._open = 1

    def expect(self, tell: Callable[[list[Flow] | None], None]) -> Callable[[list[Flow] | None], None]:
        """Return what to give to one more question; `tell` gets its answer first."""
        self._open += 1
        return partial(self._told, tell)

    def _told(self, tell: Callable[[list[Flow] | None], None], flows: list[Flow] | None) -> None:
        tell(flows)
        self.close()

    def close(self) -> None:
        """One less is open; all have been asked when this is called from outside."""
        self._open -= 1
        if not self._open:
            self._done()


def counted_routers(controller: Controller, done: Callable[[list[RouterStatus]], None]) -> None:
    """Give `done` all routers with their counters."""
    counters = Counters()
    turn = Round(lambda: done(_with_counters(controller, counters)))

    def tell(flows: list[Flow] | None) -> None:
        for flow in flows or ():
            counters.take(flow)

    wildcard = (cookie(Kind.WILDCARD, 0), _KIND_MASK)
    for node in controller.nodes.values():
        if node.switch is not None and node.routers:
            node.datapath.ask(turn.expect(tell), Table.MACHINE, OURS)
            node.datapath.ask(turn.expect(tell), Table.EXACT if controller.reactive else Table.FIB, wildcard)
    turn.close()


def _with_counters(controller: Controller, counters: Counters) -> list[RouterStatus]:
    numbers = {name: router.number for node in controller.nodes.values() for name, router in node.routers.items()}
    found = []
    for status in routers(controller):
        number = numbers[status.name]
        interfaces = [
            msgspec.structs.replace(item, slow_packets=counters.slow.get((number, item.number)))
            for item in status.interfaces
        ]
        wildcard = counters.wildcard.get(number)
        found.append(msgspec.structs.replace(status, interfaces=interfaces, wildcard_packets=wildcard))
    return found

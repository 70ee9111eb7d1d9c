"""What the app orders this node to do: definitions that come and go, a router's move, a trunk that is drained.

    Define, Undefine -> Book -> Definitions -> server        Move, CancelMove -> Mover -> hypervisor
           `-------------------> Progress -> app <---------------'
    Drain -> mark in the database -> fact of the port -> app

Rules: each order is answered, and a refused one changes nothing. An order that comes again is done again without harm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from xenflow.errors import ConfigError
from xenflow.wire import CancelMove, Define, Drain, Move, Progress, Undefine
from xenflow_server.book import Book
from xenflow_server.checking import NAME
from xenflow_server.definitions import Definitions
from xenflow_server.mover import Mover
from xenflow_server.moving import MovePlan

log = logging.getLogger(__name__)
Order = Define | Undefine | Move | CancelMove | Drain


class Orders:
    """Carries out the app's orders.

    `runs_here` says whether a router's machine is on this node; `mark` marks a trunk, or raises ConfigError. With
    `max_routers`, no more routers than these may run here or be handed over to come.
    """

    def __init__(
        self,
        node: str,
        book: Book,
        plan: MovePlan,
        *,
        say: Callable[[Progress], None],
        redefine: Callable[[Definitions], None],
        runs_here: Callable[[str], bool],
        mark: Callable[[Drain], None],
        max_routers: int = 0,
    ) -> None:
        self._node = node
        self._max_routers = max_routers
        self._book = book
        self._mover = Mover(plan, book.state / "moves", say, runs_here)
        self._say = say
        self._redefine = redefine
        self._runs_here = runs_here
        self._mark = mark

    def resume(self) -> None:
        """It is known now who runs here: go on with moves that an earlier run of this server has begun."""
        self._mover.adopt()

    def take(self, order: Order) -> None:
        """Carry out an order, or say why not."""
        try:
            done = self._carry_out(order)
        except ConfigError as error:
            reason = "; ".join(error.problems)
            log.warning("order %s %d refused: %s", type(order).__name__, order.number, reason)
            self._say(Progress(order.number, True, reason))
        else:
            if done:
                self._say(Progress(order.number, True, "", 100))

    def _carry_out(self, order: Order) -> bool:
        """Return whether the order is done; a move says so itself, later."""
        if isinstance(order, Define):
            self._check_room(order.machine.name)
            self._redefine(self._book.define(order))
            log.info("router %s: definition of epoch %d handed over", order.machine.name, order.epoch)
            return True
        if isinstance(order, Undefine):
            if self._runs_here(order.name):
                raise ConfigError([f"router {order.name} runs on node {self._node}: its definition stays"])
            self._redefine(self._book.undefine(order))
            log.info("router %s: definition up to epoch %d forgotten", order.name, order.epoch)
            return True
        if isinstance(order, Drain):
            self._mark(order)
            return True
        if isinstance(order, Move):
            self._move(order)
        elif not self._mover.cancel(order.number):
            raise ConfigError([f"no move has the number {order.number}: it is over, or never began"])
        return False

    def _check_room(self, name: str) -> None:
        """Raises ConfigError if the node is full: what runs here already has its place."""
        defined = self._book.definitions
        others = {one for one in defined.machines if self._runs_here(one)} | defined.handed.keys()
        others.discard(name)
        if self._max_routers and len(others) >= self._max_routers and not self._runs_here(name):
            reason = f"node {self._node} is full: {len(others)} routers run there or are to come, and no more may"
            raise ConfigError([f"{reason} ([limits] max_routers)"])

    def _move(self, order: Move) -> None:
        if not NAME.fullmatch(order.target) or order.target == self._node:
            raise ConfigError([f"router {order.name}: cannot move to {order.target!r}: not another node's name"])
        if not self._runs_here(order.name):
            raise ConfigError([f"router {order.name} does not run on node {self._node}"])
        self._mover.start(order)

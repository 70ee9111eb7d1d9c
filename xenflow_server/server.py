"""The daemon, wired: one place that shows who tells whom.

hypervisor -> Saying -+   (processor and memory: NodeScope -> Resourcing -> hypervisor -> Granted in the node's scope)
OVSDB -> view -> NodeScope -> Uplink -> app -> Ack, Problem -> Clients -> client
                     |          ^        |
                     v          |        +-> Confirm -> Confirmer -> Confirmed -> Uplink
                  Clients -> Relay <- clients (TLS)
                                         +-> Define, Undefine, Move, CancelMove, Drain -> Orders -> Progress -> Uplink
                                         +-> Announce, Announced -> Clients -> client
                                         +-> plan of queues, Query -> Shaping -> qos-controller -> Ack, Answer -> Uplink
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from xenflow.errors import ConfigError
from xenflow.wire import (
    Ack,
    Announce,
    Announced,
    Begin,
    CancelMove,
    Confirm,
    Confirmed,
    Define,
    Drain,
    End,
    Message,
    Move,
    Problem,
    Progress,
    Query,
    Undefine,
    Update,
)
from xenflow_server.book import Book
from xenflow_server.clients import Clients
from xenflow_server.confirm import Confirmer
from xenflow_server.definitions import Definitions
from xenflow_server.domains import Saying
from xenflow_server.granting import ResourceControl
from xenflow_server.hypervisor import Watcher
from xenflow_server.inventory import Inventory
from xenflow_server.moving import MovePlan, by_command
from xenflow_server.node import NodeScope
from xenflow_server.orders import Orders
from xenflow_server.refused import EVERY_S, RefusedCounts
from xenflow_server.resourcing import Resourcing
from xenflow_server.settings import OvsTable
from xenflow_server.shaping import Shaping
from xenflow_server.uplink import Stream, Uplink
from xenflow_server.view import BridgeView, Database

log = logging.getLogger(__name__)
DRAIN_S = 2.0
STOPS = "the server stops"
NO_MOVES = by_command(())


class Server:
    """Joins the parts; `run` until cancelled."""

    def __init__(
        self,
        node: str,
        scope: NodeScope,
        database: Database,
        connect: Callable[[], Awaitable[Stream]],
        ovs: OvsTable,
        book: Book,
        move: MovePlan = NO_MOVES,
        connect_qos: Callable[[], Awaitable[Stream]] | None = None,
        max_routers: int = 0,
        watcher: Watcher | None = None,
        control: ResourceControl | None = None,
    ) -> None:
        """`connect` leads to the app, `connect_qos` to the node's qos-controller, if it has one.

        `watcher` asks the hypervisor, if it is one that can be asked; `control` gives machines processor and memory.
        """
        self.uplink = Uplink(self._connect, self._from_app)
        self.clients = Clients(node, self.uplink)
        self.refused = RefusedCounts(self.clients.refused)
        self._connect_app = connect
        self._scope = scope
        self._knows = False
        self._database = database
        self._watcher = watcher
        self._resourcing = None if control is None else Resourcing(scope.granting, control, self._granted)
        self._confirmer = Confirmer(ovs.rundir, ovs.bridge, lambda token: self.uplink.say(Confirmed(token)))
        self._shaping = None if connect_qos is None else Shaping(node, connect_qos, self.uplink.say)
        self._orders = Orders(
            node,
            book,
            move,
            say=self._progress,
            redefine=self.redefine,
            runs_here=self.clients.runs_here,
            mark=self._mark,
            max_routers=max_routers,
        )

    async def run(self) -> None:
        """Observe and report, for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._database.run(self._observe), name="ovsdb")
                if self._watcher is not None:
                    tasks.create_task(self._watcher.run(self._learn), name="hypervisor")
                if self._resourcing is not None:
                    tasks.create_task(self._resourcing.run(), name="resources")
                tasks.create_task(self.uplink.run(), name="uplink")
                tasks.create_task(self._confirmer.run(), name="confirm")
                if self._shaping is not None:
                    tasks.create_task(self._shaping.uplink.run(), name="qos")
                tasks.create_task(self._tell_refused(), name="refused")
        finally:
            self._database.close()

    async def _tell_refused(self) -> None:
        """Let the app know what is refused here."""
        while True:
            if self.uplink.connected and (news := self.refused.news()) is not None:
                self.uplink.say(news)
            await asyncio.sleep(EVERY_S)

    def redefine(self, definitions: Definitions) -> None:
        """Take new definitions while running."""
        self._apply(self._scope.redefine(definitions))

    async def drain(self) -> None:
        """Say what is still to be said, then close all connections."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await self.clients.drain(STOPS)
                await self.uplink.drain(STOPS)
        except TimeoutError:
            log.warning("not everything was sent within %g s", DRAIN_S)
        for router, reasons in self.clients.refused().items():
            log.info("router %s: facts refused: %s", router, dict(reasons))

    async def _connect(self) -> Stream:
        stream = await self._connect_app()
        self._confirmer.forget()
        if self._shaping is not None:
            self._shaping.app_away()
        self.refused.forget()
        return stream

    def _observe(self, view: BridgeView) -> None:
        self._apply(self._scope.observe(view))

    def _learn(self, saying: Saying) -> None:
        self._apply(self._scope.learn(saying))

    def gate(self, problem: str) -> None:
        """Let the app know why clients cannot connect, empty if they can."""
        self._apply(self._scope.gate(problem))

    def _granted(self) -> None:
        self._apply(self._scope.granted())

    def _apply(self, inventory: Inventory | None) -> None:
        if inventory is None:
            return
        if self._resourcing is not None:
            self._resourcing.wake()
        self._database.want_bfd(inventory.trunks)
        self.uplink.open(self._scope)
        self.uplink.wake(self._scope.scope)
        self.clients.observe(self._scope.definitions.machines, inventory.machines, self._scope.caps, self._scope.moved)
        if not self._knows:
            self._knows = True
            self._orders.resume()

    def _mark(self, order: Drain) -> None:
        inventory = self._scope.inventory
        if inventory is None or order.port not in inventory.trunks:
            raise ConfigError([f"port {order.port} is no trunk of this node's bridge"])
        self._database.mark_drained(order.port, drained=order.drained)
        log.info("trunk %s: to be marked drained=%s", order.port, order.drained)

    def _progress(self, progress: Progress) -> None:
        """Tell the app; how an order ended also later, if the connection is down."""
        if progress.done:
            self.uplink.keep(progress)
        else:
            self.uplink.say(progress)

    def _from_app(self, message: Message) -> None:
        match message:
            case Ack() | Problem() if message.scope:
                self.clients.tell(message)
            case Problem():
                log.warning("app: %s", message.text)
            case Confirm():
                self._confirmer.ask(message.token)
            case Define() | Undefine() | Move() | CancelMove() | Drain():
                self._orders.take(message)
            case Announce() | Announced():
                self.clients.announce(message)
            case Begin() | Update() | End() | Query() if self._shaping is not None:
                self._shaping.take_in(message)

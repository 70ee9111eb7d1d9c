"""The controller: events in, effects out (sans-IO; time is an argument in seconds).

Place in the flow: hosts (stand-alone, POX) -> *Controller* -> hosts. It holds the nodes, their routers and the fabric,
and does nothing itself but hand each event to whom it concerns, then let what is due be sent:

    server  -> Node (ports, machines), Router (routes, neighbors)     \\
    switch  -> Switches (whose it is), Datapath, Arrivals (packets)    >  _finish: Steps.advance, acks, flush
    time    -> Discovery (probes), settling                           /

Nothing of a node or router is deleted before what is known of it is complete (Node.in_sync).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial

from xenflow.errors import Fault, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.model import Bridge, Machine, Network, Port
from xenflow.tally import Tally
from xenflow.wire import (
    NODE_SCOPE,
    QUEUES_SCOPE,
    VERSION,
    Ack,
    Answer,
    Begin,
    Close,
    Confirmed,
    End,
    Hello,
    Message,
    Problem,
    Progress,
    Query,
    Refused,
    Role,
    Update,
    Welcome,
)
from xenflow_app import queries
from xenflow_app.announcements import ReservedFrames
from xenflow_app.answering import Answering
from xenflow_app.arrivals import Arrivals
from xenflow_app.datapath import Datapath
from xenflow_app.discovery import Discovery
from xenflow_app.drains import Drains
from xenflow_app.effects import ClosePeer, Effect, ToPeer, ToSwitch
from xenflow_app.fabric import Fabric
from xenflow_app.facts import Facts
from xenflow_app.flowtable import FlowTable
from xenflow_app.homes import Homes
from xenflow_app.inquiries import Inquiries
from xenflow_app.moves import Moves, is_announcement
from xenflow_app.networks import Networks
from xenflow_app.node import Node
from xenflow_app.openflow import actions, encode
from xenflow_app.openflow.values import (
    BarrierReply,
    ErrorMessage,
    Features,
    FlowRemoved,
    FlowStats,
    PacketIn,
    PortReason,
    PortStatus,
    SwitchMessage,
)
from xenflow_app.queues import Queues
from xenflow_app.settings import AppSettings, Mode
from xenflow_app.steps import Steps
from xenflow_app.switches import Switches

log = logging.getLogger(__name__)

CONTROLLER_NAME = "controller"
PROBE_PATIENCE_S = 1.5
"""How long a new trunk may stay silent before the others go on without it."""
SETTLE_GRACE_S = 10.0
"""How long after the start nodes that do not appear are waited for."""
QUIET_S = 1.0
"""Without a list of nodes: how long no new node must have appeared."""


class Controller:
    """See the module. `effects` returns, and forgets, what has to be done since the last call."""

    def __init__(self, settings: AppSettings, host: str = "stand-alone") -> None:
        """`host` is what runs the core, for people to read."""
        self.settings = settings
        self.host = host
        self.nodes: dict[str, Node] = {}
        self.flows: dict[str, FlowTable] = {}
        self.fabric = Fabric(self.flows)
        self.discovery = Discovery(os.urandom(32), settings.probe_interval_s)
        self.refused: dict[str, int] = {}
        self.doors: dict[str, Mapping[Fault, int]] = {}
        self.reactive = settings.mode is Mode.REACTIVE
        self._effects: list[Effect] = []
        self._peers: dict[int, Identity] = {}
        self._switches = Switches(self.nodes, self.fabric, self.discovery, self._effects.append)
        self.answering = Answering(self.flows)
        self.homes = Homes(self.nodes, self.fabric, self.answering)
        reactive = settings.reactive if self.reactive else None
        self._facts = Facts(
            self.nodes, self.fabric, self.homes, self.answering, reactive, self._problem, settings.hold_s
        )
        self._steps = Steps(self.fabric, self.nodes, self._effects.append)
        self.queues = Queues(self.nodes, self.fabric, self.homes, self._facts.networks, self._tell, self._problem)
        self.inquiries = Inquiries(self._tell)
        self.moves = Moves(self.nodes, self._facts, self.homes, self._steps, self.queues, self._tell, settings.hold_s)
        self.ignored = Tally("ignored")
        self._reserved = ReservedFrames(self.nodes, self.ignored)
        self.drains = Drains(self.nodes, self.fabric, self._steps, self._tell)
        self._arrivals = Arrivals(
            self.nodes, self.fabric, self.discovery, self.answering, settings.limits, self._to_switch
        )
        self._now = 0.0
        self._started: float | None = None
        self._last_new_node = 0.0

    @property
    def now(self) -> float:
        """The time of the event that is dealt with, in seconds."""
        return self._now

    @property
    def networks(self) -> Networks:
        """The virtual networks of all nodes."""
        return self._facts.networks

    # -- hosts -------------------------------------------------------------------------------------------------------

    def watch_door(self, where: str, refused: Mapping[Fault, int]) -> None:
        """Note a listener of the host's, with its counts of refused peers, which go on counting."""
        self.doors[where] = refused

    def effects(self) -> list[Effect]:
        """Return what has to be done, in order."""
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    def next_deadline(self) -> float:
        """Return when `tick` should be called at the latest."""
        waits = [part.next_deadline() for part in (self.discovery, self._steps, self.moves, self.inquiries)]
        if not self.fabric.settled:
            waits.append(self._now + 0.1)
        return min([*waits, self._now + self.settings.probe_interval_s])

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._begin(now)
        self._steps.tick(now)
        self.moves.tick(now)
        self._facts.tick(now)
        self.inquiries.tick(now)
        self._reserved.tick(now)
        for end in self.discovery.probes(now):
            node = self.nodes.get(end.node)
            if node is not None and node.switch is not None and node.dpid is not None:
                frame = self.discovery.frame(end, node.dpid)
                self._to_switch(node, encode.packet_out(actions.output(end.port), frame))
        if self.discovery.expire(now):
            self.fabric.set_graph(self.discovery.links())
        self._finish()

    # -- servers and operators ---------------------------------------------------------------------------------------

    def peer_opened(self, peer: int, identity: Identity, hello: Hello, now: float) -> Welcome:
        """A server or an operator has connected. Raises RemoteProtocolError for who has no business here."""
        self._begin(now)
        if identity.role is Role.NODE:
            node = self._node(identity.name)
            if node.peer is not None:
                self._effects.append(ClosePeer(node.peer, "another connection of the same node took over"))
                self._peers.pop(node.peer, None)
                self._steps.server_away(node, now)
            node.peer = peer
            node.inbox.suspend()
            for inbox in node.router_inboxes.values():
                inbox.suspend()
            self.queues.server_back(node)
            log.info("server connected node=%s", node.name)
        elif identity.role is not Role.OPERATOR:
            raise RemoteProtocolError(f"a {identity.role} has no business here")
        self._peers[peer] = identity
        return Welcome(VERSION, Role.CONTROLLER, CONTROLLER_NAME)

    def peer_closed(self, peer: int, now: float) -> None:
        """The connection is gone; what it told stays as it is until it comes back."""
        self._begin(now)
        identity = self._peers.pop(peer, None)
        node = self.nodes.get(identity.name) if identity is not None and identity.role is Role.NODE else None
        if node is not None and node.peer == peer:
            node.peer = None
            log.info("server away node=%s", node.name)
            self._steps.server_away(node, now)
        self._finish()

    def peer_message(self, peer: int, message: Message, now: float) -> None:
        """A message has come. Raises RemoteProtocolError for what must not come; the host closes the connection."""
        identity = self._peers.get(peer)
        if identity is None:
            return
        self._begin(now)
        if identity.role is Role.OPERATOR:
            if not isinstance(message, Query):
                raise RemoteProtocolError(f"{type(message).__name__} from an operator")
            queries.ask(self, message.what, message.arguments, partial(self._answer, peer, message.number))
            self._finish()
            return
        node = self.nodes[identity.name]
        match message:
            case Begin() | Update() | End():
                if message.scope == NODE_SCOPE:
                    self._node_facts(node, message)
                else:
                    self._facts.of_router(node, message)
            case Close():
                self._facts.close(node, message.scope, moved=message.moved)
            case Progress():
                self.moves.progress(message)
                self.drains.progress(message)
            case Ack() if message.scope == QUEUES_SCOPE:
                self.queues.acknowledged(node, message.seq)
            case Refused():
                node.turned_away = message.counts
            case Answer():
                self.inquiries.answered(node, message)
            case Confirmed():
                self._steps.confirmed(message.token)
            case _:
                raise RemoteProtocolError(f"{type(message).__name__} from a node")
        self._finish()

    def _answer(self, peer: int, number: int, body: bytes, error: str) -> None:
        """Answer an operator, who may have left meanwhile."""
        if peer in self._peers:
            self._effects.append(ToPeer(peer, Answer(number, body, error)))

    # -- switches ----------------------------------------------------------------------------------------------------

    def switch_opened(self, switch: int, features: Features, node: str | None, now: float) -> None:
        """A switch has connected; `node` is its identity, None on loopback. Raises RemoteProtocolError to refuse it."""
        self._begin(now)
        self._switches.opened(switch, features, None if node is None else self._node(node), now)
        self._finish()

    def switch_closed(self, switch: int, now: float) -> None:
        """The connection is gone; the switch goes on with what it has."""
        self._begin(now)
        self._switches.closed(switch)
        self._finish()

    def switch_message(self, switch: int, message: SwitchMessage, now: float) -> None:
        """A message has come from a switch."""
        node = self._switches.node(switch)
        if node is None:
            return
        self._begin(now)
        match message:
            case BarrierReply():
                node.datapath.barrier(message)
            case FlowStats():
                if node.datapath.dump(message):
                    self._dumped(node)
            case PacketIn():
                if is_announcement(message.data):
                    reason = self.moves.announced(node, message)
                    if reason is not None:
                        port = node.port_at(message.in_port)
                        where = f"{node.name}:{message.in_port if port is None else port.name}"
                        self.ignored.add(where, reason, now)
                        return  # and nothing follows from it
                elif not self._arrivals.packet_in(node, message, now):
                    return
            case PortStatus():
                node.port_up[message.number] = message.up and message.reason is not PortReason.DELETE
                self._switches.watch_trunks(node, now)
            case FlowRemoved():
                if not self._arrivals.flow_removed(node, message):
                    return
            case ErrorMessage():
                key = node.datapath.error(message)
                log.warning(
                    "switch refused node=%s type=%d code=%d flow=%s",
                    node.name,
                    message.type,
                    message.code,
                    "none" if key is None else key.hex(),
                )
            case _:
                pass
        self._finish()

    def _dumped(self, node: Node) -> None:
        for router in node.routers.values():
            if router.planned and router.exact is not None:
                router.exact.adopt()
        if self.fabric.settled:
            self._arrivals.adopt_learned(node)
        due = node.flows.due
        log.info(
            "switch in view node=%s flows=%d due=%s held=%d", node.name, len(node.flows.actual), due, node.flows.held
        )

    def _node_facts(self, node: Node, message: Begin | Update | End) -> None:
        kinds = self._facts.of_node(node, message)
        if Bridge.KIND in kinds:
            self._switches.know_bridge(node, self._now)
        if kinds & {Machine.KIND, Network.KIND, Port.KIND}:
            self.queues.changed()
        if Port.KIND in kinds:
            self.drains.marks_changed()
            self._switches.watch_trunks(node, self._now)

    # -- what follows from every event -------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._now = now
        self.moves.at(now)
        if self._started is None:
            self._started = now

    def _finish(self) -> None:
        """Let everything that is due go its way."""
        settles = not self.fabric.settled and self._all_known()
        if settles:
            self._settle()
        self.moves.poll(self._now)
        for name in self.moves.under_way:
            self.homes.plan(name)
        self._steps.advance(self._now)
        self.queues.advance()
        self.drains.poll(self._now)
        for node in self.nodes.values():
            if node.flows.held and self.fabric.settled:
                self._facts.release(node)
        for node in self.nodes.values():
            if node.acks and node.flows.ready:
                acks, node.acks = node.acks, {}
                node.datapath.when_confirmed(partial(self._acknowledge, node, acks))
            node.datapath.flush()

    def _all_known(self) -> bool:
        """Tell whether what nodes and links there are is known, or has been waited for long enough."""
        nodes = [self.nodes.get(name) for name in self.settings.nodes or self.nodes]
        ready = [node is not None and node.known and node.flows.ready for node in nodes]
        started = self._started if self._started is not None else self._now
        if self._now - started >= SETTLE_GRACE_S:
            return any(ready)
        quiet = bool(self.settings.nodes) or self._now - self._last_new_node >= QUIET_S
        return bool(ready) and all(ready) and quiet and not self.discovery.waiting(self._now, PROBE_PATIENCE_S)

    def _settle(self) -> None:
        log.info("fabric settled nodes=%d links=%d", len(self.nodes), len(self.fabric.graph.edges))
        self._facts.take_over(self._now)
        self.fabric.settle()
        for node in self.nodes.values():
            self._arrivals.adopt_learned(node)

    def _acknowledge(self, node: Node, acks: dict[str, int]) -> None:
        if node.peer is None:
            return
        for name, seq in acks.items():
            router = node.routers.get(name)
            self._effects.append(ToPeer(node.peer, Ack(name, seq, 0 if router is None else router.shed)))

    def _node(self, name: str) -> Node:
        """Return the node of that name, new if it must be. Raises RemoteProtocolError for one that is not allowed."""
        node = self.nodes.get(name)
        if node is None:
            if self.settings.nodes and name not in self.settings.nodes:
                raise RemoteProtocolError(f"node {name!r} is not one of this controller's nodes")
            flows = FlowTable()
            datapath = Datapath(flows, partial(self._send, name), partial(self._owner_in_sync, name))
            node = self.nodes[name] = Node(name, flows, datapath)
            self.flows[name] = flows
            self.fabric.node_away(name)
            self._last_new_node = self._now
        return node

    def _owner_in_sync(self, name: str, owner: int) -> bool:
        return self._facts.in_sync(self.nodes[name], owner)

    def _send(self, name: str, data: bytes) -> None:
        self._to_switch(self.nodes[name], data)

    def _tell(self, node: Node, message: Message) -> bool:
        """Send a message to a node's server; tell whether it is there."""
        if node.peer is not None:
            self._effects.append(ToPeer(node.peer, message))
        return node.peer is not None

    def _to_switch(self, node: Node, data: bytes) -> None:
        if node.switch is not None:
            self._effects.append(ToSwitch(node.switch, data))

    def _problem(self, node: Node, scope: str, text: str) -> None:
        """Something of a node was refused: counted, logged once, and told."""
        first = text not in self.refused
        self.refused[text] = self.refused.get(text, 0) + 1
        if first:
            log.warning("refused node=%s scope=%s reason=%s", node.name, scope or "node", text)
            if node.peer is not None:
                self._effects.append(ToPeer(node.peer, Problem(scope, text)))

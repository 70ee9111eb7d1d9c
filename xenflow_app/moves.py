"""The migrations that are under way: what is true is put to the table, what the table says is done (sans-IO).

Place in the flow: operator, servers, announcements, confirmations -> *events -> migration.TABLE -> actions* -> Facts,
Homes, servers.

Events are not remembered but repeated: after each transition everything that is true is put to the table again, so that
what came early counts when its time has come. A move that somebody started with the hypervisor's own means is found by
the VM's arrival, and enters at RESUMING.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

from xenflow.model import ANNOUNCEMENT_MAC
from xenflow.wire import Announce, Announced, CancelMove, Define, Message, Move, Progress
from xenflow_app import edges, pipeline
from xenflow_app.announcements import Reason, why_not
from xenflow_app.facts import Facts
from xenflow_app.handing import Handing
from xenflow_app.homes import Homes
from xenflow_app.migration import ENDED, Action, Event, State, step, why_back
from xenflow_app.node import Node
from xenflow_app.openflow.values import PacketIn
from xenflow_app.queues import Queues
from xenflow_app.steps import Steps
from xenflow_app.truths import OVERDUE_S, SHAPED, SHAPED_S, Migration, Truths

log = logging.getLogger(__name__)

DRAIN_S = 1.0
"""How long the source goes on after nothing leads to it any more."""
REPEAT_S = 1.0
"""How often the client is asked again to announce."""
KEPT = 100
"""Ended migrations that are remembered."""


class Moves:
    """See the module. `send` takes a node and a message for its server, and tells whether it can be sent.

    `hold_s` is how long a router whose VM has left, and has not arrived anywhere, is forwarded for.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        facts: Facts,
        homes: Homes,
        steps: Steps,
        queues: Queues,
        send: Callable[[Node, Message], bool],
        hold_s: float,
    ) -> None:
        self.under_way: dict[str, Migration] = {}
        self.ended: list[Migration] = []
        self._nodes = nodes
        self._facts = facts
        self._homes = homes
        self._steps = steps
        self._queues = queues
        self._send = send
        self._hold_s = hold_s
        self._truths = Truths(nodes, homes, queues)
        self._held: dict[tuple[str, str], float] = {}
        self._late: set[tuple[str, str]] = set()
        """Routers and nodes that they have moved away from, whose servers have not noticed yet."""
        self._handing = Handing(nodes, homes, send)
        self._now = 0.0
        facts.watcher = self

    # -- operators ---------------------------------------------------------------------------------------------------

    def start(self, name: str, target: str) -> str:
        """Begin to move a router; return why it cannot be, or nothing."""
        source = self._homes.home(name)
        if why := self._truths.why_not(name, target, self.under_way):
            return why
        assert source is not None  # else there is a reason
        self._begin(name, source, target, planned=True)
        return ""

    def abort(self, name: str) -> str:
        """Want a router back where it comes from; return why it cannot be, or nothing."""
        move = self.under_way.get(name)
        if move is None:
            return f"router {name!r} is not on its way"
        if move.state in (State.CANCELLING, State.UNDOING):
            return f"router {name!r} is {move.state}: it is going back already"
        if step(move.state, Event.ABORT)[0] is move.state:
            return f"router {name!r} is {move.state}: too late to go back"
        self._put(move, Event.ABORT)
        return ""

    # -- events ------------------------------------------------------------------------------------------------------

    def arrived(self, name: str, node: Node) -> None:
        """The router's VM is on a node that is not its home."""
        if (name, node.name) in self._late:
            return
        home = self._homes.home(name)
        move = self.under_way.get(name)
        if move is None and home is not None:
            self._begin(name, home, node.name, planned=False)
        elif move is not None and node.name not in (move.source, move.target):
            move.error = f"the VM has come to node {node.name}"
            move.truths |= {Event.FAILED, Event.RETURNED}  # which of them counts, the table says

    def left(self, name: str, node: Node, *, moved: bool) -> bool:
        """The router's VM is not on the node any more; return whether its flows stay for now."""
        self._late.discard((name, node.name))
        move = self.under_way.get(name)
        if move is not None and node.name in (move.source, move.target):
            move.has_left = move.has_left or node.name == move.source
            if not moved and not self._is_somewhere(name):
                self._destroyed(move)
            return True
        if self._homes.settled and self._is_somewhere(name) and node.name != self._homes.home(name):
            return False
        if moved:
            self._hold_nowhere(name, node)
        return moved

    def reported(self, name: str, node: Node) -> None:
        """The router's client has reported on a node: the VM runs there, even if it was only late to leave before."""
        if (name, node.name) in self._late:
            self._late.discard((name, node.name))
            self.arrived(name, node)

    def _is_somewhere(self, name: str) -> bool:
        """Tell whether the router's VM is on a node, and not only late to leave it."""
        having = {(name, node.name) for node in self._nodes.values() if node.machine(name) is not None}
        return bool(having - self._late)

    def _hold_nowhere(self, name: str, node: Node) -> None:
        """If the router's VM is on no node, the one that it has left forwards for a while; any other may expect it."""
        if name in node.routers and not self._is_somewhere(name):
            self._held[name, node.name] = self._now
            self._handing.everywhere(node.routers[name].machine, node)

    def progress(self, message: Progress) -> None:
        """A server says how an order goes."""
        move = next((item for item in self.under_way.values() if item.number == message.number), None)
        if move is None:
            return
        if move.state is not State.PREPARING:  # the definition is no part of what the hypervisor does
            move.percent = message.percent
            move.heard_from = self._now
        if message.error:
            move.error = move.error or message.error
            move.truths.add(Event.CANCELLED if move.state is State.CANCELLING else Event.FAILED)
        elif message.done and move.state is State.PREPARING:
            move.truths.add(Event.DEFINED)

    def announced(self, node: Node, packet: PacketIn) -> Reason | None:
        """An announcement came in at a port of the node; return why it does not count, None if it does."""
        port = node.port_at(packet.in_port)
        machine = None if port is None else node.machine(port.machine)
        move = None if machine is None else self.under_way.get(machine.name)
        if port is None or machine is None or move is None or move.target != node.name:
            return Reason.NOT_AWAITED
        mac = next((item.mac for item in machine.interfaces if item.number == port.interface), b"")
        reason = why_not(packet.data, mac, move.key, move.epoch)
        if reason is None and mac not in move.heard:
            move.heard.add(mac)
            log.info("announcement heard router=%s node=%s port=%s", machine.name, node.name, port.name)
        return reason

    def at(self, now: float) -> None:
        """What is told from now on happens now."""
        self._now = now

    def tick(self, now: float) -> None:
        """Time has passed; what is held too long goes."""
        self._now = now
        for (name, where), since in list(self._held.items()):
            node = self._nodes[where]
            if node.machine(name) is not None or name not in node.routers or name in self.under_way:
                del self._held[name, where]
            elif now - since >= self._hold_s:
                del self._held[name, where]
                late = next((other for other in self._nodes.values() if (name, other.name) in self._late), None)
                if late is not None:
                    self.reported(name, late)  # after so long it does run there
                else:
                    self._facts.remove(node, name)
                    self._handing.nowhere_else(name)
        self._handing.tick(now, self.under_way, {name: self._nodes[where] for name, where in self._held})

    def poll(self, now: float) -> None:
        """Put everything that is true to the table, until nothing changes."""
        self._now = now
        for move in list(self.under_way.values()):
            while move.state not in ENDED and self._get_on(move):
                pass
            self._ask_again(move)
            if move.state is State.ANNOUNCING and now - move.asked >= REPEAT_S:
                self._ask_to_announce(move)

    def next_deadline(self) -> float:
        """Return when `poll` should be called again."""
        return self._now + 0.05 if self.under_way else float("inf")

    # -- the table ---------------------------------------------------------------------------------------------------

    def _begin(self, name: str, source: str, target: str, *, planned: bool) -> None:
        number = self._handing.number()
        move = Migration(number, name, source, target, planned, self._now, number)
        move.has_left = self._nodes[source].machine(name) is None
        move.since = self._now
        self.under_way[name] = move
        self._held.pop((name, source), None)
        self._note(move, "asked for" if planned else "found under way")
        self._homes.disguise(name, moving=True)
        if planned:
            machine = self._nodes[source].routers[name].machine
            self._ask(move, self._nodes[target], Define(number, machine, machine.max_routes, number))

    def _ask(self, move: Migration, node: Node, order: Message) -> None:
        """Give an order of the move; it is given again to a server that starts anew (`_ask_again`)."""
        move.order = order
        move.peer = node.peer
        if not self._send(node, order):
            move.truths.add(Event.FAILED)
            move.error = f"the server of node {node.name} is away"

    def _ask_again(self, move: Migration) -> None:
        """Repeat the order to a server that has connected anew, and may never have got it."""
        node = self._nodes[move.target if move.state is State.PREPARING else move.source]
        lost = move.state is State.PREPARING or (move.state is State.MOVING and node.machine(move.name) is not None)
        if lost and node.peer not in (None, move.peer) and node.inbox.in_sync and move.order is not None:
            move.peer = node.peer
            self._send(node, move.order)

    def _get_on(self, move: Migration) -> bool:
        """Put what is true of a migration to the table; tell whether the state has changed."""
        self._watch_sync(move)
        return any(self._put(move, event) for event in self._truths.of(move, self._now))

    def _watch_sync(self, move: Migration) -> None:
        """Once the client's tables are complete on the target: wait until its packets follow them."""
        target = self._nodes[move.target]
        inbox = target.router_inboxes.get(move.name)
        awaited = move.state is State.RESUMING and not move.following and target.machine(move.name) is not None
        if awaited and inbox is not None and inbox.in_sync:
            move.following = True
            self._expect(move, target, expected=True)  # followed as well before the client is asked to announce
            self._steps.when_followed(target, partial(self._synced, move))

    def _synced(self, move: Migration) -> None:
        """The target's packets follow what the client has reported there."""
        move.truths.add(Event.IN_SYNC)
        self._arrive(move)

    def _put(self, move: Migration, event: Event) -> bool:
        """Put an event to the table; tell whether the state has changed."""
        state, actions = step(move.state, event)
        if state is move.state:
            return False
        before, move.state, move.since = move.state, state, self._now
        told = "" if state is State.RESUMING else move.error  # it has arrived, whoever wanted it back
        move.error = told or why_back(before, event, OVERDUE_S.get(before, 0))
        self._note(move, event, before)
        if event in SHAPED and (late := [node for node in self._nodes if not self._queues.applied(node)]):
            why = f"not confirmed within {SHAPED_S:g} s by the servers of nodes {', '.join(sorted(late))}"
            log.error("migration router=%s goes on without its queues: %s", move.name, why)
        for action in actions:
            self._act(move, action)
        if state in ENDED:
            del self.under_way[move.name]
            self._homes.disguise(move.name, moving=False)
            self._facts.let_neighbors_go(move.name)
            self.ended = [*self.ended[1 - KEPT :], move]
            both = all(self._nodes[where].machine(move.name) is not None for where in (move.source, move.target))
            if move.state is State.DONE and both and not move.has_left:
                self._late.add((move.name, move.source))
            for node in self._nodes.values():
                if node.machine(move.name) is not None and self._homes.home(move.name) != node.name:
                    self.arrived(move.name, node)  # it went on, or back, meanwhile
            if (home := self._homes.home(move.name)) is not None:
                self._hold_nowhere(move.name, self._nodes[home])
        return True

    def _note(self, move: Migration, why: str, before: State | None = None) -> None:
        move.reached.append((move.state, self._now - move.started))
        log.info(
            "migration router=%s source=%s target=%s from=%s to=%s why=%s error=%s",
            *(move.name, move.source, move.target, before or "-", move.state, why, move.error or "-"),
        )

    def _act(self, move: Migration, action: Action) -> None:
        source, target, name = self._nodes[move.source], self._nodes[move.target], move.name
        match action:
            case Action.INSTALL:
                self._facts.prepare(target, source, name)
                self._homes.expect(name, target.name)
                waiting = {node.name for node in (source, target) if node is target or node.switch is not None}
                for node in [self._nodes[item] for item in sorted(waiting)]:
                    self._steps.when_followed(node, partial(self._installed, move, waiting, node.name))
            case Action.KEEP:
                self._facts.keep_neighbors(name)
            case Action.START:
                self._ask(move, source, Move(move.number, name, target.name))
            case Action.CANCEL:
                self._send(source, CancelMove(move.number))
            case Action.ROUTE:
                self._homes.route_also(name, target.name)
                self._steps.when_followed(target, partial(self._arrive, move))
            case Action.ANNOUNCE:
                self._ask_to_announce(move)
            case Action.QUIET:
                self._expect(move, target, expected=False)
                self._send(target, Announced(name, move.epoch))
            case Action.REPOINT:
                self._homes.turn(name)
            case Action.LEAVE:
                self._homes.leave(name, source.name)
                self._steps.when_followed(source, partial(self._drain, move))
                if source.switch is None:
                    self._drain(move)
            case Action.CLEAN:
                if name in source.routers and source.machine(name) is None:
                    self._facts.remove(source, name)
                self._handing.nowhere_else(name)
            case Action.UNDO:
                self._homes.leave(name, target.name, back_to=source.name)
                if name in target.routers and target.machine(name) is None:
                    self._facts.remove(target, name)
                self._handing.nowhere_else(name)

    def _installed(self, move: Migration, waiting: set[str], node: str) -> None:
        """The node's packets follow what was planned for the move; those of the others in `waiting` not yet."""
        waiting.discard(node)
        if not waiting:
            move.truths.add(Event.INSTALLED)

    def _arrive(self, move: Migration) -> None:
        """The target's packets follow the router's flows; the others go on by the source, if that can forward."""
        if self.under_way.get(move.name) is move and not self._truths.waits_for_client(move):
            self._homes.arrive(move.name, hold=self._truths.is_routable(self._nodes[move.source], move))

    def _ask_to_announce(self, move: Migration) -> None:
        """Ask, and see to it that the switch lets the answer in at the ports that there are now."""
        target = self._nodes[move.target]
        move.asked = self._now
        self._expect(move, target, expected=True)
        self._send(target, Announce(move.name, move.epoch, move.key))

    def _expect(self, move: Migration, target: Node, *, expected: bool) -> None:
        """Open the vifs of the target for announcements, or close them."""
        router = target.routers.get(move.name)
        if router is None:
            return
        for item in router.machine.interfaces:
            port = target.vif(move.name, item.number)
            flows: pipeline.Flows = {}
            if expected and port is not None:
                flows = edges.admit_announcement(port, item.mac, router.number)
            target.flows.want_group((router.number, "announcement", item.number), flows)

    def _drain(self, move: Migration) -> None:
        """Nothing leads to the source any more; what is on its way gets a moment."""
        self._steps.after(DRAIN_S, partial(move.truths.add, Event.DRAINED))

    def _destroyed(self, move: Migration) -> None:
        """The VM is nowhere any more: nothing is left to move."""
        del self.under_way[move.name]
        self._homes.disguise(move.name, moving=False)
        move.state, move.error = State.FAILED, "the VM was destroyed"
        self._note(move, "destroyed")
        self._facts.let_neighbors_go(move.name)
        self.ended = [*self.ended[1 - KEPT :], move]
        for where in (move.source, move.target):
            node = self._nodes[where]
            if move.name in node.routers:
                self._facts.remove(node, move.name)
        self._handing.nowhere_else(move.name)


def is_announcement(frame: bytes) -> bool:
    """Tell whether a frame is addressed as announcements are."""
    return frame[:6] == ANNOUNCEMENT_MAC

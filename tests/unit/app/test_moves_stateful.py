"""Any history of orders, moves by hand, lost connections, restarts: each packet arrives once, and all converges.

After each change of any switch a packet from each node to what is behind the router is followed through all tables, as
the switches would. It arrives exactly once, routed by a switch. Two things excuse its loss, and no more: a switch on
its way that is dead, and a controller that has started anew while the router's client was away and no switch routed for
it any more (nobody knows its tables until it has reported and its move has ended: the VM gets the packet). Nor does
anybody know the router's addresses then: a switch that forgets its flows meanwhile does not answer for them. Events
come late, twice, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.strategies import booleans, floats, integers, sampled_from

from tests.unit.app.network import Server, World, mac
from xenflow.announcement import Announcement, build
from xenflow.model import Hop, Machine, Neighbor, Port, PortKind, Route, RouteKind, neighbor_key, pack_prefix
from xenflow.wire import Announce, Close, Confirmed, Define, Move, Progress
from xenflow_app import frame
from xenflow_app.effects import ToSwitch
from xenflow_app.migration import State
from xenflow_app.openflow import fields, nxm
from xenflow_app.openflow.values import PacketIn
from xenflow_app.pipeline import Table
from xenflow_app.walk import Tables, explore

RING = (("a", 1, "b", 1), ("b", 2, "c", 1), ("c", 2, "a", 2))
GATEWAY = bytes([10, 0, 0, 9])
BEYOND = bytes([10, 9, 1, 1])
ADDRESS, VID = mac(101), 30
ARRIVED = (State.RESUMING, State.ANNOUNCING, State.REPOINTING, State.DRAINING)
FIRST_PORT = {"a": 101, "b": 301}
GATEWAY_PORT = 200
SENDER_PORT = {"a": 211, "b": 212, "c": 213}
ENTRANCE = nxm.flow_key(Table.LINK, 100, reg0=VID, dl_dst=ADDRESS)
MOST_HOPS = 8
nodes = sampled_from("ab")


class Watched(World):
    """Calls `watch` after each change of a switch."""

    watch: Callable[[], None] = staticmethod(lambda: None)

    def _to_switch(self, effect: ToSwitch) -> None:
        before = sum(server.switch.flow_mods for server in self.servers.values())
        super()._to_switch(effect)
        if sum(server.switch.flow_mods for server in self.servers.values()) != before:
            self.watch()


@dataclass(slots=True)
class Fate:
    """What became of a packet: (node, port) where it left the network, and the nodes that it met."""

    delivered: list[tuple[str, int]] = field(default_factory=list)
    met: list[str] = field(default_factory=list)


class Moving(RuleBasedStateMachine):
    """r1 goes to and fro between a and b; c is another node of the ring, with a neighbor."""

    @initialize()
    def begin(self) -> None:
        self.net = Watched("abc", RING)
        self.net.network("core", VID)
        client = self.net.router("a", "r1", {"core": "10.0.0.1/24"}, FIRST_PORT["a"])
        client.put(Route(pack_prefix("10.9.0.0/16"), RouteKind.UNICAST, (Hop(1, GATEWAY),)))
        client.put(Neighbor(1, GATEWAY, mac(GATEWAY_PORT)))
        self.net.host("c", "h1", "core", GATEWAY, GATEWAY_PORT)
        for node, port in SENDER_PORT.items():
            self.net.host(node, f"s{node}", "core", sender(node), port)
        self.net.start()
        found = self.net.servers["a"].node.facts.of(Machine.KIND)[b"r1"]
        assert isinstance(found, Machine)
        self.machine, self.client, self.where, self.reported = found, client, "a", True
        self.known = True
        self.late = ""  # the node that the VM has left, which has not noticed
        self.dead: set[str] = set()
        self.unaware = False  # the controller has started while the client was away
        self.mute: set[str] = set()  # switches that have forgotten what an unaware controller cannot tell them
        self.answered: list[tuple[Server, Progress]] = []
        self.net.watch = self.packets_arrive_once
        self.packets_arrive_once()

    # -- orders and their answers ------------------------------------------------------------------------------------

    @rule(goal=nodes)
    def order(self, goal: str) -> None:
        self.net.controller.moves.start("r1", goal)
        self._tick()

    @rule()
    def abort(self) -> None:
        self.net.controller.moves.abort("r1")
        self._tick()

    @rule(steps=integers(1, 4))
    def get_on(self, steps: int) -> None:
        """What a move waits for happens; without a move one is ordered."""
        for _ in range(steps):
            move = self.net.controller.moves.under_way.get("r1")
            state = None if move is None else move.state
            there = self.net.servers[self.where]
            if state is None:
                self.order("b" if self.where == "a" else "a")
            elif state is State.PREPARING:
                self.answer(False)
            elif state is State.MOVING:
                self.carry(True)
            elif state is State.RESUMING and not self.reported and there.peer is not None:
                self.report()
            elif state is State.ANNOUNCING and there.connection is not None:
                self.announce(1)
            else:
                self.wait(1.5)

    @rule(fails=booleans())
    def answer(self, fails: bool) -> None:
        """The oldest order that no server has answered is answered, well or badly."""
        answered = {(server.name, said.number) for server, said in self.answered}
        for server in self.net.servers.values():
            for message in server.told:
                fresh = isinstance(message, Define | Move) and (server.name, message.number) not in answered
                if fresh and server.peer is not None and (isinstance(message, Define) or fails):
                    said = Progress(message.number, True, "no memory" if fails else "")  # type: ignore[union-attr]
                    self.answered.append((server, said))
                    self._say(server, said)
                    return

    @precondition(lambda self: self.answered)
    @rule()
    def answer_again(self) -> None:
        """What was said comes twice, or so late that another order is under way."""
        for server, said in self.answered[-3:]:
            if server.peer is not None:
                self._say(server, said)

    @rule(node=sampled_from("abc"), confirms=booleans())
    def confirm_or_not(self, node: str, confirms: bool) -> None:
        self.net.servers[node].confirms = confirms

    @rule(node=sampled_from("abc"))
    def confirm_what_nobody_asked(self, node: str) -> None:
        peer = self.net.servers[node].peer
        if peer is not None:
            for token in range(1, 50):
                self.net.controller.peer_message(peer, Confirmed(token), self.net.now)
            self.net.settle()

    # -- the VM and its client ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.net.servers["a"].peer is not None or self.net.servers["b"].peer is not None)
    @rule(says_so=booleans(), late=booleans())
    def carry(self, says_so: bool, late: bool = False) -> None:
        """The VM goes to the other node, ordered or not; its client has not reported there.

        A server that is away tells of neither; one that is there may start anew just then, and not know that it moved;
        or it notices late that the VM is gone.
        """
        source, self.where = self.where, "b" if self.where == "a" else "a"
        self.reported = False
        if self.late == self.where:  # it is back before its server has noticed that it was away
            self.late = source
            self.notice(says_so)
            return
        self.late = source
        if not late:
            self.notice(says_so)
        self.net.plug(self.where, self.machine, FIRST_PORT[self.where])

    @rule()
    def notice(self, says_so: bool = True) -> None:
        """The server of the node that the VM has left notices that."""
        source, self.late = self.late, ""
        if not source:
            return
        leaves = self.net.servers[source]
        if leaves.peer is not None and not says_so:
            self.net.disconnect(source)
        elif leaves.peer is not None:
            self.net.controller.peer_message(leaves.peer, Close("r1", moved=True), self.net.now)
        for port in [fact for fact in leaves.node.facts.of(Port.KIND).values() if isinstance(fact, Port)]:
            if port.machine == "r1":
                leaves.node.drop(Port.KIND, port.key)
        leaves.node.drop(Machine.KIND, b"r1")
        leaves.routers.pop("r1", None)
        self.net.settle()
        if leaves.peer is None and not says_so:
            self.net.connect(source)
        self.net.settle()

    @precondition(lambda self: not self.reported and self.net.servers[self.where].peer is not None)
    @rule()
    def report(self) -> None:
        self.client = self.net.report(self.where, self.client)
        self.reported = True

    @rule(number=sampled_from([7, 8]), there=booleans())
    def change_a_route(self, number: int, there: bool) -> None:
        prefix = pack_prefix(f"10.{number}.0.0/16")
        if there:
            self.client.put(Route(prefix, RouteKind.UNICAST, (Hop(1, GATEWAY),)))
        else:
            self.client.drop(Route.KIND, prefix)
        self.net.settle()

    @precondition(lambda self: self.reported and self.has_arrived())
    @rule()
    def lose_sight_of_the_neighbor(self) -> None:
        """The VM reaches nobody from its new node for a while: its kernel gives the neighbor up, and finds it again."""
        self.client.drop(Neighbor.KIND, neighbor_key(1, GATEWAY))
        self.net.settle()
        self.packets_arrive_once()
        self.client.put(Neighbor(1, GATEWAY, mac(GATEWAY_PORT)))
        self.net.settle()

    def has_arrived(self) -> bool:
        """Tell whether a move is under way whose VM has been on its target."""
        move = self.net.controller.moves.under_way.get("r1")
        return move is not None and move.state in ARRIVED

    @precondition(lambda self: self.net.servers[self.where].connection is not None)
    @rule(times=sampled_from([1, 2]))
    def announce(self, times: int) -> None:
        """An announcement comes, once or twice, for the move at hand or for an earlier one."""
        asked = [message for message in self.net.servers[self.where].told if isinstance(message, Announce)]
        for message in asked[-times:]:
            said = build(Announcement(ADDRESS, bytes([10, 0, 0, 1]), message.epoch), message.key)
            port = FIRST_PORT[self.where]
            for _ in range(times):
                self.net.say(self.where, PacketIn(Table.ADMISSION, 0, 1, port, (0,) * 8, said, len(said)))

    # -- what breaks -------------------------------------------------------------------------------------------------

    @rule(node=sampled_from("abc"))
    def lose_or_find_a_server(self, node: str) -> None:
        if self.net.servers[node].peer is None:
            self.net.connect(node)
        else:
            self.net.disconnect(node)

    @rule(node=sampled_from("abc"))
    def lose_or_find_a_switch(self, node: str) -> None:
        if self.net.servers[node].connection is None:
            self.net.connect_switch(node)
        else:
            self.net.disconnect_switch(node)

    @rule(node=sampled_from("abc"))
    def kill_a_switch(self, node: str) -> None:
        """It forgets its flows, and forwards nothing until it is found again."""
        self.dead.add(node)
        if self.net.servers[node].connection is not None:
            self.net.disconnect_switch(node)
        if self.unaware:  # what this one forgets now nobody can tell it again
            self.mute.add(node)
            self.known &= ENTRANCE not in self.net.servers[node].switch.flows
        self.net.servers[node].switch.flows.clear()

    @rule(order=sampled_from(["abc", "bac"]))
    def restart_the_controller(self, order: str = "abc") -> None:
        routed = any(ENTRANCE in server.switch.flows for server in self.net.servers.values())
        self.known &= self.reported or routed  # else nobody can know its tables until it reports again
        if not self.reported:
            self.unaware = True
            self.mute |= self.dead
        self.net.start(order)

    @rule(seconds=floats(0.05, 70))
    def wait(self, seconds: float) -> None:
        self.net.run(seconds)

    def _say(self, server: Server, message: Progress) -> None:
        assert server.peer is not None
        self.net.controller.peer_message(server.peer, message, self.net.now)
        self.net.settle()

    def _tick(self) -> None:
        self.net.controller.tick(self.net.now)
        self.net.settle()

    # -- what must hold ----------------------------------------------------------------------------------------------

    def packets_arrive_once(self) -> None:
        """And who asks for the router is answered once."""
        if self.reported and not self.net.controller.moves.under_way:
            self.known, self.unaware = True, False
            self.mute.clear()
        self.dead -= {node for node in self.dead if self.is_complete(node)}
        tables = {server.name: Tables(server.switch.flows) for server in self.net.servers.values()}
        for start in "abc":
            fate = self.follow(start, tables)
            why = f"from {start}: {fate}, VM on {self.where}, reported {self.reported}, dead {self.dead}"
            if self.dead & set(fate.met):
                continue
            assert len(fate.delivered) <= 1, why
            assert fate.delivered == [("c", GATEWAY_PORT)] or not self.known, why
            mute = start in self.mute or not self.known
            assert answers(start, tables[start]) == [(SENDER_PORT[start], ADDRESS)] or mute, why

    def is_complete(self, node: str) -> bool:
        """Tell whether a switch that had forgotten everything has all of it again."""
        controller, server = self.net.controller, self.net.servers[node]
        known = controller.nodes.get(node)
        if known is None or server.connection is None or not controller.fabric.settled:
            return False
        return server.switch.flows == known.flows.desired

    def follow(self, start: str, tables: dict[str, Tables]) -> Fate:
        """Send a packet from a node by way of the router, as the switches' tables have it now."""
        sent = frame.ip((mac(SENDER_PORT[start]), ADDRESS), (sender(start), BEYOND), 64, 100, protocol=17)
        fate, arrivals = Fate(), [(start, SENDER_PORT[start], sent)]
        while arrivals:
            here, port, packet = arrivals.pop()
            fate.met.append(here)
            assert len(fate.met) <= MOST_HOPS, fate
            (walk,) = explore(tables[here], packet, port)
            for out in walk.outputs:
                far = self.net.cables.get((here, out.port))
                if far is None:
                    fate.delivered.append((here, out.port))
                else:
                    arrivals.append((*far, out.frame))
        return fate

    def teardown(self) -> None:
        if not hasattr(self, "net"):
            return
        for server in self.net.servers.values():
            server.confirms = True
            if server.peer is None:
                self.net.connect(server.name)
            if server.connection is None:
                self.net.connect_switch(server.name)
        self.notice()
        if not self.reported:
            self.report()
        answered = {(server.name, said.number) for server, said in self.answered}
        for _ in range(2):
            self.net.run(15)
            for server in self.net.servers.values():
                for message in server.told:
                    if isinstance(message, Define | Move) and (server.name, message.number) not in answered:
                        answered.add((server.name, message.number))
                        self._say(server, Progress(message.number, True, "no memory"))
        self.net.run(130)
        number = self.net.controller.nodes[self.where].routers["r1"].number
        for server in self.net.servers.values():
            node = self.net.controller.nodes[server.name]
            assert server.switch.flows == node.flows.desired, server.name
            owned = [value for value in server.switch.flows.values() if int.from_bytes(value[4:8], "big") == number]
            assert bool(owned) == (server.name == self.where), server.name
            vifs = [p for p in node.ports if p.kind is PortKind.VIF and p.machine == "r1"]
            assert bool(vifs) == (server.name == self.where)
        assert ENTRANCE in self.net.servers[self.where].switch.flows
        assert not self.net.controller.moves.under_way
        installed = {key for key in self.net.servers[self.where].switch.flows if key[0] == Table.FIB}
        assert len(installed) == 2 + len(self.client.facts.of(Route.KIND))
        self.packets_arrive_once()


def answers(node: str, tables: Tables) -> list[tuple[int, bytes]]:
    """Ask for the router from a node; return where answers leave, and the MAC that they tell."""
    asked = frame.arp_request(mac(SENDER_PORT[node]), (sender(node), bytes([10, 0, 0, 1])))
    (walk,) = explore(tables, asked, SENDER_PORT[node])
    return [(out.port, out.frame.packed(fields.ARP_SHA)) for out in walk.outputs if out.frame.get(fields.ARP_OP) == 2]


def sender(node: str) -> bytes:
    """The address of the sender on a node."""
    return bytes([10, 0, 0, SENDER_PORT[node]])


Moving.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestMoving = Moving.TestCase

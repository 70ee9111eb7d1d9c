"""Any history of orders, moves by hand, lost connections and restarts: packets find the router, and all converges."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, floats, sampled_from

from tests.unit.app.network import Server, World, mac
from xenflow.announcement import Announcement, build
from xenflow.model import Hop, Machine, Neighbor, PortKind, Route, RouteKind, pack_prefix
from xenflow.wire import Announce, Define, Move, Progress
from xenflow_app.openflow import actions, nxm
from xenflow_app.openflow.values import PacketIn
from xenflow_app.pipeline import Table

RING = (("a", 1, "b", 1), ("b", 2, "c", 1), ("c", 2, "a", 2))
GATEWAY = bytes([10, 0, 0, 9])
ADDRESS, VID = mac(101), 30
FIRST_PORT = {"a": 101, "b": 301}
ENTRANCE = nxm.flow_key(Table.LINK, 100, reg0=VID, dl_dst=ADDRESS)
WAY = nxm.flow_key(Table.EGRESS, 100, reg0=VID, dl_dst=ADDRESS)
nodes = sampled_from("ab")


class Moving(RuleBasedStateMachine):
    """r1 goes to and fro between a and b; c is another node of the ring, with a neighbor."""

    @initialize()
    def begin(self) -> None:
        self.net = World("abc", RING)
        self.net.network("core", VID)
        client = self.net.router("a", "r1", {"core": "10.0.0.1/24"}, FIRST_PORT["a"])
        client.put(Route(pack_prefix("10.9.0.0/16"), RouteKind.UNICAST, (Hop(1, GATEWAY),)))
        client.put(Neighbor(1, GATEWAY, mac(200)))
        self.net.host("c", "h1", "core", GATEWAY, 200)
        self.net.start()
        found = self.net.servers["a"].node.facts.of(Machine.KIND)[b"r1"]
        assert isinstance(found, Machine)
        self.machine, self.client, self.where, self.reported = found, client, "a", True
        self.covered = True
        self.answered: set[tuple[type, int]] = set()

    # -- what may happen ---------------------------------------------------------------------------------------------

    @rule(goal=nodes)
    def order(self, goal: str) -> None:
        self.net.controller.moves.start("r1", goal)
        self._tick()

    @rule()
    def abort(self) -> None:
        self.net.controller.moves.abort("r1")
        self._tick()

    @rule(fails=booleans())
    def answer(self, fails: bool) -> None:
        """The oldest order that no server has answered is answered, well or badly."""
        for server in self.net.servers.values():
            for message in server.told:
                late = isinstance(message, Define | Move) and (type(message), message.number) not in self.answered
                if late and server.peer is not None and (isinstance(message, Define) or fails):
                    self.answered.add((type(message), message.number))
                    self._say(server, Progress(message.number, True, "no memory" if fails else ""))
                    return

    @precondition(lambda self: all(self.net.servers[n].peer is not None for n in "ab"))
    @rule()
    def carry(self) -> None:
        """The VM goes to the other node, ordered or not; its client has not reported there."""
        source, target = self.where, "b" if self.where == "a" else "a"
        self.net.unplug_silently(source, "r1")
        self.net.servers[source].routers.pop("r1", None)
        self.net.plug(target, self.machine, FIRST_PORT[target])
        self.where, self.reported = target, False

    @precondition(lambda self: not self.reported and self.net.servers[self.where].peer is not None)
    @rule()
    def report(self) -> None:
        self.client = self.net.report(self.where, self.client)
        self.reported = self.covered = True

    @rule(number=sampled_from([7, 8]), there=booleans())
    def change_a_route(self, number: int, there: bool) -> None:
        prefix = pack_prefix(f"10.{number}.0.0/16")
        if there:
            self.client.put(Route(prefix, RouteKind.UNICAST, (Hop(1, GATEWAY),)))
        else:
            self.client.drop(Route.KIND, prefix)
        self.net.settle()

    @precondition(lambda self: self.net.servers[self.where].connection is not None)
    @rule()
    def announce(self) -> None:
        for message in self.net.servers[self.where].told[-1:]:
            if isinstance(message, Announce):
                frame = build(Announcement(ADDRESS, bytes([10, 0, 0, 1]), message.epoch), message.key)
                port = FIRST_PORT[self.where]
                self.net.say(self.where, PacketIn(Table.ADMISSION, 0, 1, port, (0,) * 8, frame, len(frame)))

    @rule(node=sampled_from("abc"))
    def lose_or_find_a_server(self, node: str) -> None:
        if self.net.servers[node].peer is None:
            self.net.connect(node)
        else:
            self.net.disconnect(node)

    @rule(node=sampled_from("abc"))
    def lose_or_find_a_switch(self, node: str) -> None:
        self.covered = False  # what a switch out of reach does cannot be changed in time
        if self.net.servers[node].connection is None:
            self.net.connect_switch(node)
        else:
            self.net.disconnect_switch(node)

    @rule()
    def restart_the_controller(self) -> None:
        self.covered &= self.reported  # else nobody can know its tables until it reports again
        self.net.start()

    @rule(seconds=floats(0.05, 5))
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

    @invariant()
    def packets_to_the_router_find_a_node_that_routes_or_its_vm(self) -> None:
        for start in "abc" if self.covered else "":
            assert self.finds(start), f"from {start}, VM on {self.where}"

    def finds(self, start: str) -> bool:
        here = start
        for _ in range(4):
            flows = self.net.servers[here].switch.flows
            if ENTRANCE in flows:
                return True
            acts = flows[WAY][12:] if WAY in flows else b""
            if acts.startswith(actions.strip_vlan()):
                return here == self.where
            if len(acts) != 8:
                return False
            here = self.net.cables[here, int.from_bytes(acts[4:6], "big")][0]
        return False

    def teardown(self) -> None:
        if not hasattr(self, "net"):
            return
        for server in self.net.servers.values():
            if server.peer is None:
                self.net.connect(server.name)
            if server.connection is None:
                self.net.connect_switch(server.name)
        if not self.reported:
            self.report()
        for _ in range(2):
            self.net.run(15)
            for server in self.net.servers.values():
                for message in server.told:
                    if isinstance(message, Define | Move) and (type(message), message.number) not in self.answered:
                        self.answered.add((type(message), message.number))
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


Moving.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestMoving = Moving.TestCase

"""A network in memory that is looked at after each single flow-mod: does everything arrive once, and nothing twice?"""

from __future__ import annotations

import random
import struct
from collections import Counter, deque

from tests.unit.app.network import World, mac
from xenflow.answers import DrainStatus
from xenflow.model import Port
from xenflow.wire import Confirm, Confirmed, Drain, Message
from xenflow_app import frame
from xenflow_app.effects import ToPeer, ToSwitch
from xenflow_app.openflow import fields
from xenflow_app.openflow.values import PortReason, PortStatus, SwitchPort
from xenflow_app.queries.drains import drain, drains, undrain
from xenflow_app.walk import Tables, explore

VID = 10
Cable = tuple[str, int, str, int]
RING: tuple[Cable, ...] = (("a", 1, "b", 1), ("b", 2, "c", 1), ("c", 2, "a", 2))
PARALLEL: tuple[Cable, ...] = (("a", 1, "b", 1), ("a", 2, "b", 2))
LADDER: tuple[Cable, ...] = (*RING, ("c", 3, "d", 1), ("d", 2, "b", 3))
CHAIN: tuple[Cable, ...] = (("a", 1, "b", 1), ("b", 2, "c", 1))


def address(node: str) -> bytes:
    return bytes([10, 0, 0, ord(node)])


class Drained(World):
    """A host h-NODE on each node, at port 100 + its place. `lost` and `doubled` collect what must not happen.

    Switches and servers are served in an order that the seed chooses, one message at a time; each connection keeps
    its own order. What floods may be lost while trees change, but never come twice. With `bridges` each cable leads
    through an ordinary bridge that learns MAC addresses.
    """

    def __init__(self, names: str, cables: tuple[Cable, ...], seed: int = 0, *, bridges: bool = False) -> None:
        super().__init__(names, cables)
        self.chosen = random.Random(seed)
        self.lost: list[str] = []
        self.doubled: list[str] = []
        self.watching = False
        self.bridges: dict[frozenset[tuple[str, int]], dict[bytes, str]] = {}
        self.streams: set[tuple[str, str]] | None = None
        self.half_way = False
        self.orders: list[Drain] = []
        self.unplugged: set[tuple[str, int]] = set()
        self.tables: dict[str, Tables] = {}
        if bridges:
            self.bridges = {frozenset(ends): {} for ends in self.cables.items()}
        self._waiting: dict[tuple[str, int], deque[ToSwitch | ToPeer]] = {}
        self.network("left", VID)
        for place, name in enumerate(names):
            self.host(name, f"h-{name}", "left", address(name), 100 + place)
        self.start()

    def port_of(self, node: str) -> int:
        return 100 + list(self.servers).index(node)

    # -- orders -------------------------------------------------------------------------------------------------------

    def drain(self, trunk: str) -> DrainStatus:
        return self._after(drain(self.controller, {"trunk": trunk}))

    def undrain(self, trunk: str) -> DrainStatus:
        return self._after(undrain(self.controller, {"trunk": trunk}))

    def _after(self, status: DrainStatus) -> DrainStatus:
        self.settle()
        return status

    def status(self, trunk: str) -> DrainStatus:
        (found,) = drains(self.controller, {"trunk": trunk})
        return found

    def is_marked(self, trunk: str) -> bool:
        node, _, port = trunk.partition(":")
        fact = self.servers[node].node.facts.of(Port.KIND)[port.encode()]
        return isinstance(fact, Port) and fact.drained

    def unplug_cable(self, node: str, port: int) -> None:
        """Both ends lose their carrier."""
        self._carrier(node, port, up=False)

    def plug_cable(self, node: str, port: int) -> None:
        self._carrier(node, port, up=True)

    def _carrier(self, node: str, port: int, *, up: bool) -> None:
        if up:
            self.unplugged -= {(node, port), self.cables[node, port]}
        else:
            self.unplugged |= {(node, port), self.cables[node, port]}
        for where, number in ((node, port), self.cables[node, port]):
            self.say(where, PortStatus(PortReason.MODIFY, SwitchPort(number, f"t{number}", mac(number), up)))

    def watch(self) -> None:
        """From now on everything must arrive."""
        self.watching = True
        self.look()

    def stop_watching(self) -> None:
        self.watching = False
        assert (self.lost, self.doubled) == ([], [])

    def _carry(self, name: str, port: int, frame: bytes) -> None:
        if (name, port) not in self.unplugged and self._passes((name, port), frame[6:12], frame[:6]):
            super()._carry(name, port, frame)

    def _passes(self, end: tuple[str, int], source: bytes, destination: bytes) -> bool:
        """Tell whether the bridge in a cable, which learns, lets a frame from that end pass."""
        known = self.bridges.get(frozenset((end, self.cables[end])), {})
        known[source] = end[0]
        return known.get(destination) != end[0]

    def restart(self) -> None:
        """The controller is killed; what was under way to switches and servers is lost."""
        self._waiting.clear()
        self.half_way = False
        for server in self.servers.values():
            server.peer = server.connection = None
        self.start()

    # -- one message at a time ----------------------------------------------------------------------------------------

    def settle(self) -> None:
        while True:
            for effect in self.controller.effects():
                if isinstance(effect, ToSwitch):
                    queue = self._waiting.setdefault(("switch", effect.switch), deque())
                    queue.extend(ToSwitch(effect.switch, data) for data in messages(effect.data))
                elif isinstance(effect, ToPeer):
                    self._waiting.setdefault(("peer", effect.peer), deque()).append(effect)
            if self.half_way and self.chosen.random() < 0.1:
                return  # the rest is never delivered
            queues = [name for name, queue in self._waiting.items() if queue]
            if queues:
                self._deliver(self._waiting[self.chosen.choice(queues)].popleft())
            elif not self._servers_speak():
                return

    def _deliver(self, effect: ToSwitch | ToPeer) -> None:
        if isinstance(effect, ToPeer):
            self._to_peer(effect.peer, effect.message)
            return
        mods = sum(server.switch.flow_mods for server in self.servers.values())
        self._to_switch(effect)
        if self.watching and mods != sum(server.switch.flow_mods for server in self.servers.values()):
            self.look()

    def _servers_speak(self) -> bool:
        spoken = False
        for server in self.servers.values():
            for outbox in (server.node, *server.routers.values()):
                for message in outbox.take() if server.peer is not None else ():
                    spoken = True
                    self.controller.peer_message(server.peer, message, self.now)
        return spoken

    def _to_peer(self, peer: int, message: Message) -> None:
        """Confirmations take their time: others may be served before."""
        server = next((item for item in self.servers.values() if item.peer == peer), None)
        if isinstance(message, Confirm) and server is not None and server.confirms and self.chosen.random() < 0.5:
            self._waiting.setdefault(("peer", peer), deque()).append(ToPeer(peer, message))
            return
        if isinstance(message, Confirm) and server is not None and server.confirms:
            self.controller.peer_message(peer, Confirmed(message.token), self.now)
        else:
            self.orders += [message] if isinstance(message, Drain) else []
            super()._to_peer(peer, message)

    # -- packets ------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Send a frame from each host to each other one, and one to all; or only the `streams`, if there are any."""
        self.tables = {name: Tables(server.switch.flows) for name, server in self.servers.items()}
        for source in self.servers:
            for target in self.servers:
                if source != target and (self.streams is None or (source, target) in self.streams):
                    got = self.send(source, target)
                    if got != Counter({target: 1}):
                        (self.lost if got.total() == 0 else self.doubled).append(f"{source} to {target}: {dict(got)}")
            everybody = self.send(source, None) if self.streams is None else Counter[str]()
            if any(count > 1 for count in everybody.values()) or everybody[source]:
                self.doubled.append(f"{source} to all: {dict(everybody)}")

    def send(self, source: str, target: str | None, *, uses: set[tuple[str, int]] | None = None) -> Counter[str]:
        """Return how often each host gets a frame; `uses` collects the ends of trunks that it was sent out of."""
        to = frame.BROADCAST if target is None else mac(self.port_of(target))
        ip = address("\xff" if target is None else target)
        sent = frame.ip((mac(self.port_of(source)), to), (address(source), ip), 64, 84)
        waiting, got = deque([(source, sent, self.port_of(source))]), Counter[str]()
        for _ in range(200):
            if not waiting:
                return got
            node, here, port = waiting.popleft()
            (walk,) = explore(self.tables[node], here, port)
            for out in walk.outputs:
                far = self.cables.get((node, out.port))
                if (node, out.port) in self.unplugged:
                    continue
                macs = out.frame.packed(fields.ETH_SRC), out.frame.packed(fields.ETH_DST)
                if far is not None and self._passes((node, out.port), *macs):
                    if uses is not None:
                        uses.add((node, out.port))
                    waiting.append((far[0], out.frame, far[1]))
                elif far is None and out.port == self.port_of(node):
                    got[node] += 1
        raise AssertionError(f"a loop: {source} to {target}")

    def used(self) -> set[tuple[str, int]]:
        """Return the ends of trunks out of which anything is sent."""
        uses: set[tuple[str, int]] = set()
        self.tables = {name: Tables(server.switch.flows) for name, server in self.servers.items()}
        for source in self.servers:
            for target in (None, *(name for name in self.servers if name != source)):
                self.send(source, target, uses=uses)
        return uses


def messages(data: bytes) -> list[bytes]:
    """Return the OpenFlow messages in a piece of a stream, one by one."""
    found = []
    while data:
        (length,) = struct.unpack_from(">H", data, 2)
        found.append(data[:length])
        data = data[length:]
    return found

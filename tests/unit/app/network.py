"""A network in memory for tests of the controller: fake switches, scripted servers, a clock that the test moves."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.fakes.switch import FakeSwitch
from xenflow.bandwidth import PortQueues
from xenflow.identity import Identity
from xenflow.model import (
    Address,
    Attachment,
    Bridge,
    Fact,
    Interface,
    Link,
    Machine,
    MachineKind,
    Network,
    Port,
    PortKind,
    pack_prefix,
)
from xenflow.qosanswers import Explanation, LinkQueues, QosStatus, QueueStatus
from xenflow.replica import Inbox, Outbox
from xenflow.tls import TlsFiles
from xenflow.wire import (
    NODE_SCOPE,
    QUEUES_SCOPE,
    VERSION,
    Ack,
    Answer,
    Begin,
    Close,
    Confirm,
    Confirmed,
    Drain,
    End,
    Hello,
    Message,
    Progress,
    Query,
    Role,
    Update,
)
from xenflow_app.controller import Controller
from xenflow_app.effects import ToPeer, ToSwitch
from xenflow_app.openflow.values import Features, PacketIn, SwitchMessage, SwitchPort
from xenflow_app.pipeline import PROBE_MAC, Table
from xenflow_app.settings import AppSettings, Mode

FILES = TlsFiles(Path("ca"), Path("certificate"), Path("key"))


def mac(number: int) -> bytes:
    return b"\x02" + number.to_bytes(5, "big")


class Server:
    """A node: its server's scopes, and its switch."""

    def __init__(self, name: str, dpid: int) -> None:
        self.name = name
        self.dpid = dpid
        self.switch = FakeSwitch()
        self.node = Outbox(NODE_SCOPE)
        self.routers: dict[str, Outbox] = {}
        self.node.put(Bridge("br", dpid, "netdev"))
        self.peer: int | None = None
        self.connection: int | None = None
        self.acks: list[Ack] = []
        self.told: list[Message] = []
        self.confirms = True
        self.queues = Inbox(QUEUES_SCOPE)
        self.shapes = True
        self.marks = True

    def router(self, name: str) -> Outbox:
        return self.routers.setdefault(name, Outbox(name))


class World:
    """Nodes, the cables between their trunks, and one controller; messages are delivered at once and in order."""

    def __init__(self, names: str = "a", cables: tuple[tuple[str, int, str, int], ...] = (), reactive: bool = False):
        self.settings = AppSettings(
            FILES, tuple(names), mode=Mode.REACTIVE if reactive else Mode.PROACTIVE, probe_interval_s=1.0
        )
        self.servers = {name: Server(name, number) for number, name in enumerate(names, 1)}
        self.cables: dict[tuple[str, int], tuple[str, int]] = {}
        for a, port_a, b, port_b in cables:
            self.cables[a, port_a] = (b, port_b)
            self.cables[b, port_b] = (a, port_a)
            self.servers[a].node.put(Port(f"t{port_a}", port_a, PortKind.TRUNK))
            self.servers[b].node.put(Port(f"t{port_b}", port_b, PortKind.TRUNK))
        self.now = 1000.0
        self.number = 0
        self.controller = Controller(self.settings)

    # -- what happens -------------------------------------------------------------------------------------------------

    def start(self, order: str = "") -> None:
        """A controller starts, and everybody connects, in that order of nodes."""
        self.controller = Controller(self.settings)
        for name in order or self.servers:
            self.connect(name)
            self.connect_switch(name)
        self.run(3.0)

    def connect(self, name: str) -> None:
        server = self.servers[name]
        self.number += 1
        server.peer = self.number
        server.queues.suspend()
        self.controller.peer_opened(server.peer, Identity(Role.NODE, name), Hello(VERSION, Role.NODE, name), self.now)
        for outbox in (server.node, *server.routers.values()):
            outbox.restart()
        self.settle()

    def disconnect(self, name: str) -> None:
        server = self.servers[name]
        assert server.peer is not None
        self.controller.peer_closed(server.peer, self.now)
        server.peer = None
        self.settle()

    def connect_switch(self, name: str) -> None:
        server = self.servers[name]
        self.number += 1
        server.connection = self.number
        ports = tuple(SwitchPort(port, f"t{port}", mac(port), True) for node, port in self.cables if node == name)
        self.controller.switch_opened(self.number, Features(server.dpid, ports), name, self.now)
        self.settle()

    def disconnect_switch(self, name: str) -> None:
        server = self.servers[name]
        assert server.connection is not None
        self.controller.switch_closed(server.connection, self.now)
        server.connection = None
        self.settle()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.05
            self.controller.tick(self.now)
            self.settle()

    def settle(self) -> None:
        """Deliver everything until nobody has anything to say."""
        quiet = False
        while not quiet:
            quiet = True
            for effect in self.controller.effects():
                quiet = False
                if isinstance(effect, ToSwitch):
                    self._to_switch(effect)
                elif isinstance(effect, ToPeer):
                    self._to_peer(effect.peer, effect.message)
            for server in self.servers.values():
                for outbox in (server.node, *server.routers.values()):
                    for message in outbox.take() if server.peer is not None else ():
                        quiet = False
                        self.controller.peer_message(server.peer, message, self.now)

    def say(self, name: str, message: SwitchMessage) -> None:
        """A switch says something."""
        connection = self.servers[name].connection
        assert connection is not None
        self.controller.switch_message(connection, message, self.now)
        self.settle()

    def _to_switch(self, effect: ToSwitch) -> None:
        server = next((item for item in self.servers.values() if item.connection == effect.switch), None)
        if server is None:
            return
        for answer in server.switch.receive(effect.data):
            self.controller.switch_message(effect.switch, answer, self.now)
        for _port, acts, frame in server.switch.packets:
            if frame[:6] == PROBE_MAC:
                self._carry(server.name, int.from_bytes(acts[4:6], "big"), frame)
        server.switch.packets = [item for item in server.switch.packets if item[2][:6] != PROBE_MAC]

    def _carry(self, name: str, port: int, frame: bytes) -> None:
        far = self.cables.get((name, port))
        if far is not None and (connection := self.servers[far[0]].connection) is not None:
            packet = PacketIn(Table.ADMISSION, 0, 1, far[1], (0,) * 8, frame, len(frame))
            self.controller.switch_message(connection, packet, self.now)

    def _to_peer(self, peer: int, message: Message) -> None:
        server = next((item for item in self.servers.values() if item.peer == peer), None)
        if server is None:
            return
        if isinstance(message, Begin | Update | End):
            seq = server.queues.receive(message).seq
            if server.shapes and not isinstance(message, Begin):
                self.controller.peer_message(peer, Ack(QUEUES_SCOPE, seq), self.now)
        elif isinstance(message, Query):
            if server.shapes:
                self.controller.peer_message(peer, measured(server, message), self.now)
        elif isinstance(message, Ack):
            server.acks.append(message)
        elif isinstance(message, Drain):
            if server.marks:
                self.controller.peer_message(peer, Progress(message.number, True, "", 100), self.now)
                self.mark(server.name, message.port, drained=message.drained)
        elif not isinstance(message, Confirm):
            server.told.append(message)
        elif server.confirms:
            self.controller.peer_message(peer, Confirmed(message.token), self.now)

    def mark(self, node: str, port: str, *, drained: bool) -> None:
        """The mark of a drained trunk is written at a port, or taken off."""
        fact = self.servers[node].node.facts.of(Port.KIND)[port.encode()]
        assert isinstance(fact, Port)
        self.servers[node].node.put(msgspec.structs.replace(fact, drained=drained))

    # -- facts --------------------------------------------------------------------------------------------------------

    def network(self, name: str, vid: int) -> None:
        for server in self.servers.values():
            server.node.put(Network(name, vid))

    def router(
        self, node: str, name: str, networks: dict[str, str], first_port: int = 101, max_flows: int = 0
    ) -> Outbox:
        """A router with an interface and an address (such as 10.0.0.1/24) in each of the networks."""
        server = self.servers[node]
        interfaces, facts = [], []
        for number, (network, address) in enumerate(networks.items(), 1):
            interfaces.append(Interface(number, network, mac(first_port + number - 1)))
            facts += interface_facts(number, address)
            server.node.put(Port(f"{name}-{number}", first_port + number - 1, PortKind.VIF, name, number))
        server.node.put(Machine(name, MachineKind.ROUTER, tuple(interfaces), max_flows))
        outbox = server.router(name)
        for fact in facts:
            outbox.put(fact)
        if server.peer is not None:
            outbox.restart()
        return outbox

    def unplug(self, node: str, name: str, *, moved: bool) -> Outbox:
        """The router's VM leaves the node: its vifs and machine go, and the server says whether it was moved.

        Of one that was moved the server says so first, and then that its vifs have gone; of a destroyed one afterwards.
        """
        outbox = self.servers[node].routers.pop(name)
        self._leave(node, name, moved=moved)
        return outbox

    def unplug_silently(self, node: str, name: str) -> None:
        """The router's VM leaves the node before its client has reported there."""
        self._leave(node, name, moved=True)

    def _leave(self, node: str, name: str, *, moved: bool) -> None:
        server = self.servers[node]
        assert server.peer is not None
        if moved:
            self.controller.peer_message(server.peer, Close(name, moved), self.now)
        for port in [fact for fact in server.node.facts.of(Port.KIND).values() if isinstance(fact, Port)]:
            if port.machine == name:
                server.node.drop(Port.KIND, port.key)
        server.node.drop(Machine.KIND, name.encode())
        self.settle()
        if not moved:
            self.controller.peer_message(server.peer, Close(name, moved), self.now)
            self.settle()

    def plug(self, node: str, machine: Machine, first_port: int) -> None:
        """The router's VM is on the node: its vifs are there; its client has not reported yet."""
        server = self.servers[node]
        for interface in machine.interfaces:
            number = first_port + interface.number - 1
            name = f"{machine.name}-{interface.number}"
            server.node.put(Port(name, number, PortKind.VIF, machine.name, interface.number))
        server.node.put(machine)
        self.settle()

    def report(self, node: str, old: Outbox) -> Outbox:
        """The router's client reports to the node's server all that it knows."""
        outbox = self.servers[node].routers[old.scope] = Outbox(old.scope)
        for fact in old.facts.values():
            outbox.put(fact)
        outbox.restart()
        self.settle()
        return outbox

    def host(self, node: str, name: str, network: str, address: bytes, port: int) -> None:
        interface = Interface(1, network, mac(port), (address,))
        self.servers[node].node.put(Machine(name, MachineKind.HOST, (interface,)))
        self.servers[node].node.put(Port(name, port, PortKind.VIF, name, 1))

    def access(self, node: str, port: int, vlans: dict[int, str]) -> None:
        attachments = tuple(Attachment(vlan, network) for vlan, network in vlans.items())
        self.servers[node].node.put(Port(f"x{port}", port, PortKind.ACCESS, attachments=attachments))


def measured(server: Server, query: Query) -> Answer:
    """What a qos-controller with idle links answers."""
    facts = [fact for fact in server.queues.facts.of(PortQueues.KIND).values() if isinstance(fact, PortQueues)]
    if query.what == "qos explain":
        port = query.arguments["port"]
        return Answer(
            query.number, msgspec.json.encode(Explanation(port, 0.5, [f"{port}: nothing to write"], msgspec.Raw(b"{}")))
        )
    status = QosStatus("work-conserving", 1.0, 3, "netdev", True, [_idle(fact) for fact in facts])
    return Answer(query.number, msgspec.json.encode(status))


def _idle(fact: PortQueues) -> LinkQueues:
    queues = [
        QueueStatus(
            item.id, item.owner, item.name, item.control, item.hired, item.ceiling, item.hired, fact.capacity,
            0.0, 0.0, 1.0, False, 0, 0
        )
        for item in fact.queues
    ]  # fmt: skip
    hired = sum(item.hired for item in fact.queues if not item.control)
    return LinkQueues(fact.port, fact.capacity, "shaped", "", "work-conserving", hired, 0.0, 1.0, queues)


def interface_facts(number: int, address: str) -> list[Fact]:
    """Link and address of an interface."""
    text, length = address.split("/")
    packed = pack_prefix(text + ("/128" if ":" in text else "/32"))[:-1] + bytes([int(length)])
    return [Link(number, f"eth{number}", mac(1000 + number), 1500, True), Address(number, packed)]

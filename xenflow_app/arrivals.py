"""What switches report on their own: packets for the controller, and flows that have aged (sans-IO).

Place in the flow: packet-in -> *probe heard, MAC learned, first packet decided* -> Discovery, Fabric, ExactFlows.

A packet-in is caused by whoever sends the packet, so each kind is cheap to refuse and bounded: probes carry a keyed
digest, learning is limited in the switch (pipeline.LEARN_LIMIT) and per port here, exact flows per router; answers to
solicitations (on the kernel's datapath) need no state, and what comes faster than it is answered is dropped by ports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xenflow.model import ANNOUNCEMENT_MAC
from xenflow_app import pipeline, routing
from xenflow_app.answering import SENT, Answering
from xenflow_app.discovery import Discovery
from xenflow_app.fabric import Fabric
from xenflow_app.flowtable import is_ours, kind_of, owner_of
from xenflow_app.node import Node
from xenflow_app.openflow import actions, encode, fields
from xenflow_app.openflow.decode import entries
from xenflow_app.openflow.values import FlowRemoved, PacketIn
from xenflow_app.packets import advertisement, datagram, solicited
from xenflow_app.pipeline import Kind, Table
from xenflow_app.settings import AppLimits
from xenflow_app.topology import End


class Arrivals:
    """See the module. `send` takes bytes for a node's switch."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        fabric: Fabric,
        discovery: Discovery,
        answering: Answering,
        limits: AppLimits,
        send: Callable[[Node, bytes], None],
    ) -> None:
        self._nodes = nodes
        self._fabric = fabric
        self._discovery = discovery
        self._answering = answering
        self._limits = limits
        self._send = send

    def packet_in(self, node: Node, packet: PacketIn, now: float) -> bool:
        """Take a packet that the node's switch sent to the controller.

        Return whether more may follow from it than an exact flow: a flood of first packets is nothing to plan anew for.
        """
        if packet.table == Table.ADMISSION:
            if self._discovery.hear(End(node.name, packet.in_port), packet.data, self._node_of, now):
                self._fabric.set_graph(self._discovery.links())
        elif packet.table == Table.LEARN_LIMIT:
            self._learn(node, packet.in_port, packet.regs[0], packet.data[6:12])
        elif packet.table == Table.EXACT:
            self._first_packet(node, packet)
            return False
        elif packet.table == Table.ANSWER:
            self._asked(node, packet)
            return False
        return True

    def flow_removed(self, node: Node, message: FlowRemoved) -> bool:
        """The node's switch has removed a flow by itself, or confirms that it did as asked.

        Return whether more may follow from it than that an exact flow is gone.
        """
        value = actions.value(message.cookie, b"")
        if not is_ours(value):
            return False
        if kind_of(value) == Kind.LEARNED:
            node.unlearn(*_learned_key(message.key), self._fabric)
        elif kind_of(value) == Kind.EXACT:
            for router in node.routers.values():
                if router.number == owner_of(value) and router.exact is not None:
                    router.exact.aged(message.key)
        exact = kind_of(value) == Kind.EXACT
        if not (exact and node.datapath.is_unconfirmed(message.key)):  # else it was sent again since: to delete
            node.flows.gone(message.key)
        if not exact:
            return True
        node.datapath.flush()
        return False

    def adopt_learned(self, node: Node) -> None:
        """After a restart: what the switch still knows of machines behind access ports holds."""
        for key, value in list(node.flows.actual.items()):
            if kind_of(value) == Kind.LEARNED:
                self._learn(node, *_learned_key(key))

    def _node_of(self, dpid: int) -> str | None:
        return next((node.name for node in self._nodes.values() if node.dpid == dpid), None)

    def _learn(self, node: Node, port: int, vid: int, mac: bytes) -> None:
        if mac == ANNOUNCEMENT_MAC:
            return  # admission drops it; nobody is to have it whatever a switch says
        before = self._fabric.ways.location(vid, mac)
        learned = node.learn(
            port,
            vid,
            mac,
            self._fabric,
            most=self._limits.max_macs_per_port,
            idle_timeout_s=self._limits.mac_age_s,
        )
        if learned and before is not None and (before.node, before.member.port) != (node.name, port):
            self._nodes[before.node].forget_learned(before.member.port, vid, mac)

    def _first_packet(self, node: Node, packet: PacketIn) -> None:
        """Reactive: decide for a packet that no exact flow matched, and send it on its way; nothing is lost."""
        seen = datagram(packet.data)
        router = next((item for item in node.routers.values() if item.number == packet.regs[2]), None)
        onward = pipeline.goto(Table.MACHINE)
        if router is not None and router.exact is not None and router.planned and seen is not None:
            key = router.exact.first(
                routing.Packet(
                    packet.in_port, packet.regs[0], seen.dl_src, seen.dl_dst, seen.source, seen.destination, seen.tos
                )
            )
            if key is not None:
                onward = node.flows.desired[key][actions.VALUE_HEAD.size :]
        node.datapath.flush()
        acts = routing.resume(packet.regs, packet.in_port) + onward
        self._send(node, encode.packet_out(acts, packet.data, packet.in_port or actions.NONE))

    def _asked(self, node: Node, packet: PacketIn) -> None:
        """Somebody asks for a router's MAC at a switch that cannot answer by itself."""
        address = solicited(packet.data)
        mac = None if address is None else self._answering.mac_of(packet.regs[0], address)
        if mac is not None and packet.in_port:
            acts = routing.resume(packet.regs, packet.in_port) + SENT
            self._send(node, encode.packet_out(acts, advertisement(packet.data, mac), packet.in_port))


def _learned_key(key: bytes) -> tuple[int, int, bytes]:
    """Return port, VLAN id and MAC in the key of a learned flow."""
    matched = dict(entries(key[3:]))
    port, vid = (int.from_bytes(matched[header], "big") for header in (fields.IN_PORT, fields.REG0))
    return port, vid, matched[fields.ETH_SRC]

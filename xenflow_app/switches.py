"""Which switch belongs to which node, and which trunks it has (sans-IO; time is an argument in seconds).

Place in the flow: switches that come and go, bridges, ports -> *Switches* -> Node, Fabric, Discovery (ends of trunks).

A switch belongs to the node that its certificate names. On loopback it has none: then its datapath id must be that of a
node's bridge, which the node's server says, maybe later than the switch connects. Of two for one node the newer counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from xenflow.errors import RemoteProtocolError
from xenflow.model import PortKind
from xenflow_app.discovery import Discovery
from xenflow_app.effects import CloseSwitch, Effect
from xenflow_app.fabric import Fabric
from xenflow_app.node import Node
from xenflow_app.openflow.values import Features
from xenflow_app.topology import End

log = logging.getLogger("xenflow_app.controller")
"""That of the controller: who reads it need not know who does this here."""


class Switches:
    """See the module. `emit` takes effects."""

    def __init__(
        self, nodes: Mapping[str, Node], fabric: Fabric, discovery: Discovery, emit: Callable[[Effect], None]
    ) -> None:
        self._nodes = nodes
        self._fabric = fabric
        self._discovery = discovery
        self._emit = emit
        self._owners: dict[int, Node] = {}
        self._strays: dict[int, Features] = {}

    def node(self, switch: int) -> Node | None:
        """Return the node of a switch; None if it has none, or another switch by now."""
        node = self._owners.get(switch)
        return None if node is None or node.switch != switch else node

    def opened(self, switch: int, features: Features, owner: Node | None, now: float) -> None:
        """A switch has connected; `owner` is its node, None on loopback. Raises RemoteProtocolError to refuse it."""
        if owner is None:
            bridges = ((item, item.bridge) for item in self._nodes.values())
            owner = next((item for item, bridge in bridges if bridge and bridge.dpid == features.dpid), None)
        if owner is None:
            self._strays[switch] = features
        else:
            self._bind(owner, switch, features, now)

    def closed(self, switch: int) -> None:
        """The connection is gone; the switch goes on with what it has."""
        self._strays.pop(switch, None)
        node = self.node(switch)
        self._owners.pop(switch, None)
        if node is not None:
            self._unbind(node)

    def know_bridge(self, node: Node, now: float) -> None:
        """The node's server has said which bridge it has: its switch must be that one, and may be here already."""
        bridge = node.bridge
        if bridge is None:
            return
        if node.switch is not None and node.dpid != bridge.dpid:
            self._emit(CloseSwitch(node.switch, f"its datapath id is not that of node {node.name}"))
            self._unbind(node)
        for switch, features in list(self._strays.items()):
            if features.dpid == bridge.dpid:
                del self._strays[switch]
                self._bind(node, switch, features, now)

    def watch_trunks(self, node: Node, now: float) -> None:
        """Probe the trunks that are up, and take down links whose end is not."""
        up = {End(node.name, port.number) for port in node.ports if port.kind is PortKind.TRUNK and node.is_up(port)}
        for end in self._discovery.ends(node.name) - up:
            self._discovery.close(end)
        for end in up:
            self._discovery.open(end, now)
        self._fabric.set_graph(self._discovery.links())

    def _bind(self, node: Node, switch: int, features: Features, now: float) -> None:
        bridge = node.bridge
        if bridge is not None and bridge.dpid != features.dpid:
            text = f"datapath {features.dpid:016x} is not the bridge {bridge.dpid:016x} of node {node.name}"
            raise RemoteProtocolError(text)
        if node.switch is not None:
            self._emit(CloseSwitch(node.switch, "another connection of the same bridge took over"))
            self._unbind(node)
        self._owners[switch] = node
        node.switch, node.dpid = switch, features.dpid
        node.port_up = {port.number: port.up for port in features.ports}
        self._fabric.node_back(node.name)
        self._discovery.node_back(node.name, now)
        node.datapath.start()
        self.watch_trunks(node, now)
        log.info("switch connected node=%s dpid=%016x", node.name, features.dpid)

    def _unbind(self, node: Node) -> None:
        node.switch = None
        node.datapath.lost()
        self._discovery.node_away(node.name)
        self._fabric.node_away(node.name)
        log.info("switch away node=%s", node.name)

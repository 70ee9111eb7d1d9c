"""Routers that the switches forward for at another node than where the VM is: what a controller starts with (sans-IO).

Place in the flow: who routes for which address (takeover.py) -> *where a router comes from* -> Facts, Fabric, Moves.

A controller that starts in the midst of a move finds the VM at the target and the switches still sending to the source,
or it finds the VM nowhere. What it finds is left as it is: the router comes from where it is forwarded for, by a move
like one that somebody has made by hand, and the others turn when the target can do the same. A VM that is nowhere is
waited for as if it had left just now if some node has its definition to expect it, and for a moment otherwise.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from xenflow_app import pipeline, switching, takeover
from xenflow_app.answering import answers_of
from xenflow_app.fabric import Fabric
from xenflow_app.flowtable import Owner
from xenflow_app.handing import handed
from xenflow_app.ids import Ids
from xenflow_app.node import Node
from xenflow_app.switching import Location, Member
from xenflow_app.takeover import Routed

log = logging.getLogger(__name__)

UNEXPECTED_S = 10.0
"""How long a router whose VM is nowhere after a start is forwarded for, if no node expects it."""


class Inherited:
    """See the module. It holds the routers that the switches forward for and that have not appeared on any node."""

    def __init__(self, nodes: Mapping[str, Node], fabric: Fabric, ids: Ids, hold_s: float) -> None:
        """`ids` are the numbers of routers by their names; `hold_s` is how long one that is expected is waited for."""
        self._hold_s = hold_s
        self._nodes = nodes
        self._fabric = fabric
        self._ids = ids
        self._routers: dict[Owner, list[Routed]] = {}
        self._began = 0.0

    def begin(self, now: float) -> None:
        """What switches and links there are is known."""
        tables = {name: node.flows for name, node in self._nodes.items()}
        self._routers = takeover.routed(tables, self._fabric.links)
        self._began = now

    def source(self, owner: Owner, home: str) -> Node | None:
        """The router's VM is at `home`: return the node that others send to instead, which they go on to do."""
        addresses = self._routers.pop(owner, [])
        source = self._reached(addresses, home)
        if source is None:
            return None
        self._found(addresses, source)
        return self._nodes[source]

    def keep(self) -> None:
        """All that are known have their source: the others are nowhere."""
        for owner, addresses in list(self._routers.items()):
            source = self._reached(addresses, "")
            if source is None:
                del self._routers[owner]
            else:
                self._found(addresses, source)
                log.info("router inherited number=%#x node=%s: its VM is nowhere", owner, source)

    def holds(self, owner: Owner) -> bool:
        """Tell whether the owner's flows are of a router that may still appear."""
        return owner in self._routers or answers_of(owner) in self._routers

    def tick(self, now: float) -> None:
        """Time has passed; who has not appeared is given up."""
        if not self._routers or now - self._began < UNEXPECTED_S:
            return
        expected = {self._ids.of(name.encode()) for node in self._nodes.values() for name in handed(node)}
        for owner, addresses in list(self._routers.items()):
            if owner not in expected or now - self._began >= self._hold_s:
                del self._routers[owner]
                log.info("router given up number=%#x", owner)
                for address in addresses:
                    self._fabric.ways.forget(address.vid, address.mac)

    def _reached(self, addresses: list[Routed], home: str) -> str | None:
        """Return the node, other than `home`, where most of what the nodes send to these addresses is routed."""
        ends = Counter(address.end(node) for address in addresses for node in sorted(self._nodes.keys() - {home}))
        del ends[home], ends[None]
        return max(ends, key=lambda node: ends[node], default=None)

    def _found(self, addresses: list[Routed], source: str) -> None:
        for address in addresses:
            known = self._fabric.ways.location(address.vid, address.mac)
            if self._fabric.settled and known is not None and known.node == source:
                continue  # it has been kept there
            ways = address.ways(source, self._fabric.links)
            self._fabric.ways.found(address.vid, address.mac, self._location(address, source), ways)

    def _location(self, address: Routed, node: str) -> Location:
        """Return where an address was at a node, by the port that its frames left by."""
        (key,) = switching.egress(address.vid, address.mac, b"")
        value = self._nodes[node].flows.actual.get(key)
        return Location(node, Member(pipeline.NO_PORT if value is None else switching.egress_port(value), None))

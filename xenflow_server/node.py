"""Pure: the node's own scope, and who runs here, from definitions and the bridge as they are now.

    definitions --+
    bridge view --+-> inventory -> scope "" -> app
    hypervisor ---+            +-> machines that run here -> clients
                                +-> uuid of a router's machine -> moves

Rules: nothing is sent before the bridge is known (law 2: an empty snapshot would mean "delete everything").
"""

from __future__ import annotations

import logging

from xenflow.errors import ConfigError
from xenflow.replica import Outbox
from xenflow.wire import NODE_SCOPE, Message
from xenflow_server.definitions import Definitions
from xenflow_server.domains import Saying
from xenflow_server.hypervisor import Asked, AttachedMacs
from xenflow_server.inventory import Inventory, take
from xenflow_server.view import BridgeView

log = logging.getLogger(__name__)


class NodeScope:
    """The server's own facts; `take`, `restart` and the rest are what the uplink asks of a scope."""

    scope = NODE_SCOPE

    def __init__(
        self, definitions: Definitions, default_max_routes: int, *, max_routers: int = 0, asks: bool = False
    ) -> None:
        """`asks`: the hypervisor is asked itself (`learn`), and nothing is said before it has answered or failed to.

        `max_routers` is how many routers may run here (0: any number).
        """
        self.definitions = definitions
        self.inventory: Inventory | None = None
        self._default_max_routes = default_max_routes
        self._max_routers = max_routers
        self._outbox = Outbox(NODE_SCOPE)
        self._asked = Asked() if asks else None
        self._hypervisor = self._asked or AttachedMacs()
        self._view: BridgeView | None = None
        self._said: frozenset[str] = frozenset()

    def observe(self, view: BridgeView) -> Inventory | None:
        """Take the bridge as it is now; return what the node has, None while that cannot be known.

        A bridge without a datapath id has not been filled in by ovs-vswitchd (again): what was known stays.
        """
        if view.exists and not view.dpid:
            self._say([f"bridge {view.name}: ovs-vswitchd has not made it yet; waiting"])
            return None
        if not view.exists and self.inventory is None:
            self._say([f"bridge {view.name}: not there yet; waiting for it"])
            return None
        self._view = view
        self._hypervisor.observe(view)
        return self._plan()

    def learn(self, saying: Saying) -> Inventory | None:
        """Take what the hypervisor says; return as `observe`."""
        if self._asked is not None:
            self._asked.take(saying)
        return self._plan()

    def machine_of(self, name: str) -> str:
        """Return the uuid of a router's machine here. Raises ConfigError if the hypervisor shows none, or several."""
        machine = self.definitions.machines.get(name)
        macs = frozenset(interface.mac for interface in machine.interfaces) if machine is not None else frozenset()
        uuid = self._asked.machine_of(macs) if self._asked is not None else ""
        if not uuid:
            raise ConfigError(
                [f"router {name}: the hypervisor shows no machine here that has exactly its MAC addresses"]
            )
        return uuid

    def redefine(self, definitions: Definitions) -> Inventory | None:
        """Take new definitions; return as `observe`."""
        self.definitions = definitions
        return self._plan()

    @property
    def moved(self) -> frozenset[str]:
        """The machines of which an interface has left for another node, and has not come back."""
        moved, vifs = self._hypervisor.moved(), self.definitions.vifs
        return frozenset(vifs[mac][0] for mac in moved if mac in vifs)

    @property
    def caps(self) -> dict[str, int]:
        """The route cap of each machine that runs here."""
        machines = self.inventory.machines if self.inventory is not None else {}
        return {name: self.definitions.max_routes.get(name, self._default_max_routes) for name in machines}

    @property
    def pending(self) -> bool:
        """Whether `take` has something."""
        return self._outbox.pending

    def take(self) -> list[Message]:
        """Return the next messages for the app."""
        return self._outbox.take()

    def restart(self) -> None:
        """A connection to the app starts: everything is sent from the beginning."""
        self._outbox.restart()

    def stop(self) -> None:
        """The connection to the app is gone."""
        self._outbox.stop()

    def _plan(self) -> Inventory | None:
        view = self._view
        if view is None:
            return None
        if self._asked is not None and not self._asked.ready:
            self._say(["hypervisor: has not answered yet; waiting"])
            return None
        asked = self._hypervisor
        self.inventory = take(self.definitions, view, asked.running(), asked.admits, self._max_routers)
        self._outbox.replace(self.inventory.facts)
        refused = self._asked.problems(frozenset(self.definitions.vifs)) if self._asked is not None else []
        self._say([*self.inventory.problems, *refused] if view.exists else [f"bridge {view.name}: is gone"])
        return self.inventory

    def _say(self, problems: list[str] | tuple[str, ...]) -> None:
        """Log what is new among the problems."""
        for problem in problems:
            if problem not in self._said:
                log.warning("%s", problem)
        self._said = frozenset(problems)

"""Pure: the node's own scope, and who runs here, from definitions and the bridge as they are now.

    definitions --+
    bridge view --+-> inventory -> scope "" -> app
    hypervisor ---+            +-> machines that run here -> clients
                               +-> uuid of a router's machine -> moves
                               +-> processor and memory of machines -> granting -> scope ""

Rules: nothing is sent before the bridge is known (law 2: an empty snapshot would mean "delete everything").
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from xenflow.errors import ConfigError
from xenflow.model import Alarm, MachineKind
from xenflow.replica import Outbox
from xenflow.resources import MAX_REASON
from xenflow.wire import NODE_SCOPE, Message
from xenflow_server.definitions import Definitions
from xenflow_server.domains import Saying, Snapshot
from xenflow_server.granting import Granting, Wish
from xenflow_server.hypervisor import Asked, AttachedMacs
from xenflow_server.inventory import Inventory, take
from xenflow_server.view import BridgeView

log = logging.getLogger(__name__)
MAX_ALARMS = 64


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
        self.granting = Granting()
        self._default_max_routes = default_max_routes
        self._max_routers = max_routers
        self._outbox = Outbox(NODE_SCOPE)
        self._asked = Asked() if asks else None
        self._hypervisor = self._asked or AttachedMacs()
        self._view: BridgeView | None = None
        self._said: frozenset[str] = frozenset()
        self._gate = ""

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
        if isinstance(saying, Snapshot):
            self.granting.again()
        return self._plan()

    def machine_of(self, name: str) -> str:
        """Return the uuid of a router's machine here. Raises ConfigError if the hypervisor shows none, or several."""
        uuid = self._uuid(name)
        if not uuid:
            raise ConfigError(
                [f"router {name}: the hypervisor shows no machine here that has exactly its MAC addresses"]
            )
        return uuid

    def gate(self, problem: str) -> Inventory | None:
        """Take why clients cannot connect, empty if they can; return as `observe`."""
        self._gate = f"clients cannot connect: {problem}" if problem else ""
        return self._plan()

    def granted(self) -> Inventory | None:
        """What machines have of processor and memory has changed; return as `observe`."""
        return self._plan()

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
        self._wish(self.inventory)
        problems = [*self.inventory.problems, *self._hypervisor_problems(self.inventory)]
        if not view.exists:
            problems = [f"bridge {view.name}: is gone"]
        self._say(problems)
        alarms = _alarms([*([self._gate] if self._gate else []), *problems, *self._unusable()])
        self._outbox.replace([*self.inventory.facts, *self.granting.facts(), *alarms])
        return self.inventory

    def _uuid(self, name: str) -> str:
        machine = self.definitions.machines.get(name)
        if machine is None or self._asked is None:
            return ""
        return self._asked.machine_of(frozenset(interface.mac for interface in machine.interfaces))

    def _wish(self, inventory: Inventory) -> None:
        """Want what definitions say for the machines that run here, not for those that are about to leave."""
        if self._asked is None:
            return
        wishes = {}
        for name, machine in inventory.machines.items():
            uuid = self._uuid(name) if machine.kind is MachineKind.ROUTER else ""
            if uuid and self._asked.stays(uuid):
                wishes[name] = Wish(name, uuid, machine.resources)
        self.granting.want(wishes)

    def _unusable(self) -> list[str]:
        why = (
            "the definition that was handed over cannot be used, so it is not defined here: see xenflow-server --check"
        )
        return [f"router {name}: {why}" for name, epoch in self.definitions.handed.items() if not epoch]

    def _hypervisor_problems(self, inventory: Inventory) -> list[str]:
        if self._asked is not None:
            return [*self._asked.problems(frozenset(self.definitions.vifs)), *self.granting.problems()]
        said = {name: [key for key, _ in machine.resources.said()] for name, machine in inventory.machines.items()}
        why = "without [hypervisor] uri nobody is asked for that"
        return [f"router {name}: {', '.join(keys)} not applied: {why}" for name, keys in said.items() if keys]

    def _say(self, problems: list[str] | tuple[str, ...]) -> None:
        """Log what is new among the problems."""
        for problem in problems:
            if problem not in self._said:
                log.warning("%s", problem)
        self._said = frozenset(problems)


def _alarms(problems: Iterable[str]) -> list[Alarm]:
    """Return problems as facts, not too many and none too long."""
    texts = [text[:MAX_REASON] for text in dict.fromkeys(problems)]
    more = [f"and {len(texts) - MAX_ALARMS} problems more: see this node's log"] if len(texts) > MAX_ALARMS else []
    return [Alarm(text) for text in (*texts[:MAX_ALARMS], *more)]

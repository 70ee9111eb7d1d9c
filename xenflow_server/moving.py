"""Pure: which command moves a machine: the owner's (`[hypervisor] move`), or our own that asks the hypervisor (`uri`).

    Move --plan--> ARGV --mover--> process --"42%", exit code--> Progress

Both are processes of their own, so that a move goes on when the server ends (`mover`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from xenflow.errors import ConfigError
from xenflow.wire import Move
from xenflow_server.settings import HypervisorTable

MovePlan = Callable[[Move], Sequence[str]]
"""Returns the command for an order. Raises ConfigError with the reason why there is none."""
NO_COMMAND = "this node's hypervisor cannot move machines: set [hypervisor] move"


def by_command(command: Sequence[str]) -> MovePlan:
    """Return the plan that appends router and target to the owner's command."""

    def plan(order: Move) -> Sequence[str]:
        if not command:
            raise ConfigError([NO_COMMAND])
        return [*command, order.name, order.target]

    return plan


def by_hypervisor(table: HypervisorTable, machine_of: Callable[[str], str]) -> MovePlan:
    """Return the plan that asks the hypervisor; `machine_of` returns the uuid of a router's machine, or raises."""

    def plan(order: Move) -> Sequence[str]:
        place = table.peers.get(order.target)
        if place is None:
            reason = f"node {order.target}: nothing says where its hypervisor is: set [hypervisor.peers] {order.target}"
            raise ConfigError([reason])
        uuid = machine_of(order.name)
        stream = table.streams.get(order.target)
        extra = ["--stream", stream] if stream else []
        module = [sys.executable, "-m", "xenflow_server.migrate"]
        return [*module, "--hypervisor", table.uri, "--machine", uuid, "--to", place, *extra]

    return plan


def plan_for(table: HypervisorTable, machine_of: Callable[[str], str]) -> MovePlan:
    """Return the plan that the settings ask for: the owner's command first."""
    return by_hypervisor(table, machine_of) if table.uri and not table.move else by_command(table.move)

"""What operators order and ask about trunks that nothing shall use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from xenflow.answers import DrainStatus
from xenflow.model import Port, PortKind
from xenflow_app.drains import State, Trunk
from xenflow_app.queries.names import QueryError, find_node, list_names
from xenflow_app.topology import End

if TYPE_CHECKING:
    from xenflow_app.controller import Controller
    from xenflow_app.node import Node

_ENDED = (State.DRAINED, State.IN_USE)


def drain(controller: Controller, arguments: Mapping[str, str]) -> DrainStatus:
    """Order that nothing uses a trunk. Raises QueryError with the reason why that cannot be."""
    node, port = _find_trunk(controller, arguments)
    problem = controller.drains.drain(node, port, controller.now)
    if problem:
        raise QueryError(problem)
    return _of_port(controller, node, port)


def undrain(controller: Controller, arguments: Mapping[str, str]) -> DrainStatus:
    """Order that a trunk is used again. Raises QueryError with the reason why that cannot be."""
    node, port = _find_trunk(controller, arguments)
    problem = controller.drains.undrain(node, port, controller.now)
    if problem:
        raise QueryError(problem)
    return _of_port(controller, node, port)


def drains(controller: Controller, arguments: Mapping[str, str]) -> list[DrainStatus]:
    """Return the state of a trunk, or of all that are or were just on their way. Raises QueryError."""
    if arguments.get("trunk"):
        return [_of_port(controller, *_find_trunk(controller, arguments))]
    return [_status(controller, trunk) for trunk in controller.drains.trunks()]


def _find_trunk(controller: Controller, arguments: Mapping[str, str]) -> tuple[Node, Port]:
    """Return the trunk's end that is named NODE:PORT. Raises QueryError."""
    name = arguments.get("trunk", "")
    where, colon, port_name = name.partition(":")
    if not colon:
        raise QueryError(f"{name!r} is no trunk: name one of its ends as NODE:PORT; xenflow status lists them")
    node = find_node(controller, where)
    port = node.port(port_name)
    trunks = f"its trunks: {list_names([item.name for item in node.ports if item.kind is PortKind.TRUNK])}"
    if port is None:
        raise QueryError(f"node {where} has no port {port_name!r}; {trunks}")
    if port.kind is not PortKind.TRUNK:
        raise QueryError(f"port {port_name} of node {where} is no trunk ({port.kind}); {trunks}")
    return node, port


def _of_port(controller: Controller, node: Node, port: Port) -> DrainStatus:
    end = End(node.name, port.number)
    trunk = controller.drains.find(end)
    return _status(controller, trunk or Trunk((end,), controller.now, controller.now))


def _status(controller: Controller, trunk: Trunk) -> DrainStatus:
    addresses, networks = controller.drains.use_of(trunk)
    return DrainStatus(
        ends=[controller.drains.name(end) for end in trunk.ends],
        state=trunk.state,
        ended=trunk.state in _ENDED,
        awaited=controller.drains.awaited(trunk),
        addresses=addresses,
        networks=networks,
        error=trunk.error,
        elapsed_s=round(controller.drains.elapsed_s(trunk, controller.now), 3),
    )

"""`qos` and `qos explain`: asked of the nodes' qos-controllers, with what admission refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from xenflow.answers import BrokenPromise, Shares
from xenflow.qosanswers import QosStatus
from xenflow_app.queries.names import QueryError, find_node

if TYPE_CHECKING:
    from xenflow_app.controller import Controller
    from xenflow_app.node import Node

Reply = Callable[[bytes, str], None]
_decode = msgspec.json.Decoder(QosStatus).decode


def qos(controller: Controller, arguments: Mapping[str, str], reply: Reply) -> None:
    """Ask all nodes that have queues, or that of one link. Raises QueryError for a link that has none.

    Argument: `link` (NODE:PORT, optional).
    """
    name = arguments.get("link", "")
    node, port = _link(controller, name) if name else (None, "")
    shaped = [item for item in controller.nodes.values() if controller.queues.ports(item.name)]

    def collect(answers: Mapping[str, bytes], errors: Mapping[str, str]) -> None:
        found: dict[str, QosStatus] = {}
        silent = dict(errors)
        for at, body in sorted(answers.items()):
            try:
                status = _decode(body)
            except msgspec.DecodeError as error:
                silent[at] = f"its answer cannot be read: {error}"
                continue
            links = [link for link in status.links if port in ("", link.port)]
            found[at] = msgspec.structs.replace(status, links=links)
        refused = {} if name else dict(controller.queues.admission.refused)
        reply(msgspec.json.encode(Shares(found, refused, silent, _broken(controller, name))), "")

    controller.inquiries.ask(shaped if node is None else [node], "qos", {}, collect, controller.now)


def explain(controller: Controller, arguments: Mapping[str, str], reply: Reply) -> None:
    """Ask how the last decision about a link came about. Raises QueryError for a link that has no queues.

    Argument: `link` (NODE:PORT).
    """
    node, port = _link(controller, arguments.get("link", ""))

    def passed_on(answers: Mapping[str, bytes], errors: Mapping[str, str]) -> None:
        reply(answers.get(node.name, b""), errors.get(node.name, ""))

    controller.inquiries.ask([node], "qos explain", {"port": port}, passed_on, controller.now)


def _broken(controller: Controller, name: str) -> list[BrokenPromise]:
    """Return the promises that cannot be kept, of one link if it is named."""
    found = [
        BrokenPromise(f"{item.place[0]}:{item.place[1]}", item.hired, item.capacity, item.control, list(item.owners))
        for item in controller.queues.admission.broken
    ]
    return [item for item in found if name in ("", item.link)]


def _link(controller: Controller, name: str) -> tuple[Node, str]:
    """Return node and port of a link that has queues."""
    at, _, port = name.partition(":")
    node = find_node(controller, at)
    ports = controller.queues.ports(at)
    if port not in ports:
        known = ", ".join(f"{at}:{item}" for item in ports) or "none"
        raise QueryError(f"link {name} has no queues; on node {at} these have: {known}")
    return node, port

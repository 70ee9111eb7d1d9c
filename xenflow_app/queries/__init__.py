"""Answers to operators: what the controller knows and why (docs/commands.md).

Place in the flow: Query -> *answer* -> Answer. An answer is JSON in the shape of `xenflow.answers`. Only `moves` and
`drains` change something; what the switches must be asked for first is answered later, in `ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from xenflow_app.queries.counters import counted_routers
from xenflow_app.queries.drains import drain, drains, undrain
from xenflow_app.queries.flows import flows
from xenflow_app.queries.moves import abort, migrate, migrations
from xenflow_app.queries.names import QueryError, find_node, find_router
from xenflow_app.queries.qos import explain, qos
from xenflow_app.queries.routers import lookup, routers, routes
from xenflow_app.queries.status import status
from xenflow_app.queries.trace import trace
from xenflow_app.queries.verify import verify

if TYPE_CHECKING:
    from xenflow.answers import RouterStatus
    from xenflow_app.controller import Controller
    from xenflow_app.node import Node

__all__ = ["QueryError", "Reply", "answer", "ask"]

Reply: TypeAlias = Callable[[bytes, str], None]
"""Takes an answer: JSON, and an error text that is empty if there is an answer."""
_Answering: TypeAlias = "Callable[[Controller, Mapping[str, str]], object]"

_AT_ONCE: dict[str, _Answering] = {
    "status": lambda controller, _arguments: status(controller),
    "routers": lambda controller, _arguments: routers(controller),
    "routes": routes,
    "lookup": lookup,
    "flows": flows,
    "trace": trace,
    "migrate": migrate,
    "abort": abort,
    "migrations": migrations,
    "drain": drain,
    "undrain": undrain,
    "drains": drains,
}


def answer(controller: Controller, what: str, arguments: Mapping[str, str]) -> tuple[bytes, str]:
    """Return the answer as JSON, and an error text that is empty if there is an answer.

    Only from what the controller knows; `routers` is without counters.
    """
    question = _AT_ONCE.get(what)
    if question is None:
        return b"", f"unknown question {what!r}; known: {', '.join((*_AT_ONCE, 'qos', 'qos explain', 'verify'))}"
    try:
        return msgspec.json.encode(question(controller, arguments)), ""
    except QueryError as error:
        return b"", str(error)


def ask(controller: Controller, what: str, arguments: Mapping[str, str], reply: Reply) -> None:
    """Give `reply` the answer, at once or when the switches have told what is needed for it."""

    def done(found: object) -> None:
        reply(msgspec.json.encode(found), "")

    try:
        if what == "routers":
            if arguments.get("router"):
                find_router(controller, arguments["router"])
            counted_routers(controller, lambda found: done(_chosen(found, arguments.get("router", ""))))
        elif what == "qos":
            qos(controller, arguments, reply)
        elif what == "qos explain":
            explain(controller, arguments, reply)
        elif what == "verify":
            verify(controller, _nodes(controller, arguments.get("node", "")), done)
        else:
            reply(*answer(controller, what, arguments))
    except QueryError as error:
        reply(b"", str(error))


def _nodes(controller: Controller, name: str) -> list[Node]:
    return [find_node(controller, name)] if name else list(controller.nodes.values())


def _chosen(found: list[RouterStatus], name: str) -> list[RouterStatus]:
    return [item for item in found if name in ("", item.name)]

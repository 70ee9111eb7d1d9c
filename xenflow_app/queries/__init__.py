"""Answers to operators: what the controller knows and why (docs/commands.md).

Place in the flow: Query -> *answer* -> Answer. An answer is JSON in the shape of `xenflow.answers`. Nothing here
changes anything; what the switches must be asked for first is answered later, in `ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from xenflow_app.queries.flows import flows
from xenflow_app.queries.names import QueryError
from xenflow_app.queries.routers import lookup, routers, routes
from xenflow_app.queries.status import status
from xenflow_app.queries.trace import trace

if TYPE_CHECKING:
    from xenflow_app.controller import Controller

__all__ = ["QueryError", "Reply", "answer"]

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
}


def answer(controller: Controller, what: str, arguments: Mapping[str, str]) -> tuple[bytes, str]:
    """Return the answer as JSON, and an error text that is empty if there is an answer."""
    question = _AT_ONCE.get(what)
    if question is None:
        return b"", f"unknown question {what!r}; known: {', '.join(_AT_ONCE)}"
    try:
        return msgspec.json.encode(question(controller, arguments)), ""
    except QueryError as error:
        return b"", str(error)

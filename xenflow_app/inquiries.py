"""Questions to the nodes' servers that are not answered yet (sans-IO; time is an argument in seconds).

Place in the flow: query of an operator -> *question to each node -> answers, or silence* -> one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from xenflow.wire import Answer, Message, Query
from xenflow_app.node import Node

PATIENCE_S = 2.0
"""How long a node may take."""
_SILENT = "no answer within 2 s"

Done = Callable[[Mapping[str, bytes], Mapping[str, str]], None]
"""Takes the answers by node (JSON), and why the other nodes gave none."""


@dataclass(slots=True)
class _Inquiry:
    done: Done
    deadline: float
    waiting: dict[int, str]
    answers: dict[str, bytes] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


class Inquiries:
    """See the module. `send` takes a node and a message for its server, and tells whether it can be sent."""

    def __init__(self, send: Callable[[Node, Message], bool]) -> None:
        self._send = send
        self._open: list[_Inquiry] = []
        self._last = 0

    def ask(self, nodes: Iterable[Node], what: str, arguments: dict[str, str], done: Done, now: float) -> None:
        """Ask these nodes; `done` is called once, when all have answered or time is up."""
        inquiry = _Inquiry(done, now + PATIENCE_S, {})
        for node in nodes:
            self._last += 1
            if self._send(node, Query(self._last, what, arguments)):
                inquiry.waiting[self._last] = node.name
            else:
                inquiry.errors[node.name] = "its server is away"
        self._open.append(inquiry)
        self._finish()

    def answered(self, node: Node, answer: Answer) -> None:
        """A node's server answers."""
        for inquiry in self._open:
            if inquiry.waiting.get(answer.number) == node.name:
                del inquiry.waiting[answer.number]
                if answer.error:
                    inquiry.errors[node.name] = answer.error
                else:
                    inquiry.answers[node.name] = answer.body
        self._finish()

    def tick(self, now: float) -> None:
        """Give up on who has not answered in time."""
        for inquiry in self._open:
            if inquiry.deadline <= now:
                inquiry.errors.update(dict.fromkeys(inquiry.waiting.values(), _SILENT))
                inquiry.waiting.clear()
        self._finish()

    def next_deadline(self) -> float:
        """Return when `tick` has something to do."""
        return min((inquiry.deadline for inquiry in self._open), default=float("inf"))

    def _finish(self) -> None:
        finished = [inquiry for inquiry in self._open if not inquiry.waiting]
        self._open = [inquiry for inquiry in self._open if inquiry.waiting]
        for inquiry in finished:
            inquiry.done(inquiry.answers, inquiry.errors)

"""Changes of links, step by step: what has been asked for is awaited (sans-IO; time is an argument in seconds).

Place in the flow: Fabric.advance -> flows -> barrier -> *Confirm to the node's server -> Confirmed* -> next step.

A barrier says that the tables have changed, not that packets follow them: the node's server waits for the revalidators.
A server that is away or hangs must not stop the others, so a step also counts as confirmed after a while.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from xenflow.wire import Confirm
from xenflow_app.effects import Effect, ToPeer
from xenflow_app.fabric import Fabric
from xenflow_app.node import Node

UNCONFIRMED_S = 0.3
"""How long after a barrier a node without a server is taken to have followed."""
CONFIRM_TIMEOUT_S = 3.0
"""How long a server may take to confirm."""


class Steps:
    """Which confirmations are awaited. `emit` takes effects."""

    def __init__(self, fabric: Fabric, nodes: Mapping[str, Node], emit: Callable[[Effect], None]) -> None:
        self._fabric = fabric
        self._nodes = nodes
        self._emit = emit
        self._tokens: dict[int, tuple[Node, Callable[[], None]]] = {}
        self._sure: set[int] = set()
        self._last = 0
        self._deadlines: list[tuple[float, Callable[[], None]]] = []
        self._now = 0.0

    def advance(self, now: float) -> None:
        """Let the fabric take what steps it may, and ask for their confirmation."""
        self._now = now
        while self._advance():
            pass

    def _advance(self) -> bool:
        """Let the fabric take one step; return whether it awaits something because of it."""
        turning = self._fabric.advance()
        lessons, self._fabric.ways.lessons = self._fabric.ways.lessons, []
        for lesson in lessons:
            self._nodes[lesson.end.node].datapath.send_out(lesson.end.port, lesson.frame())
        for name in turning | {lesson.end.node for lesson in lessons}:
            confirmed = partial(self._fabric.confirmed, name, self._fabric.step)
            if name in turning:
                self.when_followed(self._nodes[name], confirmed)
            else:
                self._nodes[name].datapath.when_done(confirmed)
        return bool(turning or lessons)

    def when_followed(self, node: Node, call: Callable[[], None]) -> None:
        """Call when the node's packets follow all that is desired on it now."""
        node.datapath.when_confirmed(partial(self._ask, node, call))

    def when_surely_followed(self, node: Node, call: Callable[[], None]) -> None:
        """As `when_followed`, but only if its server says so: never for mere waiting, nor if the server goes away."""
        node.datapath.when_confirmed(partial(self._ask, node, call, sure=True))

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call when so much time has passed."""
        self._deadlines.append((self._now + delay_s, call))

    def tick(self, now: float) -> None:
        """Give up waiting where it has taken long enough."""
        self._now = now
        due = [call for when, call in self._deadlines if when <= now]
        self._deadlines = [item for item in self._deadlines if item[0] > now]
        for call in due:
            call()

    def next_deadline(self) -> float:
        """Return when `tick` has something to do."""
        return min((when for when, _ in self._deadlines), default=float("inf"))

    def confirmed(self, token: int) -> None:
        """A server says that its node's packets follow the flows."""
        self._sure.discard(token)
        waiting = self._tokens.pop(token, None)
        if waiting is not None:
            waiting[1]()

    def server_away(self, node: Node, now: float) -> None:
        """Who was asked is gone; packets will have followed after a while."""
        for token in [token for token, (whose, _) in self._tokens.items() if whose is node]:
            if token in self._sure:
                self._sure.discard(token)
                del self._tokens[token]
            else:
                self._deadlines.append((now + UNCONFIRMED_S, partial(self.confirmed, token)))

    def _ask(self, node: Node, call: Callable[[], None], *, sure: bool = False) -> None:
        """The flows are in the tables; ask when packets follow them."""
        if node.peer is None:
            if not sure:
                self._deadlines.append((self._now + UNCONFIRMED_S, call))
            return
        self._last += 1
        self._tokens[self._last] = (node, call)
        if sure:
            self._sure.add(self._last)
        else:
            self._deadlines.append((self._now + CONFIRM_TIMEOUT_S, partial(self.confirmed, self._last)))
        self._emit(ToPeer(node.peer, Confirm(self._last)))

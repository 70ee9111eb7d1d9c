"""Trunks that nothing shall use: orders to drain them, and what is still on them (sans-IO; time is in seconds).

Place in the flow: operator -> *order -> server -> mark in its database -> fact of the port* -> Fabric -> *confirmed*.

    in use --drain--> marking -> draining -> drained --undrain--> unmarking -> undraining -> in use
                         `----------`--- undrain -------------------^

The mark at the port is the only memory: whoever starts anew finds it there. So a state is not kept, but read from the
marks, from what the fabric does, and from what the nodes have confirmed; only an order that is not carried out yet is
remembered. A drained trunk stays drained whatever else fails: who works at a link must be able to rely on it.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from xenflow.model import Port, PortKind
from xenflow.wire import Drain, Message, Progress
from xenflow_app.fabric import Fabric
from xenflow_app.node import Node
from xenflow_app.steps import Steps
from xenflow_app.topology import Edge, End, Graph

log = logging.getLogger(__name__)

ORDER_S = 10.0
"""How long a server may take to write or remove a mark."""
LINGER_S = 10.0
"""How long a trunk that is in use again, or whose order failed, is still told of."""
ASK_AGAIN_S = 5.0
"""How long a node may take to confirm before it is asked once more."""


class State(enum.StrEnum):
    """What becomes of a trunk; the module's docstring draws the order."""

    IN_USE = "in use"
    MARKING = "marking"
    DRAINING = "draining"
    DRAINED = "drained"
    UNMARKING = "unmarking"
    UNDRAINING = "undraining"


@dataclass(slots=True)
class Trunk:
    """A trunk of which a mark or an order is known. `ends` are those that are known, two or one.

    `since` is when it was ordered, or found; `ended` when it came to be drained, or in use.

    `wanted`: what an order wants that is not carried out yet; `error`: why the last one was not. `ordered` holds
    the ends whose servers were asked, with the order's number. `sure` are the nodes that have confirmed that their
    packets do not take the trunk, `asked` those that were asked: by which connections, and when. `seen` is
    the state of the fabric in which nothing was on the trunk.
    """

    ends: tuple[End, ...]
    since: float
    ended: float | None = None
    state: State = State.IN_USE
    wanted: bool | None = None
    ordered: dict[End, int] = field(default_factory=dict)
    error: str = ""
    sure: set[str] = field(default_factory=set)
    asked: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    seen: tuple[int, Graph] | None = None


class Drains:
    """See the module. `send` takes a node and a message for its server, and tells whether it can be sent."""

    def __init__(
        self, nodes: Mapping[str, Node], fabric: Fabric, steps: Steps, send: Callable[[Node, Message], bool]
    ) -> None:
        self._nodes = nodes
        self._fabric = fabric
        self._steps = steps
        self._send = send
        self._trunks: list[Trunk] = []
        self._marked: frozenset[End] = frozenset()
        self._last = time.time_ns() // 1000
        self._now = 0.0

    # -- operators ---------------------------------------------------------------------------------------------------

    def drain(self, node: Node, port: Port, now: float) -> str:
        """Order that nothing uses the trunk; return why that cannot be, or nothing."""
        self._now = now
        end = End(node.name, port.number)
        trunk = self.find(end)
        if trunk is not None and (trunk.state is State.DRAINED or self._is_marked(trunk)):
            return f"trunk {self.name(end)} is {trunk.state} already"
        if trunk is not None and trunk.wanted:
            return f"trunk {self.name(end)} is being marked already"
        if not self._fabric.settled:
            return "the links are not known yet: xenflow status says what is awaited"
        ends = self._ends(end)
        if node.peer is None:
            return f"the server of node {node.name} is away, which has to keep that the trunk is drained"
        problem = self._cut_off(ends) if len(ends) > 1 else ""
        problem = problem or self._out_of_reach(ends)
        if problem:
            return problem
        self._order(self._enter(ends), [end], drained=True)
        return ""

    def undrain(self, node: Node, port: Port, now: float) -> str:
        """Order that the trunk is used again; return why that cannot be, or nothing."""
        self._now = now
        end = End(node.name, port.number)
        trunk = self.find(end)
        if trunk is None or not (self._is_marked(trunk) or trunk.wanted):
            return f"trunk {self.name(end)} is not drained"
        marked = [item for item in trunk.ends if item in self._marked or (trunk.wanted and item in trunk.ordered)]
        away = [item.node for item in marked if self._nodes[item.node].peer is None]
        if away:
            return f"the server of node {' and '.join(away)} is away, which keeps that the trunk is drained"
        self._order(trunk, marked, drained=False)
        return ""

    def progress(self, message: Progress) -> None:
        """A server says what became of an order."""
        for trunk in self._trunks:
            if message.error and message.number in trunk.ordered.values():
                self._fail(trunk, message.error)

    def _order(self, trunk: Trunk, ends: Iterable[End], *, drained: bool) -> None:
        trunk.wanted, trunk.error, trunk.since, trunk.ordered = drained, "", self._now, {}
        for end in ends:
            self._last += 1
            trunk.ordered[end] = self._last
            self._send(self._nodes[end.node], Drain(self._last, self._port_name(end), drained))
        self._note(trunk, State.MARKING if drained else State.UNMARKING, "asked for")

    def _fail(self, trunk: Trunk, error: str) -> None:
        trunk.wanted, trunk.error = None, error
        log.warning("drain trunk=%s state=%s error=%s", self.name(*trunk.ends), trunk.state, error)

    # -- what is not to be ------------------------------------------------------------------------------------------

    def _cut_off(self, ends: tuple[End, ...]) -> str:
        """Say which nodes would be cut off without the trunk, and without all others that are or will be drained."""
        going = {end for trunk in self._trunks if trunk.wanted for end in trunk.ends}
        gone = going | self._marked | set(ends)
        left = Graph(link for link in self._fabric.links if link.a not in gone and link.b not in gone)
        here, there = left.reach(ends[0].node), left.reach(ends[1].node)
        if ends[1].node in here:
            return ""
        return f"there is no other way: without the trunk {_words(_smaller(here, there))} would be cut off"

    def _out_of_reach(self, ends: tuple[End, ...]) -> str:
        """Say which nodes on the way could not turn to another one, or could not confirm it."""
        for name in sorted(Graph(self._fabric.links).reach(ends[0].node) | {end.node for end in ends}):
            node = self._nodes[name]
            missing = "switch" if node.switch is None else "server" if node.peer is None else ""
            if missing:
                return f"node {name} is out of reach (its {missing} is away): it cannot turn to another way"
        return ""

    # -- what is true now -------------------------------------------------------------------------------------------

    def trunks(self) -> list[Trunk]:
        """Return the trunks that are drained, or on their way to or from that."""
        return self._trunks

    def find(self, end: End) -> Trunk | None:
        """Return what is known of the trunk with that end, None if it is just in use."""
        return next((trunk for trunk in self._trunks if end in trunk.ends), None)

    def marks_changed(self) -> None:
        """The ports of a node are known anew: leave what is marked, use what is not marked any more."""
        marked = {
            End(node.name, port.number) for node in self._nodes.values() for port in node.ports if is_drained(port)
        }
        if marked != self._marked:
            self._marked = frozenset(marked)
            self._fabric.set_drained(self._marked)

    def poll(self, now: float) -> None:
        """Bring the states of all trunks up to date."""
        self._now = now
        for end in self._marked:
            if self.find(end) is None:
                self._enter(self._ends(end))
        for trunk in list(self._trunks):
            self._complete(trunk)
            if trunk.wanted is self._is_marked(trunk):
                trunk.wanted = None  # the order is carried out
            if trunk.wanted is not None and now - trunk.since >= ORDER_S:
                names = " and ".join(sorted({end.node for end in trunk.ordered}))
                self._fail(trunk, f"the server of node {names} has not done it within {ORDER_S:g} s: its log says why")
            state = self._state(trunk)
            if state is not trunk.state:
                self._note(trunk, state, "so it is")
            if trunk.state is State.IN_USE and trunk.ended is not None and now - trunk.ended >= LINGER_S:
                self._trunks.remove(trunk)

    def awaited(self, trunk: Trunk) -> str:
        """Return what has to happen next, in words; empty if nothing has to."""
        if trunk.state in (State.DRAINED, State.IN_USE):
            return ""
        if trunk.state in (State.MARKING, State.UNMARKING):
            return "the mark in Open vSwitch's database"
        away = [name for name in self._who_confirms(trunk) if not self._reach(name)]
        if away:
            return f"{_words(away)}, out of reach"
        late = self._fabric.awaiting or (set(self._who_confirms(trunk)) - trunk.sure)
        return f"{_words(late)} to confirm" if late else "addresses that move"

    def use_of(self, trunk: Trunk) -> tuple[int, int]:
        """Return how many addresses, and how many networks' trees, are on the trunk."""
        link = self._link(trunk)
        return (0, 0) if link is None else self._fabric.use_of(link)

    def cut_off(self, trunk: Trunk) -> str:
        """Say who is cut off only because the trunk is drained, empty if nobody is."""
        link = self._link(trunk)
        if link is None or not self._is_marked(trunk) or link in self._fabric.graph.edges:
            return ""
        here, there = self._fabric.graph.reach(link.a.node), self._fabric.graph.reach(link.b.node)
        if link.b.node in here:
            return ""
        return f"{_words(_smaller(here, there))} cut off without it"

    def name(self, *ends: End) -> str:
        """Return ends as operators write them."""
        return " - ".join(f"{end.node}:{self._port_name(end)}" for end in ends)

    def _state(self, trunk: Trunk) -> State:
        if trunk.wanted is not None:
            return State.MARKING if trunk.wanted else State.UNMARKING
        if not self._is_marked(trunk):
            self._doubt(trunk)
            back = trunk.state in (State.UNMARKING, State.UNDRAINING, State.DRAINING, State.DRAINED)
            return State.UNDRAINING if back and self._fabric.moving else State.IN_USE
        return State.DRAINED if self._is_left(trunk) else State.DRAINING

    def _is_left(self, trunk: Trunk) -> bool:
        """Tell whether nothing uses the trunk, and all nodes have confirmed it since."""
        link = self._link(trunk)
        seen = (self._fabric.step, self._fabric.graph)
        if link is None or trunk.seen == seen:
            return self._fabric.settled
        if not self._fabric.settled or link in self._fabric.graph.edges or any(self._fabric.use_of(link)):
            self._doubt(trunk)
            return False
        if trunk.state is State.DRAINED:
            trunk.seen = seen
            return True
        names = self._who_confirms(trunk)
        for name in names:
            node = self._nodes[name]
            if name in trunk.sure or node.peer is None or node.switch is None:
                continue
            *connections, when = trunk.asked.get(name, (0, 0, 0.0))
            if connections != [node.peer, node.switch] or self._now - when >= ASK_AGAIN_S:
                trunk.asked[name] = (node.peer, node.switch, self._now)
                self._steps.when_surely_followed(node, partial(trunk.sure.add, name))
        return trunk.sure.issuperset(names)

    @staticmethod
    def _doubt(trunk: Trunk) -> None:
        trunk.sure, trunk.asked, trunk.seen = set(), {}, None

    def _who_confirms(self, trunk: Trunk) -> list[str]:
        """Return the trunk's nodes, and all others that are in reach."""
        ends = {end.node for end in trunk.ends}
        return sorted(name for name in self._nodes if name in ends or name in trunk.sure or self._reach(name))

    def _reach(self, name: str) -> bool:
        return self._nodes[name].peer is not None and self._nodes[name].switch is not None

    def _is_marked(self, trunk: Trunk) -> bool:
        return any(end in self._marked for end in trunk.ends)

    def _link(self, trunk: Trunk) -> Edge | None:
        return next((link for link in self._fabric.links if link.a in trunk.ends or link.b in trunk.ends), None)

    def _ends(self, end: End) -> tuple[End, ...]:
        link = next((link for link in self._fabric.links if end in (link.a, link.b)), None)
        return (end,) if link is None else (link.a, link.b)

    def _enter(self, ends: tuple[End, ...]) -> Trunk:
        found = next((trunk for trunk in self._trunks if set(trunk.ends) & set(ends)), None)
        if found is None:
            found = Trunk(ends, self._now)
            self._trunks.append(found)
        return found

    def _complete(self, trunk: Trunk) -> None:
        """Note the far end once it is known; a cable may lead elsewhere now."""
        ends = next((self._ends(end) for end in trunk.ends if len(self._ends(end)) > 1), trunk.ends)
        if ends != trunk.ends:
            trunk.ends = ends
            for other in [item for item in self._trunks if item is not trunk and set(item.ends) & set(ends)]:
                self._trunks.remove(other)

    def _port_name(self, end: End) -> str:
        node = self._nodes.get(end.node)
        ports = [] if node is None else node.ports
        return next((port.name for port in ports if port.number == end.port), f"port {end.port}")

    def _note(self, trunk: Trunk, state: State, why: str) -> None:
        addresses, networks = self.use_of(trunk)
        log.info(
            "drain trunk=%s from=%s to=%s why=%s addresses=%d networks=%d",
            *(self.name(*trunk.ends).replace(" ", ""), trunk.state, state, why, addresses, networks),
        )
        trunk.state = state
        trunk.ended = self._now if state in (State.DRAINED, State.IN_USE) else None

    def elapsed_s(self, trunk: Trunk, now: float) -> float:
        """Return how long it has taken, or took."""
        return (now if trunk.ended is None else trunk.ended) - trunk.since


def is_drained(port: Port) -> bool:
    """Tell whether a port is the end of a trunk that nothing shall use."""
    return port.kind is PortKind.TRUNK and port.drained


def _smaller(here: set[str], there: set[str]) -> set[str]:
    return min(here, there, key=lambda side: (len(side), sorted(side)))


def _words(nodes: Iterable[str]) -> str:
    names = sorted(nodes)
    return f"node{'s' if len(names) > 1 else ''} {', '.join(names)}"

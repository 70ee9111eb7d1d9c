"""Caps and longest prefixes: what is installed does as the whole table says, or leaves the packet to the VM.

Checked after each single flow-mod, for every address of a small universe, while routes come and go faster than the
switch takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.app.network import mac
from xenflow.capped import CappedRoutes
from xenflow.model import Fact, Hop, Interface, Machine, MachineKind, Prefix, Route, RouteKind
from xenflow.replica import Change, Inbox, Outbox
from xenflow_app import routing
from xenflow_app.flowtable import FlowKey, FlowTable, FlowValue
from xenflow_app.router import Place, Router

NUMBER = 7
BITS = 4
ADDRESSES = [bytes([10, 0, 0, last]) for last in range(1 << BITS)]
PREFIXES = [
    bytes([10, 0, 0, last, length])
    for length in range(32 - BITS, 33)
    for last in range(0, 1 << BITS, 1 << 32 - length)
] + [bytes([0, 0, 0, 0, 0])]  # fmt: skip
HOPS = [(Hop(1, bytes([10, 9, 0, number])),) for number in (1, 2, 3)]

Table = dict[Prefix, Route]
Answer = tuple[Hop, ...] | None
"""The next hops of an address; None: the VM decides."""

routes = st.builds(Route, st.sampled_from(PREFIXES), st.just(RouteKind.UNICAST), st.sampled_from(HOPS))
events = st.lists(routes | st.sampled_from(PREFIXES), min_size=1, max_size=6)
caps = st.sampled_from([0, 1, 2, 4, 8])


def covers(prefix: Prefix, address: bytes) -> bool:
    bits = 32 - prefix[-1]
    return int.from_bytes(address, "big") >> bits == int.from_bytes(prefix[:-1], "big") >> bits


def lookup(table: Iterable[Prefix], address: bytes) -> Prefix | None:
    return max((prefix for prefix in table if covers(prefix, address)), key=lambda prefix: prefix[-1], default=None)


def answers(table: Table) -> list[Answer]:
    """What the whole table says of each address."""
    found = [lookup(table, address) for address in ADDRESSES]
    return [None if prefix is None else table[prefix].hops for prefix in found]


def change(table: Table, event: Route | Prefix) -> Fact | Prefix | None:
    """Let the event happen in the table; return it if it changes anything."""
    if isinstance(event, bytes):
        return event if table.pop(event, None) is not None else None
    before = table.get(event.prefix)
    table[event.prefix] = event
    return event if before != event else None


class Switch:
    """The FIB of a switch, a router that plans it, and what the packets to each address do."""

    def __init__(self, max_flows: int) -> None:
        self.flows = FlowTable()
        self.flows.resync({}, lambda _: True)
        machine = Machine("r", MachineKind.ROUTER, (Interface(1, "lan", mac(1)),), max_flows)
        self.router = Router(NUMBER, machine, Place(self.flows, {1: 10}))
        self._installed: dict[FlowKey, FlowValue] = {}
        self._prefixes = {routing.route_key(NUMBER, prefix): prefix for prefix in PREFIXES}
        self._words = {self.router.value_for(Route(PREFIXES[0], RouteKind.UNICAST, hops)): hops for hops in HOPS}

    @property
    def prefixes(self) -> set[Prefix]:
        """The prefixes that have a flow."""
        return {self._prefixes[key] for key in self._installed if key in self._prefixes}

    def answers(self) -> list[Answer]:
        """What is installed does with each address."""
        installed = self.prefixes
        found = [lookup(installed, address) for address in ADDRESSES]
        keys = [None if prefix is None else routing.route_key(NUMBER, prefix) for prefix in found]
        return [None if key is None else self._words[self._installed[key]] for key in keys]

    def take(self, most: int, check: Callable[[], None]) -> None:
        """Take at most so many flow-mods, one by one."""
        batch = self.flows.take(most)
        for key, value in batch.upserts:
            self._installed[key] = value
            check()
        for key, _ in batch.deletes:
            del self._installed[key]
            check()


class Watch:
    """What the whole table has said of each address since the switch last had caught up."""

    def __init__(self, switch: Switch, table: Table) -> None:
        self._switch = switch
        self._table = table
        self.allowed: list[set[Answer]] = [{answer} for answer in answers(table)]

    def note(self) -> None:
        for known, answer in zip(self.allowed, answers(self._table), strict=True):
            known.add(answer)

    def caught_up(self) -> None:
        self.allowed = [{answer} for answer in answers(self._table)]

    def check(self) -> None:
        """Each packet goes as the table says, or did while this change was under way; or to the VM."""
        for address, known, does in zip(ADDRESSES, self.allowed, self._switch.answers(), strict=True):
            assert does is None or does in known, (address, does, known)

    def check_unmoved(self) -> None:
        """The same of the addresses whose route has not changed meanwhile."""
        for address, known, does in zip(ADDRESSES, self.allowed, self._switch.answers(), strict=True):
            assert does is None or len(known) > 1 or does in known, (address, does, known)


def assert_settled(switch: Switch, table: Table, cap: int) -> None:
    """With all installed: an address is left to the VM only if its route is kept back, which are the shortest."""
    shown = switch.prefixes
    assert shown <= table.keys()
    assert len(shown) == (min(cap, len(table)) if cap else len(table))
    for address, does in zip(ADDRESSES, switch.answers(), strict=True):
        prefix = lookup(table, address)
        expected = table[prefix].hops if prefix in shown else None
        assert does == expected


@given(caps, st.lists(routes, max_size=24), st.lists(st.tuples(events, st.integers(0, 5)), max_size=12))
def test_no_flow_mod_ever_makes_a_packet_follow_a_wrong_prefix(
    cap: int, initial: list[Route], history: list[tuple[list[Route | Prefix], int]]
) -> None:
    switch = Switch(cap)
    table = {route.prefix: route for route in initial}
    watch = Watch(switch, table)
    switch.router.apply(Change(upserts=list(table.values()), in_sync=True))
    while switch.flows.due:
        switch.take(3, watch.check)
    assert_settled(switch, table, cap)
    for happened, most in history:
        changed = {prefix_of(event): event for event in happened if change(table, event) is not None}
        upserts = [table[prefix] for prefix in changed if prefix in table]
        switch.router.apply(Change(upserts, [(Route.KIND, prefix) for prefix in changed if prefix not in table]))
        watch.note()
        if most:
            switch.take(most, watch.check)
        if not switch.flows.due:
            watch.caught_up()
    while switch.flows.due:
        switch.take(3, watch.check)
    assert_settled(switch, table, cap)


def prefix_of(event: Route | Prefix) -> Prefix:
    return event if isinstance(event, bytes) else event.prefix


class Chain:
    """A kernel's table, a client that keeps some routes back, a connection, and the switch."""

    def __init__(self, cap: int, switch: Switch) -> None:
        self.outbox = Outbox("r")
        self._inbox = Inbox("r")
        self._switch = switch
        self._capped: CappedRoutes[Route] = CappedRoutes(cap)

    def happen(self, event: Route | Prefix) -> None:
        """A route is new, changed or gone."""
        capped = self._capped
        is_gone = isinstance(event, bytes)
        for move in capped.drop(event) if is_gone else capped.put(event.prefix, event):  # type: ignore[arg-type,union-attr]
            if move.shown:
                self.outbox.put(capped[move.prefix])
            else:
                self.outbox.drop(Route.KIND, move.prefix)

    def reconnect(self) -> None:
        self._inbox.suspend()
        self.outbox.restart()

    def deliver(self, most: int) -> None:
        """Bring the switch's router at most so many facts."""
        for message in self.outbox.take(most):
            self._switch.router.apply(self._inbox.receive(message))  # type: ignore[arg-type]


@given(
    caps,
    st.lists(routes, max_size=24),
    st.lists(st.tuples(events, st.booleans(), st.integers(0, 4), st.integers(0, 3)), max_size=12),
)
def test_no_message_ever_makes_a_packet_follow_a_wrong_prefix(
    cap: int, initial: list[Route], history: list[tuple[list[Route | Prefix], bool, int, int]]
) -> None:
    """As above with the cap in the client, small messages, and connections that break; for routes that stay."""
    switch = Switch(0)
    chain = Chain(cap, switch)
    table: Table = {}
    watch = Watch(switch, table)
    for route in initial:
        change(table, route)
        chain.happen(route)
    chain.reconnect()
    watch.caught_up()
    for happened, breaks, facts, most in [*history, ([], False, 1, 1)]:
        for event in happened:
            if change(table, event) is not None:
                chain.happen(event)
                watch.note()
        if breaks:
            chain.reconnect()
        chain.deliver(facts)
        if most:
            switch.take(most, watch.check_unmoved)
        if not switch.flows.due and not chain.outbox.pending:
            watch.caught_up()
    while switch.flows.due or chain.outbox.pending:
        chain.deliver(2)
        switch.take(1, watch.check_unmoved)
    assert_settled(switch, table, cap)

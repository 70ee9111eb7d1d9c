"""Outbox and Inbox: any history leaves the receiver with the sender's table, and the work fits the change."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from xenflow import wire
from xenflow.errors import Fault, RemoteProtocolError
from xenflow.model import Fact, Hop, Link, Neighbor, Route, RouteKind, ShedRoutes, pack_prefix
from xenflow.replica import Inbox, Outbox
from xenflow.wire import CHUNK_FACTS, Begin, End, Update


def route(number: int, gateway: int = 1, hops: int = 1) -> Route:
    prefix = (0x0A000000 + number * 256).to_bytes(4, "big") + b"\x18"
    ways = tuple(Hop(1, (0xC0000200 + gateway + i).to_bytes(4, "big")) for i in range(hops))
    return Route(prefix, RouteKind.UNICAST, ways)


def link(index: int) -> Link:
    return Link(index, f"eth{index}", bytes(5) + bytes([index]), 1500, True)


def drain(outbox: Outbox, inbox: Inbox, size: int = CHUNK_FACTS) -> list[wire.Message]:
    sent = []
    while messages := outbox.take(size):
        for message in messages:
            assert isinstance(message, Begin | Update | End)
            inbox.receive(message)
        sent += messages
    return sent


def connected(*facts: Fact) -> tuple[Outbox, Inbox]:
    outbox, inbox = Outbox("r1"), Inbox("r1")
    for fact in facts:
        outbox.put(fact)
    outbox.restart()
    drain(outbox, inbox)
    return outbox, inbox


FACTS: st.SearchStrategy[Fact] = st.one_of(
    st.builds(route, st.integers(0, 5), st.integers(1, 2)),
    st.builds(link, st.integers(1, 2)),
    st.builds(ShedRoutes, st.integers(0, 1)),
)


class Histories(RuleBasedStateMachine):
    """Sender, line and receiver; the line may lose what is on it, and either side may start anew."""

    @initialize(held=st.booleans())
    def begin(self, held: bool) -> None:
        self.outbox, self.inbox = Outbox("r1"), Inbox("r1")
        self.outbox.held = held
        self.line: list[wire.Message] = []
        self.mirror: dict[tuple[int, bytes], Fact] = {}

    @rule(fact=FACTS)
    def put(self, fact: Fact) -> None:
        self.outbox.put(fact)

    @rule(fact=FACTS)
    def drop(self, fact: Fact) -> None:
        self.outbox.drop(fact.KIND, fact.key)

    @rule(facts=st.lists(FACTS, max_size=8))
    def replace(self, facts: list[Fact]) -> None:
        self.outbox.replace(facts)
        assert dict(self.outbox.facts) == {(fact.KIND, fact.key): fact for fact in facts}

    @rule(size=st.integers(1, 4))
    def send(self, size: int) -> None:
        pending = self.outbox.pending
        messages = self.outbox.take(size)
        assert bool(messages) == pending or not messages
        self.line += messages

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        for message in self.line[:count]:
            self.take_in(message)
        del self.line[:count]

    @rule(what=st.sampled_from(["reconnect", "lose", "sender starts anew"]))
    def interrupt(self, what: str) -> None:
        self.line.clear()
        self.inbox.suspend()
        if what == "reconnect":
            self.outbox.restart()
        elif what == "lose":
            self.outbox.stop()
            assert not self.outbox.pending
        else:
            facts, held = list(self.outbox.facts.values()), self.outbox.held
            self.outbox = Outbox("r1")
            self.outbox.replace(facts)
            self.outbox.held = held

    @rule()
    def settle(self) -> None:
        """Connect if need be, and deliver all."""
        if not self.outbox._connected:
            self.interrupt("reconnect")
        self.deliver(len(self.line))
        while messages := self.outbox.take(3):
            self.line += messages
            self.deliver(len(messages))
        if not self.outbox.held:
            assert dict(self.inbox.facts) == dict(self.outbox.facts)

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        self.outbox.held = held

    def take_in(self, message: wire.Message) -> None:
        received = wire.decode(wire.encode(message)[4:])
        assert isinstance(received, Begin | Update | End)
        if isinstance(received, Update):
            keys = [(fact.KIND, fact.key) for fact in received.upserts] + received.withdrawals
            assert len(set(keys)) == len(keys)
        assert not (isinstance(received, End) and not self.inbox._begun)
        change = self.inbox.receive(received)
        for fact in change.upserts:
            assert self.mirror.get((fact.KIND, fact.key)) != fact
            self.mirror[fact.KIND, fact.key] = fact
        for key in change.withdrawals:
            del self.mirror[key]

    @invariant()
    def changes_add_up(self) -> None:
        assert dict(self.inbox.facts) == self.mirror

    def teardown(self) -> None:
        if not hasattr(self, "outbox"):
            return
        self.outbox.held = False
        self.settle()
        assert not self.outbox.pending
        assert self.inbox.in_sync
        assert dict(self.inbox.facts) == dict(self.outbox.facts)
        assert self.inbox.seq == self.outbox.last_seq


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_nothing_is_sent_before_there_is_a_connection() -> None:
    outbox = Outbox("r1")
    outbox.put(route(1))
    assert not outbox.pending
    assert outbox.take() == []


def test_an_empty_table_is_a_snapshot_too() -> None:
    outbox, inbox = Outbox("r1"), Inbox("r1")
    outbox.restart()
    assert drain(outbox, inbox) == [Begin("r1"), End("r1", 1)]
    assert inbox.in_sync


def test_a_change_costs_one_fact_whatever_the_table() -> None:
    outbox, _ = connected(*(route(i) for i in range(5000)))
    outbox.put(route(7, gateway=9))
    (message,) = outbox.take()
    assert isinstance(message, Update)
    assert message.upserts == [route(7, gateway=9)]
    assert not message.withdrawals


def test_the_latest_state_wins() -> None:
    outbox, inbox = connected(route(1))
    for gateway in range(2, 9):
        outbox.put(route(1, gateway))
    outbox.put(route(2))
    outbox.drop(Route.KIND, route(2).key)
    (message,) = outbox.take()
    assert message == Update("r1", outbox.last_seq, [route(1, 8)])
    assert isinstance(message, Update)
    assert inbox.receive(message).upserts == [route(1, 8)]


def test_the_same_again_sends_nothing() -> None:
    outbox, _ = connected(route(1), link(1))
    outbox.put(route(1))
    outbox.replace([route(1), link(1)])
    assert not outbox.pending


def test_withdrawals_keep_their_order() -> None:
    outbox, _ = connected(*(route(i) for i in range(6)))
    order = [4, 0, 5, 2]
    for number in order:
        outbox.drop(Route.KIND, route(number).key)
    (message,) = outbox.take()
    assert isinstance(message, Update)
    assert message.withdrawals == [(Route.KIND, route(number).key) for number in order]


def test_replace_and_end_withdraw_the_shortest_prefix_first() -> None:
    texts = ("10.0.0.0/24", "10.0.0.0/8", "10.0.0.0/16")
    covering = [Route(pack_prefix(text), RouteKind.BLACKHOLE) for text in texts]
    shortest_first = [(Route.KIND, pack_prefix(text)) for text in ("10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24")]
    outbox, inbox = connected(*covering)
    outbox.replace([])
    (message,) = outbox.take()
    assert isinstance(message, Update)
    assert message.withdrawals == shortest_first
    inbox.receive(Begin("r1"))
    assert inbox.receive(End("r1", 1)).withdrawals == shortest_first


def test_routes_come_longest_first() -> None:
    wanted = [Route(pack_prefix(f"10.0.0.0/{length}"), RouteKind.BLACKHOLE) for length in (8, 24, 16, 32)]
    outbox, inbox = connected(*wanted)
    outbox.restart()
    taken = [m.upserts[0] for m in drain(outbox, inbox, 1) if isinstance(m, Update)]
    outbox.replace([])
    drain(outbox, inbox)
    outbox.replace(wanted)
    taken += [m.upserts[0] for m in drain(outbox, inbox, 1) if isinstance(m, Update)]
    assert [fact.prefix[-1] for fact in taken if isinstance(fact, Route)] == [32, 24, 16, 8] * 2


def test_a_snapshot_comes_in_chunks_links_first() -> None:
    outbox = Outbox("r1")
    for number in range(CHUNK_FACTS + 10):
        outbox.put(route(number))
    outbox.put(link(1))
    outbox.restart()
    begin, first = outbox.take()
    assert begin == Begin("r1")
    assert isinstance(first, Update)
    assert first.upserts[0] == link(1)
    assert len(first.upserts) == CHUNK_FACTS
    second, end = outbox.take()
    assert isinstance(second, Update)
    assert len(second.upserts) == 11
    assert isinstance(end, End)


def test_frames_stay_small_with_many_next_hops() -> None:
    outbox, inbox = Outbox("r1"), Inbox("r1")
    for number in range(3000):
        outbox.put(route(number, hops=256))
    outbox.restart()
    assert max(len(wire.encode(message)) for message in drain(outbox, inbox)) < wire.MAX_FRAME_BYTES
    assert len(inbox.facts) == 3000


def test_changes_while_a_snapshot_is_on_its_way() -> None:
    outbox, inbox = Outbox("r1"), Inbox("r1")
    for number in range(10):
        outbox.put(route(number))
    outbox.restart()
    for message in outbox.take(4):
        assert isinstance(message, Begin | Update)
        inbox.receive(message)
    outbox.put(route(0, gateway=5))  # sent already
    outbox.put(route(9, gateway=5))  # still to come
    outbox.drop(Route.KIND, route(1).key)
    outbox.drop(Route.KIND, route(8).key)
    outbox.put(route(20))
    drain(outbox, inbox, 3)
    assert dict(inbox.facts) == dict(outbox.facts)


def test_known_facts_that_return_during_a_snapshot_do_not_flap() -> None:
    outbox, inbox = connected(*map(route, range(4)))
    for number in (0, 1):
        outbox.drop(Route.KIND, route(number).key)
    outbox.restart()
    outbox.take(1)
    for number in (0, 1):
        outbox.put(route(number))
    inbox.receive(Begin("r1"))
    inbox.receive(Update("r1", outbox.last_seq, [route(2)]))
    while messages := outbox.take(1):
        for message in messages:
            assert isinstance(message, Begin | Update | End)
            assert not inbox.receive(message).withdrawals
    assert inbox.in_sync


def test_what_changes_before_its_turn_in_a_snapshot_is_sent_once() -> None:
    outbox, inbox = connected(route(1), route(2))
    outbox.restart()
    outbox.put(route(2, gateway=7))
    sent = [fact for message in drain(outbox, inbox) if isinstance(message, Update) for fact in message.upserts]
    assert sent == [route(1), route(2, gateway=7)]


def test_a_held_snapshot_has_no_end_until_it_is_let_go() -> None:
    outbox, inbox = Outbox("r1"), Inbox("r1")
    outbox.put(route(1))
    outbox.held = True
    outbox.restart()
    drain(outbox, inbox)
    assert not inbox.in_sync
    assert not outbox.pending
    outbox.held = False
    assert outbox.pending
    drain(outbox, inbox)
    assert inbox.in_sync


def test_facts_stay_while_the_connection_is_gone() -> None:
    outbox, inbox = connected(route(1), route(2))
    inbox.suspend()
    assert len(inbox.facts) == 2
    assert not inbox.in_sync
    outbox.stop()
    outbox.drop(Route.KIND, route(2).key)
    outbox.restart()
    withdrawn = [inbox.receive(m).withdrawals for m in outbox.take() if isinstance(m, Begin | Update | End)]
    assert withdrawn == [[], [], [(Route.KIND, route(2).key)]]


def test_next_hops_are_stored_once() -> None:
    outbox, inbox = Outbox("r1"), Inbox("r1")
    for number in range(100):
        outbox.put(route(number))
    outbox.restart()
    for message in outbox.take():
        received = wire.decode(wire.encode(message)[4:])
        assert isinstance(received, Begin | Update | End)
        inbox.receive(received)
    assert len({id(fact.hops) for fact in inbox.facts.values() if isinstance(fact, Route)}) == 1


def test_a_broken_sequence_is_refused() -> None:
    _, inbox = connected(route(1))
    suspended = Inbox("r1")
    cases: list[tuple[Inbox, Begin | Update | End]] = [
        (inbox, Update("r1", inbox.seq + 2)),
        (inbox, Update("r1", inbox.seq)),
        (inbox, End("r1", inbox.seq + 1)),
        (inbox, Update("r2", inbox.seq + 1)),
        (suspended, Update("r1", 1)),
        (suspended, End("r1", 1)),
    ]
    for receiver, message in cases:
        before = dict(receiver.facts)
        with pytest.raises(RemoteProtocolError) as caught:
            receiver.receive(message)
        assert caught.value.fault is Fault.SEQUENCE
        assert dict(receiver.facts) == before


IMPOSSIBLE: list[Fact] = [
    Route(b"\x0a\0\0\1\x18", RouteKind.BLACKHOLE),
    Route(b"\x0a\0\0\0\x21", RouteKind.BLACKHOLE),
    Route(bytes(16) + b"\x81", RouteKind.BLACKHOLE),
    Route(b"\x0a\0\0\x18", RouteKind.BLACKHOLE),
    Route(b"", RouteKind.BLACKHOLE),
    Route(bytes(5), RouteKind.UNICAST),
    Route(bytes(5), RouteKind.BLACKHOLE, (Hop(1),)),
    Route(bytes(5), RouteKind.UNICAST, (Hop(-1),)),
    Route(bytes(5), RouteKind.UNICAST, (Hop(1, b"abc"),)),
    Route(bytes(5), RouteKind.UNICAST, (Hop(1, weight=0),)),
    Route(bytes(5), RouteKind.UNICAST, (Hop(1),) * 257),
    Link(-1, "eth0", bytes(6), 1500, True),
    Link(1 << 32, "eth0", bytes(6), 1500, True),
    Link(1, "eth0", bytes(5), 1500, True),
    Link(1, "eth\n0", bytes(6), 1500, True),
    Neighbor(1, b"abc", bytes(6)),
    ShedRoutes(-1),
]


@pytest.mark.parametrize("fact", IMPOSSIBLE, ids=repr)
def test_a_fact_that_cannot_be_is_refused_and_changes_nothing(fact: Fact) -> None:
    _, inbox = connected(route(1))
    with pytest.raises(RemoteProtocolError) as caught:
        inbox.receive(Update("r1", inbox.seq + 1, [route(2), fact], [(Route.KIND, route(1).key)]))
    assert caught.value.fault is Fault.CONTENT
    assert list(inbox.facts.values()) == [route(1)]

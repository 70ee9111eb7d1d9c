"""A client's outbox, the relay and the app's inbox, joined in memory."""

from __future__ import annotations

import random

import pytest

from xenflow.errors import RemoteProtocolError
from xenflow.model import (
    Address,
    Fact,
    Hop,
    Interface,
    Key,
    Link,
    Machine,
    MachineKind,
    Neighbor,
    Route,
    RouteKind,
    ShedRoutes,
)
from xenflow.replica import Inbox, Outbox
from xenflow.wire import Ack, Begin, Close, End, Message, Problem, Update
from xenflow_server import relay as relay_module
from xenflow_server.relay import Relay

MACS = [bytes([2, 0, 0, 0, 0, n]) for n in range(4)]
ROUTER = Machine("r1", MachineKind.ROUTER, (Interface(1, "a", MACS[1]), Interface(2, "b", MACS[2])))
CONTROL = Link(2, "eth0", MACS[0], 1500, True)
LINKS = [CONTROL, Link(7, "eth1", MACS[1], 1500, True), Link(9, "eth2", MACS[2], 1400, False)]


def hop(link: int, last: int = 1) -> Hop:
    return Hop(link, bytes([10, 0, link, last]))


def route(number: int, *hops: Hop, length: int = 24) -> Route:
    prefix = (number << (32 - length)).to_bytes(4, "big") + bytes([length])
    return Route(prefix, RouteKind.UNICAST, hops or (hop(7),))


class Joined:
    """The three ends; `settle` lets everything arrive."""

    def __init__(self, max_routes: int = 0) -> None:
        self.client = Outbox("r1")
        self.relay = Relay(ROUTER, max_routes)
        self.app = Inbox()
        self.answers: list[Message] = []
        self.to_app: list[Message] = []
        self.opened = False
        self.app_is_there = True

    def connect(self) -> None:
        self.relay.connected()
        self.client.restart()

    def settle(self) -> None:
        while self.client.pending:
            for message in self.client.take():
                assert isinstance(message, Begin | Update | End)
                self.answers += self.relay.receive(message)
        if self.relay.begun and not self.opened:
            self.opened = True
            if self.app_is_there:
                self.relay.restart()
        self.deliver()

    def deliver(self) -> None:
        while self.relay.pending:
            for message in self.relay.take():
                assert isinstance(message, Begin | Update | End)
                self.to_app.append(message)
                self.app.receive(message)

    def put(self, *facts: Fact) -> None:
        for fact in facts:
            self.client.put(fact)

    def seen(self) -> dict[Key, Fact]:
        return dict(self.app.facts)

    def acks(self) -> list[Ack]:
        found = [message for message in self.answers if isinstance(message, Ack)]
        self.answers = []
        return found


@pytest.fixture
def joined() -> Joined:
    joined = Joined()
    joined.put(*LINKS)
    joined.connect()
    joined.settle()
    return joined


def test_links_become_numbers_and_the_rest_is_left_out(joined: Joined) -> None:
    joined.put(
        Address(7, bytes([10, 0, 7, 1, 24])),
        Address(2, bytes([10, 0, 2, 1, 24])),
        Neighbor(9, bytes([10, 0, 9, 2]), MACS[3]),
        Neighbor(2, bytes([10, 0, 2, 2]), MACS[3]),
        route(1, hop(7)),
        route(2, hop(2)),
        route(3, hop(7), hop(9)),
        Route(route(4).prefix, RouteKind.BLACKHOLE),
    )
    joined.settle()
    expected: list[Fact] = [
        Link(1, "eth1", MACS[1], 1500, True),
        Link(2, "eth2", MACS[2], 1400, False),
        Address(1, bytes([10, 0, 7, 1, 24])),
        Neighbor(2, bytes([10, 0, 9, 2]), MACS[3]),
        route(1, Hop(1, hop(7).gateway)),
        route(2, Hop(0, hop(2).gateway)),
        route(3, Hop(1, hop(7).gateway), Hop(2, hop(9).gateway)),
        Route(route(4).prefix, RouteKind.BLACKHOLE),
    ]
    assert joined.seen() == {(fact.KIND, fact.key): fact for fact in expected}
    assert joined.app.in_sync


def test_a_route_that_needs_no_rewriting_is_not_copied(joined: Joined) -> None:
    joined.put(Link(1, "eth9", MACS[1], 1500, True))  # the lowest index with this address
    joined.settle()
    joined.put(route(1, hop(1)))
    joined.settle()
    kept = joined.relay.outbox.facts.of(Route.KIND)[route(1).prefix]
    assert any(kept is fact for fact in joined.relay._inbox.facts.of(Route.KIND).values())


def test_of_links_with_one_address_the_lowest_counts(joined: Joined) -> None:
    joined.put(Link(11, "vlan7", MACS[1], 1500, True), route(1, hop(11)), route(2, hop(7)))
    joined.settle()
    assert joined.seen()[Route.KIND, route(1).prefix] == route(1, Hop(0, hop(11).gateway))
    assert joined.seen()[Route.KIND, route(2).prefix] == route(2, Hop(1, hop(7).gateway))


def test_a_link_that_goes_takes_its_number_along(joined: Joined) -> None:
    joined.put(Address(7, bytes([10, 0, 7, 1, 24])), route(1, hop(7)))
    joined.settle()
    joined.client.drop(Link.KIND, LINKS[1].key)
    joined.settle()
    assert joined.seen() == {
        (Link.KIND, (2).to_bytes(4, "big")): Link(2, "eth2", MACS[2], 1400, False),
        (Route.KIND, route(1).prefix): route(1, Hop(0, hop(7).gateway)),
    }


def test_the_scope_is_complete_when_the_snapshot_is() -> None:
    joined = Joined()
    joined.put(*LINKS, *(route(n) for n in range(10)))
    joined.connect()
    messages = joined.client.take()
    assert isinstance(messages[-1], End)
    for message in messages[:-1]:
        assert isinstance(message, Begin | Update)
        joined.relay.receive(message)
    joined.relay.restart()
    joined.deliver()
    assert isinstance(joined.to_app[0], Begin)
    assert not joined.app.in_sync
    joined.relay.receive(messages[-1])
    joined.deliver()
    assert joined.app.in_sync
    assert len(joined.app.facts) == 12


def test_a_client_that_connects_again_causes_only_what_differs(joined: Joined) -> None:
    joined.put(*(route(n) for n in range(100)))
    joined.settle()
    joined.to_app.clear()
    for end in (joined.client,):
        end.drop(Route.KIND, route(5).prefix)
        end.put(route(6, hop(9)))
    joined.connect()
    joined.settle()
    assert joined.app.in_sync
    upserts = [fact for message in joined.to_app if isinstance(message, Update) for fact in message.upserts]
    gone = [key for message in joined.to_app if isinstance(message, Update) for key in message.withdrawals]
    assert upserts == [route(6, Hop(2, hop(9).gateway))]
    assert gone == [(Route.KIND, route(5).prefix)]


def test_an_app_that_connects_again_hears_everything(joined: Joined) -> None:
    joined.put(*(route(n) for n in range(100)))
    joined.settle()
    before = joined.seen()
    joined.relay.stop()
    joined.client.drop(Route.KIND, route(5).prefix)
    joined.settle()
    joined.app = Inbox()
    joined.relay.restart()
    joined.deliver()
    assert joined.app.in_sync
    assert joined.seen() == {key: fact for key, fact in before.items() if key != (Route.KIND, route(5).prefix)}


def test_installed_reaches_the_client_in_its_own_numbers(joined: Joined) -> None:
    joined.answers = joined.relay.installed(Ack("r1", joined.app.seq))
    assert joined.acks() == [Ack("r1", joined.client.last_seq)]
    for number in range(3):
        joined.put(route(number))
        joined.settle()
    assert joined.acks() == []
    joined.answers = joined.relay.installed(Ack("r1", joined.app.seq, shed=4))
    assert joined.acks() == [Ack("r1", joined.client.last_seq, shed=4)]


def test_what_does_not_concern_the_app_is_acknowledged_at_once(joined: Joined) -> None:
    joined.relay.installed(Ack("r1", joined.app.seq))
    joined.put(Neighbor(2, bytes([10, 0, 2, 2]), MACS[3]))
    joined.settle()
    assert joined.acks() == [Ack("r1", joined.client.last_seq)]


def test_nothing_is_acknowledged_without_the_app() -> None:
    joined = Joined()
    joined.app_is_there = False
    joined.put(*LINKS)
    joined.connect()
    joined.settle()
    joined.put(Neighbor(2, bytes([10, 0, 2, 2]), MACS[3]))
    joined.settle()
    assert joined.acks() == []


def test_the_cap_holds_against_a_client_that_ignores_it() -> None:
    joined = Joined(max_routes=10)
    joined.put(*LINKS, *(route(n, length=24) for n in range(20)), *(route(n, length=25) for n in range(100, 106)))
    joined.put(ShedRoutes(3))
    joined.connect()
    joined.settle()
    routes = [fact for fact in joined.seen().values() if isinstance(fact, Route)]
    assert len(routes) == 10
    assert sum(fact.prefix[-1] == 25 for fact in routes) == 6
    assert joined.seen()[ShedRoutes.KIND, b""] == ShedRoutes(16 + 3)
    for number in range(17):
        joined.client.drop(Route.KIND, route(number).prefix)
    joined.client.drop(ShedRoutes.KIND, b"")
    joined.settle()
    assert (ShedRoutes.KIND, b"") not in joined.seen()
    assert sum(isinstance(fact, Route) for fact in joined.seen().values()) == 9


def test_far_too_many_facts_end_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "MIN_BOUND", 20)
    joined = Joined(max_routes=10)
    joined.put(*(route(n) for n in range(41)))
    joined.connect()
    with pytest.raises(RemoteProtocolError, match="more than 40 facts; the cap is 10 routes"):
        joined.settle()


def test_a_refused_fact_is_a_problem_and_the_others_go_on(joined: Joined) -> None:
    joined.put(route(1), Neighbor(7, bytes([10, 0, 7, 2]), b"\xaa" * 6), route(2))
    joined.settle()
    assert Problem("r1", "refused: the announcement's MAC address") in joined.answers
    assert {key for kind, key in joined.seen() if kind == Route.KIND} == {route(1).prefix, route(2).prefix}


def test_a_new_definition_is_told_as_a_difference(joined: Joined) -> None:
    joined.put(route(1, hop(7)), route(2, hop(9)), Address(9, bytes([10, 0, 9, 1, 24])))
    joined.settle()
    joined.to_app.clear()
    swapped = Machine("r1", MachineKind.ROUTER, (Interface(1, "a", MACS[2]),))
    joined.relay.redefine(swapped, 1)
    joined.deliver()
    assert joined.seen() == {
        (Link.KIND, (1).to_bytes(4, "big")): Link(1, "eth2", MACS[2], 1400, False),
        (Address.KIND, (1).to_bytes(4, "big") + bytes([10, 0, 9, 1, 24])): Address(1, bytes([10, 0, 9, 1, 24])),
        (Route.KIND, route(2).prefix): route(2, Hop(1, hop(9).gateway)),
        (ShedRoutes.KIND, b""): ShedRoutes(1),
    }
    assert not any(isinstance(message, Begin | Close) for message in joined.to_app)
    joined.put(route(3, hop(9), length=25))
    joined.settle()
    assert (Route.KIND, route(3, length=25).prefix) in joined.seen()


def random_fact(chance: random.Random) -> Fact:
    link = chance.choice([2, 7, 9, 11])
    choice = chance.randrange(6)
    if choice == 0:
        return Link(link, f"eth{link}", chance.choice(MACS), 1500, chance.random() < 0.5)
    if choice == 1:
        return Neighbor(link, bytes([10, 0, link, chance.randrange(1, 9)]), chance.choice(MACS[1:]))
    if choice == 2:
        return Address(link, bytes([10, 0, link, chance.randrange(1, 9), 24]))
    hops = tuple(hop(n) for n in sorted(chance.sample([2, 7, 9, 11], chance.randrange(1, 4))))
    return route(chance.randrange(40), *hops, length=chance.choice([20, 24, 28]))


@pytest.mark.parametrize("seed", range(30))
def test_any_history_ends_as_a_fresh_start_would(seed: int) -> None:
    chance = random.Random(seed)
    cap = chance.choice([0, 3, 12])
    joined = Joined(cap)
    joined.put(*(random_fact(chance) for _ in range(20)))
    joined.connect()
    joined.settle()
    for _ in range(60):
        event = chance.random()
        if event < 0.05:
            joined.connect()
        elif event < 0.1:
            joined.relay.stop()
            joined.relay.restart()
        elif event < 0.4 and len(joined.client.facts):
            joined.client.drop(*chance.choice(list(joined.client.facts)))
        else:
            joined.put(random_fact(chance))
        if chance.random() < 0.5:
            joined.settle()
    joined.settle()
    fresh = Joined(cap)
    fresh.put(*joined.client.facts.values())
    fresh.connect()
    fresh.settle()
    assert joined.seen() == fresh.seen()
    assert joined.app.in_sync
    joined.answers = joined.relay.installed(Ack("r1", joined.app.seq))
    assert [ack.seq for ack in joined.acks()] in ([], [joined.client.last_seq])

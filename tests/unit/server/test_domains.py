"""Whose a MAC address is: phases after each other, two machines with one address, what snapshots leave out."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow_server.domains import Domain, Domains, Ended, Lost, Phase, Saying, Seen, Snapshot

M1, M2 = (bytes([2, 0, 0, 0, 0, number]) for number in (1, 2))
A = Domain("a", "r1", frozenset({M1}))
B = Domain("b", "r2", frozenset({M1, M2}))
INCOMING, LEAVING = (dataclasses.replace(A, phase=phase) for phase in (Phase.INCOMING, Phase.LEAVING))


def after(*sayings: Saying) -> Domains:
    domains = Domains()
    for saying in sayings:
        domains.take(saying)
    return domains


@pytest.mark.parametrize(
    ("sayings", "runs", "moved"),
    [
        ([Seen(A)], True, False),
        ([Seen(INCOMING)], False, False),
        ([Seen(INCOMING), Seen(A)], True, False),
        ([Seen(INCOMING), Ended("a", moved=False)], False, False),
        ([Seen(INCOMING), Ended("a", moved=True)], False, False),  # it never ran here
        ([Seen(INCOMING), Snapshot(())], False, False),
        ([Seen(INCOMING), Seen(LEAVING)], False, False),
        ([Seen(A), Seen(INCOMING)], True, False),
        ([Seen(A), Seen(LEAVING)], True, False),
        ([Seen(A), Seen(LEAVING), Seen(A)], True, False),  # the move has failed: it came back
        ([Seen(A), Seen(LEAVING), Ended("a", moved=True)], False, True),
        ([Seen(A), Ended("a", moved=True)], False, True),
        ([Seen(A), Ended("a", moved=False)], False, False),
        ([Seen(A), Seen(LEAVING), Ended("a", moved=False)], False, False),
        ([Seen(A), Ended("a", moved=True), Seen(A)], True, False),
        ([Seen(A), Ended("a", moved=True), Seen(INCOMING)], False, True),
        ([Seen(A), Lost("gone")], True, False),
        ([Seen(A), Lost("gone"), Snapshot(())], False, False),
        ([Seen(A), Lost("gone"), Snapshot((), frozenset({"a"}))], False, True),
        ([Seen(A), Seen(LEAVING), Lost("gone"), Snapshot(())], False, True),
        ([Seen(A), Seen(LEAVING), Lost("gone"), Snapshot((A,))], True, False),
        ([Snapshot((), frozenset({"a"}))], False, False),  # it left before anybody looked
    ],
)
def test_where_a_machine_is(sayings: list[Saying], runs: bool, moved: bool) -> None:
    domains = after(*sayings)
    assert (M1 in domains.owners, M1 in domains.moved) == (runs, moved)
    again = after(*itertools.chain.from_iterable((saying, saying) for saying in sayings))
    assert (again.owners, again.moved) == (domains.owners, domains.moved)


def test_a_machine_created_again_with_the_same_address_keeps_it_when_the_old_one_is_told_to_have_ended() -> None:
    fresh = dataclasses.replace(A, uuid="c")
    for end in (Ended("a", moved=False), Ended("a", moved=True)):
        domains = after(Seen(A), Seen(fresh), end)
        assert domains.owners == {M1: "c"}
        assert not domains.moved
        assert not domains.conflicts()


def test_the_second_machine_with_an_address_is_refused_until_the_first_is_gone() -> None:
    domains = after(Seen(A), Seen(B))
    assert domains.owners == {M1: "a", M2: "b"}
    assert domains.conflicts() == {M1: ("b",)}
    domains.take(Snapshot((B, A)))
    assert domains.owners == {M1: "a", M2: "b"}
    domains.take(Ended("a", moved=False))
    assert domains.owners == {M1: "b", M2: "b"}
    assert not domains.conflicts()


def test_of_two_that_were_there_before_us_neither_gets_the_address() -> None:
    domains = after(Snapshot((A, B)))
    assert domains.owners == {M2: "b"}
    assert domains.conflicts() == {M1: ("a", "b")}


def test_a_machine_on_its_way_here_takes_no_address_from_one_that_runs() -> None:
    arriving = dataclasses.replace(B, phase=Phase.INCOMING)
    domains = after(Seen(arriving), Seen(A))
    assert domains.owners == {M1: "a"}
    domains.take(Seen(B))
    assert domains.owners == {M1: "a", M2: "b"}


def test_renamed_and_replugged() -> None:
    domains = after(Seen(A), Seen(Domain("a", "renamed", frozenset({M2}))))
    assert domains.owners == {M2: "a"}
    assert domains.name("a") == "renamed"
    assert not domains.moved


DOMAIN = st.builds(
    Domain,
    st.sampled_from("abc"),
    st.just("n"),
    st.frozensets(st.sampled_from([M1, M2])),
    st.sampled_from(Phase),
)
SAYING = st.one_of(
    st.builds(Seen, DOMAIN),
    st.builds(Ended, st.sampled_from("abc"), st.booleans()),
    st.builds(Lost, st.just("")),
    st.builds(Snapshot, st.lists(DOMAIN, unique_by=lambda d: d.uuid).map(tuple), st.frozensets(st.sampled_from("abc"))),
)


@given(st.lists(SAYING), st.lists(DOMAIN, unique_by=lambda domain: domain.uuid))
def test_whatever_was_said_a_snapshot_tells_who_may_own_what(sayings: list[Saying], present: list[Domain]) -> None:
    domains = after(*sayings, Snapshot(tuple(present)))
    by_uuid = {domain.uuid: domain for domain in present}
    for mac, uuid in domains.owners.items():
        assert mac in by_uuid[uuid].macs
    claimed = {mac for domain in present if domain.phase is Phase.RUNNING for mac in domain.macs}
    refused = {uuid for uuids in domains.conflicts().values() for uuid in uuids}
    assert claimed <= domains.owners.keys() | set(domains.conflicts())
    assert not domains.moved & domains.owners.keys()
    assert refused <= by_uuid.keys()

"""Exact flows: whatever comes and goes, each does what the longest match of its destination says."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.app.network import mac
from xenflow.model import Fact, Hop, Interface, Key, Machine, MachineKind, Prefix, Route, RouteKind
from xenflow.replica import Change
from xenflow_app import routing
from xenflow_app.flowtable import FlowKey, FlowTable
from xenflow_app.openflow import actions
from xenflow_app.router import Place, Router
from xenflow_app.settings import Reactive

ADDRESSES = [bytes([10, 0, 0, last]) for last in range(8)] + [bytes(15) + bytes([last]) for last in range(8)]
PREFIXES = [
    address[:-1] + bytes([address[-1] >> spare << spare, len(address) * 8 - spare])
    for address in ADDRESSES
    for spare in range(4)
]
HOPS = [(Hop(1, bytes([10, 9, 0, number])),) for number in (1, 2)]

routes = st.builds(Route, st.sampled_from(PREFIXES), st.just(RouteKind.UNICAST), st.sampled_from(HOPS))
steps = st.lists(routes | st.sampled_from(PREFIXES) | st.integers(0, len(ADDRESSES) - 1), max_size=40)


def make(max_flows: int = 1000) -> Router:
    flows = FlowTable()
    flows.resync({}, lambda _: True)
    machine = Machine("r", MachineKind.ROUTER, (Interface(1, "lan", mac(1)),), max_flows)
    router = Router(7, machine, Place(flows, {1: 10}), Reactive())
    router.plan()
    return router


def arrive(router: Router, destination: bytes) -> FlowKey | None:
    assert router.exact is not None
    source = destination[:-1] + b"\x99"
    return router.exact.first(routing.Packet(101, 10, mac(5), mac(1), source, destination, 0))


def report(router: Router, *facts: Fact, gone: tuple[Prefix, ...] = ()) -> None:
    withdrawals: list[Key] = [(Route.KIND, prefix) for prefix in gone]
    router.apply(Change(upserts=list(facts), withdrawals=withdrawals))


@given(steps)
def test_each_does_what_the_table_says(steps: list[Route | Prefix | int]) -> None:
    """Numbers are packets: the first to a destination makes its flow, the next one is the end of its idle time."""
    router = make()
    assert router.exact is not None
    flows: dict[FlowKey, bytes] = {}
    for step in steps:
        if isinstance(step, Route):
            report(router, step)
        elif isinstance(step, bytes):
            report(router, gone=(step,))
        else:
            destination = ADDRESSES[step]
            known = next((key for key, whose in flows.items() if whose == destination), None)
            if known is None:
                key = arrive(router, destination)
                assert key is not None
                flows[key] = destination
            else:
                router.exact.aged(known)
                del flows[known]
        assert router.exact.count == len(flows)
        for key, destination in flows.items():
            wanted = router.value_for(router.rib.lookup(destination))
            size = actions.VALUE_HEAD.size
            assert router.flows.desired[key][size:] == wanted[size:]


def test_above_the_cap_the_vm_forwards_until_there_is_room() -> None:
    router = make(max_flows=2)
    assert router.exact is not None
    wildcard = next(iter(routing.wildcard(7, reactive=True)))
    first, second = (arrive(router, address) for address in ADDRESSES[:2])
    assert first is not None
    assert second is not None
    assert arrive(router, ADDRESSES[2]) is None
    assert wildcard in router.flows.desired
    assert router.shed == 1
    router.exact.aged(first)
    assert wildcard not in router.flows.desired
    assert arrive(router, ADDRESSES[2]) is not None


def test_a_change_costs_the_same_with_many_exact_flows() -> None:
    router = make(max_flows=20_000)
    for number in range(10_000):
        arrive(router, bytes([10, 1]) + number.to_bytes(2, "big"))
    begin = time.perf_counter()
    for number in range(500):
        report(router, Route(bytes([10, 2, number % 256, 0, 24]), RouteKind.UNICAST, HOPS[number % 2]))
    assert (time.perf_counter() - begin) / 500 < 0.0005  # going through all of them takes several times as long

"""Any state may follow any state: what the events told equals what a fresh look shows, whatever happened before."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.kernel import FakeKernel, FakeSocket, RefusedError
from xenflow.model import Fact, Key
from xenflow_client.neighbors import Upkeep
from xenflow_client.observer import Observer
from xenflow_client.resync import Resync
from xenflow_client.show import Shown

LINKS = {"a0": "10.0.1", "b0": "10.0.2"}
ROUTES = [
    f"{family}route {verb} {kind}{prefix} {way}{metric}".strip()
    for verb in ("add", "append", "replace", "del")
    for family, prefix, ways in (
        ("", "10.9.0.0/16", ("via 10.0.1.2", "via 10.0.2.2", "nexthop via 10.0.1.2 nexthop via 10.0.2.2 weight 2")),
        ("-6 ", "fd09::/16", ("via fd00:1::2", "via fd00:2::2", "nexthop via fd00:1::2 nexthop via fd00:2::2")),
    )
    for kind, way in (*(("", way) for way in ways), ("blackhole ", ""))
    for metric in (" metric 10", " metric 20")
]
OTHERS = [
    *(f"link set {name} {state}" for name in LINKS for state in ("up", "down", "carrier on", "carrier off")),
    *(f"addr {verb} {net}.1/24 dev {name}" for name, net in LINKS.items() for verb in ("add", "del")),
    *(
        f"-6 addr {verb} fd00:{number}::1/64 dev {name}"
        for number, name in ((1, "a0"), (2, "b0"))
        for verb in ("add", "del")
    ),
    "addr add 10.255.0.1/32 dev lo",
    "addr del 10.255.0.1/32 dev lo",
    "neigh replace 10.0.1.2 lladdr 02:00:00:00:01:02 dev a0 nud stale",
    "neigh replace 10.0.1.2 lladdr 02:00:00:00:01:09 dev a0 nud permanent",
    "neigh del 10.0.1.2 dev a0",
    "link del b0",
]
STEPS = st.lists(
    st.one_of(st.sampled_from(ROUTES), st.sampled_from(OTHERS), st.sampled_from(["lose events", "look"])), max_size=40
)


class Client:
    """The core on a socket of the model; time passes only as far as it is needed."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.socket: FakeSocket = kernel.connect()
        self.shown = Shown(lambda line: None, as_json=False)
        self.resync = Resync(interval_s=1e9)
        self.observer = Observer(self.shown, Upkeep(refresh_s=0, resolve=False), self.resync)
        self.now = 0.0
        self.catch_up()

    def catch_up(self) -> None:
        """Go on until nothing is left to read and no dump is wanted."""
        while True:
            self._read()
            deadline = self.observer.next_deadline()
            if self.observer.ready and deadline > 1e8:
                return
            self.now = max(self.now, deadline if self.resync.dumping is None else self.now)
            for request in self.observer.tick(self.now):
                self.kernel.request(request, self.socket)

    def _read(self) -> None:
        try:
            while (data := self.socket.receive()) is not None:
                self.observer.receive(data, self.now)
                self.observer.settle(self.now)
        except OSError:
            self.observer.lost(self.now)

    @property
    def facts(self) -> dict[Key, Fact]:
        return self.shown.facts


def build() -> FakeKernel:
    kernel = FakeKernel()
    for number, (name, net) in enumerate(LINKS.items(), start=1):
        kernel.ip(f"link add {name} index {9 + number} address 02:00:00:00:00:0{number}")
        kernel.ip(f"link set {name} up")
        kernel.ip(f"addr add {net}.1/24 dev {name}")
        kernel.ip(f"-6 addr add fd00:{number}::1/64 dev {name}")
    return kernel


def change(kernel: FakeKernel, command: str) -> None:
    with contextlib.suppress(RefusedError):  # as ip(8) would say; nothing has happened
        kernel.ip(command)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_events_and_a_fresh_look_agree(steps: list[str]) -> None:
    kernel = build()
    client = Client(kernel)
    for step in steps:
        if step == "lose events":
            client.socket.lose_events()
        elif step == "look":
            client.catch_up()
        else:
            change(kernel, step)
    client.catch_up()
    assert client.facts == Client(kernel).facts
    mirror, fresh = client.observer.kernel, Client(kernel).observer.kernel
    assert mirror.ipv4.routes == fresh.ipv4.routes
    assert mirror.ipv6.routes == fresh.ipv6.routes
    assert mirror.ipv4.candidates == fresh.ipv4.candidates


@given(st.lists(st.sampled_from(ROUTES), max_size=30), st.lists(st.sampled_from(ROUTES), max_size=10))
@settings(max_examples=200, deadline=None)
def test_changes_while_a_dump_runs(before: list[str], during: list[str]) -> None:
    kernel = build()
    for command in before:
        change(kernel, command)
    client = Client(kernel)
    client.observer.lost(client.now)
    client.now += 10
    for command in during:
        for request in client.observer.tick(client.now):
            kernel.request(request, client.socket)
        change(kernel, command)
        if (data := client.socket.receive()) is not None:
            client.observer.receive(data, client.now)
    client.catch_up()
    assert client.facts == Client(kernel).facts


def test_what_vanished_while_events_were_lost_is_withdrawn_only_when_the_dump_is_complete() -> None:
    kernel = build()
    kernel.ip("route add 10.9.0.0/16 via 10.0.1.2")
    client = Client(kernel)
    known = len(client.facts)
    kernel.ip("route del 10.9.0.0/16")
    client.socket.lose_events()
    with pytest.raises(OSError):
        client.socket.receive()
    client.observer.lost(client.now)
    assert len(client.facts) == known
    client.catch_up()
    assert len(client.facts) == known - 1


def test_a_link_event_costs_what_it_concerns() -> None:
    kernel = build()
    for number in range(200):
        kernel.ip(f"route add 10.20.{number}.0/24 via 10.0.1.2")
    client = Client(kernel)
    decided = []
    settle = client.observer.kernel.settle
    kernel.ip("link set b0 mtu 1400")
    kernel.ip("link set b0 carrier off")
    while (data := client.socket.receive()) is not None:
        client.observer.receive(data, client.now)
        decided.append(settle())
    assert sum(decided) <= 2

"""Processor and memory: what is asked for when, and how the numbers of control groups stand for weight and cap."""

from __future__ import annotations

import asyncio
import dataclasses

import msgspec
import pytest

from tests.fakes.machines import FakeMachine, FakeMachines
from tests.unit.server.test_asked import MACS, R1, VIFS, A, B, domain, vif
from tests.unit.server.test_inventory import DEFINED
from xenflow.errors import RemoteProtocolError
from xenflow.model import Alarm
from xenflow.resources import Granted, Resources
from xenflow_server.definitions import Definitions
from xenflow_server.domains import Ended, Lost, Phase, Seen, Snapshot
from xenflow_server.granting import AGAIN_S, LOOK_S, Grant, Granting, Wish, fit
from xenflow_server.node import MAX_ALARMS, NodeScope
from xenflow_server.resourcing import InThread, Resourcing
from xenflow_server.scheduling import CGROUP_1, CGROUP_2, PERIOD_US, cap_of, quota_of
from xenflow_server.view import BridgeView, PortView
from xenflow_server.xl_machine import parse_row, parse_share

WANTED = Resources(128, 2, 512, 150)
GOOD = Grant(WANTED)
PATIENCE_S = 20.0


def test_only_what_differs_is_changed() -> None:
    machine = FakeMachine()
    assert fit(machine, WANTED) == GOOD
    assert machine.changes == 4
    assert fit(machine, WANTED) == GOOD
    assert machine.changes == 4, "applied twice is as applied once"
    assert fit(machine, Resources(vcpus=1)).has == msgspec.structs.replace(WANTED, vcpus=1)
    assert machine.changes == 5


def test_what_is_refused_or_not_followed_is_said_and_the_rest_goes_on() -> None:
    machine = FakeMachine(most_mib=100, scheduler=False)
    grant = fit(machine, WANTED)
    assert grant.has == Resources(256, 2)
    assert [text.partition(" = ")[0] for text in grant.problems] == ["memory_mib", "cpu_weight", "cpu_cap"]
    assert "cannot have more than 100" in grant.problems[0]
    assert fit(FakeMachine(follows=False), Resources(memory_mib=128)).problems == (
        "memory_mib = 128: the guest has not followed (yet): it has 256",
    )


def test_memory_may_differ_by_what_a_hypervisor_counts_for_itself() -> None:
    assert not fit(FakeMachine(has={"memory_mib": 255, "vcpus": 1}), Resources(memory_mib=256)).problems


@pytest.mark.parametrize("scale", [CGROUP_1, CGROUP_2])
@pytest.mark.parametrize("weight", [1, 2, 77, 256, 512, 1024, 20000, 65535])
def test_shares(scale: object, weight: int) -> None:
    assert scale in (CGROUP_1, CGROUP_2)
    shares = CGROUP_1 if scale is CGROUP_1 else CGROUP_2
    native = shares.of(weight)
    assert shares.least <= native <= shares.most
    assert shares.of(shares.weight(native)) == native, "what is read back stands for the same"
    assert shares.of(256) == shares.default
    assert shares.weight(shares.default) == 256


@pytest.mark.parametrize("cap", [0, 1, 50, 100, 150, 400, 65535])
def test_quota(cap: int) -> None:
    assert cap_of(quota_of(cap, PERIOD_US), PERIOD_US) == cap


def test_a_tenth_of_a_period_is_not_below_what_the_kernel_takes() -> None:
    assert quota_of(1, 10_000) == 1000
    assert cap_of(-1, PERIOD_US) == cap_of(0, 0) == 0


def test_what_xl_prints() -> None:
    row = "Name           ID   Mem VCPUs\tState\tTime(s)\na name 3 1     3   512     2     -b----      12.3\n"
    assert parse_row(row, 3) == (512, 2)
    share = "Cpupool Pool-0: ratelimit=1000us\nName     ID Weight  Cap\nr 1       3    256    0\n"
    assert parse_share(share, 3) == (256, 0)
    for text in ("", "garbage", row):
        with pytest.raises(RemoteProtocolError):
            parse_row(text, 4)
        with pytest.raises(RemoteProtocolError):
            parse_share(text, 4)


def wish(wanted: Resources = WANTED, name: str = "r1", uuid: str = A) -> Wish:
    return Wish(name, uuid, wanted)


def test_asked_at_once_then_now_and_then() -> None:
    granting = Granting()
    assert granting.due(0) is None
    assert granting.next_deadline() is None
    assert granting.want({"r1": wish()})
    assert granting.due(0) == wish()
    assert granting.take(wish(), GOOD, 10)
    assert not granting.want({"r1": wish()})
    assert granting.due(10) is None
    assert granting.next_deadline() == 10 + LOOK_S
    assert not granting.take(wish(), GOOD, 10 + LOOK_S), "no news"
    granting.again()
    assert granting.due(11 + LOOK_S) == wish()


def test_asked_again_soon_if_it_has_not_got_it_and_later_and_later() -> None:
    granting, now = Granting(), 0.0
    granting.want({"r1": wish()})
    bad = Grant(Resources(), ("vcpus = 2: no",))
    for pause_s in (*AGAIN_S, LOOK_S, LOOK_S):
        granting.take(wish(), bad, now)
        assert granting.next_deadline() == now + pause_s
        now += pause_s
    assert granting.problems() == ["router r1: vcpus = 2: no"]
    granting.take(wish(), GOOD, now)
    assert granting.problems() == []


def test_a_wish_that_changes_while_it_is_asked_for() -> None:
    granting = Granting()
    granting.want({"r1": wish()})
    other = wish(Resources(vcpus=1))
    granting.want({"r1": other})
    assert not granting.take(wish(), GOOD, 0)
    assert granting.due(0) == other
    granting.want({})
    assert granting.due(0) is None
    assert granting.facts() == []
    assert not granting.take(other, GOOD, 0)


class Node:
    """The node's own scope, with a router that wants resources."""

    def __init__(self, *, asks: bool = True) -> None:
        machines = {**DEFINED.machines, "r1": msgspec.structs.replace(R1, resources=WANTED)}
        self.definitions = Definitions(DEFINED.networks, DEFINED.ports, machines)
        self.scope = NodeScope(self.definitions, 0, asks=asks)
        self.bridge(*VIFS)

    def bridge(self, *ports: PortView) -> None:
        self.scope.observe(BridgeView("xenbr0", 1, "netdev", ports))

    def facts(self, kind: type) -> list[object]:
        self.scope.restart()
        sent = [fact for message in self.scope.take() for fact in getattr(message, "upserts", [])]
        self.scope.stop()
        return [fact for fact in sent if isinstance(fact, kind)]


@pytest.mark.parametrize(
    "appears", [Snapshot((domain(),)), Seen(domain())], ids=["at the start of the server", "when it appears"]
)
def test_wanted_when_the_machine_is_there(appears: Snapshot | Seen) -> None:
    node = Node()
    node.scope.learn(Snapshot(()))
    node.scope.learn(appears)
    assert node.scope.granting.due(0) == wish()
    node.scope.granting.take(wish(), Grant(Resources(64, 2, 512, 150), ("memory_mib = 128: no",)), 0)
    node.scope.granted()
    assert node.facts(Granted) == [Granted("r1", Resources(64, 2, 512, 150), ("memory_mib = 128: no",))]
    assert node.facts(Alarm) == [Alarm("router r1: memory_mib = 128: no")]
    node.scope.learn(Ended(A, moved=True))
    assert node.facts(Granted) == node.facts(Alarm) == []


def test_not_while_it_comes_or_goes_and_again_after_the_hypervisor_was_away() -> None:
    node = Node()
    node.scope.learn(Snapshot(()))
    node.scope.learn(Seen(domain(phase=Phase.INCOMING)))
    assert node.scope.granting.due(0) is None
    node.scope.learn(Seen(domain()))
    assert node.scope.granting.due(0) == wish()
    node.scope.granting.take(wish(), GOOD, 0)
    node.scope.learn(Seen(domain(phase=Phase.LEAVING)))
    assert node.scope.granting.next_deadline() is None
    node.scope.learn(Seen(domain()))
    node.scope.granting.take(wish(), GOOD, 0)
    node.scope.learn(Lost("killed"))
    assert node.scope.granting.due(0) is None
    node.scope.learn(Snapshot((domain(),)))
    assert node.scope.granting.due(0) == wish()


def test_a_changed_definition_is_wanted_at_once() -> None:
    node = Node()
    node.scope.learn(Snapshot((domain(),)))
    node.scope.granting.take(wish(), GOOD, 0)
    node.scope.redefine(DEFINED)
    assert node.scope.granting.due(0) == wish(Resources()), "nothing wanted: looked at only"


def test_nobody_to_ask_is_an_alarm() -> None:
    node = Node(asks=False)
    (alarm,) = node.facts(Alarm)
    assert isinstance(alarm, Alarm)
    assert alarm.text.startswith("router r1: memory_mib, vcpus, cpu_weight, cpu_cap not applied")


def test_two_machines_with_one_address_are_an_alarm_until_one_goes() -> None:
    node = Node()
    node.scope.learn(Snapshot((domain(),)))
    assert node.facts(Alarm) == []
    node.scope.learn(Seen(domain(B)))
    node.bridge(*VIFS, vif(9, next(iter(MACS)), B))
    said = [alarm.text for alarm in node.facts(Alarm) if isinstance(alarm, Alarm)]
    assert [f"refused to vm-b ({B})" in text for text in said].count(True) == len(MACS)
    assert any(text.startswith("port vif9: has the MAC address of machine vm-a") for text in said)
    node.scope.learn(Ended(B, moved=False))
    node.bridge(*VIFS)
    assert node.facts(Alarm) == []


def test_a_definition_that_cannot_be_used_is_an_alarm() -> None:
    node = Node(asks=False)
    node.scope.redefine(dataclasses.replace(DEFINED, handed={"r1": 4, "r8": 0}))
    assert [alarm.text.partition(":")[0] for alarm in node.facts(Alarm) if isinstance(alarm, Alarm)] == ["router r8"]


def test_alarms_are_bounded() -> None:
    node = Node(asks=False)
    node.bridge(*(PortView(f"p{number}", number, error="x" * 2000) for number in range(1, 200)))
    alarms = [alarm.text for alarm in node.facts(Alarm) if isinstance(alarm, Alarm)]
    assert len(alarms) == MAX_ALARMS + 1
    assert max(map(len, alarms)) == 512
    assert any("problems more" in text for text in alarms)


def test_the_loop_asks_and_tells() -> None:
    machines = FakeMachines({A: FakeMachine()})
    machines.answers = False

    async def story() -> None:
        granting, told = Granting(), asyncio.Event()
        resourcing = Resourcing(granting, InThread(machines.find), told.set)
        task = asyncio.create_task(resourcing.run())
        async with asyncio.timeout(PATIENCE_S):
            granting.want({"r1": wish()})
            resourcing.wake()
            await told.wait()
            assert granting.problems() == ["router r1: processor and memory: the hypervisor does not answer"]
            told.clear()
            machines.answers = True
            granting.again()
            resourcing.wake()
            await told.wait()
        assert granting.facts() == [Granted("r1", WANTED)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())

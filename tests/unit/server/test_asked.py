"""A node whose hypervisor is asked: machines and vifs come and go in any order, and neither alone decides."""

from __future__ import annotations

import logging

import pytest

from tests.unit.server.test_inventory import DEFINED
from xenflow.errors import ConfigError
from xenflow.model import Machine, Port, PortKind, mac_text
from xenflow.wire import Move
from xenflow_server.domains import Domain, Ended, Lost, Phase, Seen, Snapshot
from xenflow_server.moving import plan_for
from xenflow_server.node import NodeScope
from xenflow_server.settings import HypervisorTable
from xenflow_server.view import MOVED_MARK, BridgeView, PortView

R1 = DEFINED.machines["r1"]
MACS = frozenset(interface.mac for interface in R1.interfaces)
A, B = "0a1b2c3d-0000-4000-8000-00000000000a", "0a1b2c3d-0000-4000-8000-00000000000b"


def vif(number: int, mac: bytes, uuid: str = A, **more: str) -> PortView:
    return PortView(
        f"vif{number}", number, {"attached-mac": mac_text(mac), **({"vm-id": uuid} if uuid else {}), **more}
    )


VIFS = [vif(number, mac) for number, mac in enumerate(sorted(MACS), 1)]


class Node:
    def __init__(self) -> None:
        self.scope = NodeScope(DEFINED, 0, asks=True)
        self.view = BridgeView("xenbr0", 1, "netdev")

    def bridge(self, *ports: PortView) -> None:
        before, self.view = self.view, BridgeView("xenbr0", 1, "netdev", ports)
        gone = tuple(port for port in before.ports if port.name not in {one.name for one in ports})
        self.scope.observe(BridgeView("xenbr0", 1, "netdev", ports, departed=gone))

    @property
    def runs(self) -> bool:
        return self.scope.inventory is not None and "r1" in self.scope.inventory.machines

    @property
    def vifs(self) -> list[str]:
        facts = self.scope.inventory.facts if self.scope.inventory is not None else ()
        return [fact.name for fact in facts if isinstance(fact, Port) and fact.kind is PortKind.VIF]


def domain(uuid: str = A, phase: Phase = Phase.RUNNING, macs: frozenset[bytes] = MACS) -> Domain:
    return Domain(uuid, f"vm-{uuid[-1]}", macs, phase)


@pytest.fixture
def node() -> Node:
    node = Node()
    node.bridge(*VIFS)
    assert node.scope.inventory is None, "nothing is said before the hypervisor has answered"
    node.scope.learn(Snapshot((domain(),)))
    assert node.runs
    assert node.vifs == [port.name for port in VIFS]
    return node


def test_a_hypervisor_that_does_not_answer_leaves_it_to_the_database() -> None:
    node = Node()
    node.bridge(*VIFS)
    node.scope.learn(Lost("nobody answers"))
    assert node.runs
    node.scope.learn(Snapshot(()))
    assert not node.runs
    assert not node.vifs, "the port of a machine that does not run here"


def test_what_is_known_stays_while_the_hypervisor_is_away(node: Node) -> None:
    node.scope.learn(Lost("killed"))
    node.bridge()
    assert node.runs
    node.scope.learn(Snapshot((domain(),)))
    assert node.runs
    node.scope.learn(Lost("killed"))
    node.scope.learn(Snapshot((), frozenset({A})))
    assert not node.runs
    assert node.scope.moved == {"r1"}


def test_a_vif_unplugged_while_its_machine_runs(node: Node) -> None:
    node.bridge(*VIFS[1:])
    assert node.runs
    assert node.vifs == [port.name for port in VIFS[1:]]
    node.bridge()
    assert node.runs
    assert not node.vifs
    node.bridge(*VIFS)
    assert node.vifs == [port.name for port in VIFS]


@pytest.mark.parametrize("vif_first", [True, False])
@pytest.mark.parametrize("moved", [True, False])
def test_gone_in_either_order(node: Node, vif_first: bool, moved: bool) -> None:
    if vif_first:
        node.bridge()
        assert node.runs
    node.scope.learn(Ended(A, moved))
    assert not node.runs
    assert node.scope.moved == ({"r1"} if moved else set())
    node.bridge()
    assert not node.runs
    assert node.scope.moved == ({"r1"} if moved else set())
    node.scope.learn(Seen(domain()))
    assert node.runs
    assert not node.scope.moved


def test_the_mark_of_a_vif_counts_where_the_hypervisor_cannot_say_moved(node: Node) -> None:
    node.bridge(*(vif(port.number, port.mac, A, **{MOVED_MARK: "xl"}) for port in VIFS))
    node.bridge()
    node.scope.learn(Snapshot(()))
    assert not node.runs
    assert node.scope.moved == {"r1"}


def test_a_machine_on_its_way_is_not_here_until_it_runs() -> None:
    node = Node()
    node.scope.learn(Snapshot(()))
    node.bridge(*VIFS)
    node.scope.learn(Seen(domain(phase=Phase.INCOMING)))
    assert not node.runs
    assert not node.vifs
    node.scope.learn(Seen(domain()))
    assert node.runs
    assert node.vifs == [port.name for port in VIFS]


def test_a_second_machine_with_the_address_is_refused_and_said(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    thief = vif(9, next(iter(MACS)), B)
    node.scope.learn(Seen(domain(B)))
    node.bridge(*VIFS, thief)
    assert node.vifs == [port.name for port in VIFS]
    assert f"refused to vm-b ({B})" in caplog.text
    assert "port vif9: has the MAC address of machine vm-a" in caplog.text
    node.scope.learn(Ended(A, moved=False))
    node.bridge(thief)
    assert node.vifs == ["vif9"]


def test_vifs_of_no_machine_count_by_the_database_but_not_with_a_machines_address() -> None:
    node = Node()
    node.scope.learn(Snapshot(()))
    bare = [vif(port.number, port.mac, "") for port in VIFS]
    node.bridge(*bare)
    assert node.runs
    node.scope.learn(Seen(domain()))
    assert node.runs
    assert not node.vifs


def test_the_command_that_moves_a_machine(node: Node) -> None:
    places = {"n2": "qemu+ssh://n2/system"}
    table = HypervisorTable(uri="qemu:///system", peers=places, streams={"n2": "tcp://10.0.0.2"})
    plan = plan_for(table, node.scope.machine_of)
    argv = list(plan(Move(1, "r1", "n2")))
    assert argv[1:4] == ["-m", "xenflow_server.migrate", "--hypervisor"]
    assert argv[4:] == [table.uri, "--machine", A, "--to", places["n2"], "--stream", "tcp://10.0.0.2"]
    with pytest.raises(ConfigError, match=r"set \[hypervisor.peers\] n3"):
        plan(Move(2, "r1", "n3"))
    node.scope.learn(Ended(A, moved=False))
    with pytest.raises(ConfigError, match="no machine here that has exactly its MAC addresses"):
        plan(Move(3, "r1", "n2"))
    own = plan_for(HypervisorTable(move=["/bin/migrate"], uri="xl:"), node.scope.machine_of)
    assert list(own(Move(4, "r1", "n2"))) == ["/bin/migrate", "r1", "n2"]


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        (HypervisorTable(), []),
        (HypervisorTable(uri="xen:///system", peers={"n2": "xen+ssh://n2/system"}), []),
        (HypervisorTable(uri="xl:", peers={"n2": "ssh://n2"}), []),
        (HypervisorTable(uri="qemu"), ["uri"]),
        (HypervisorTable(peers={"n2": "ssh://n2"}), ["peers"]),
        (HypervisorTable(uri="xl:", peers={"n2": "n2"}), ["peers.n2"]),
    ],
)
def test_settings(table: HypervisorTable, keys: list[str]) -> None:
    assert [key for key, _ in table.problems()] == keys


def test_definitions_used_here_are_a_routers() -> None:
    assert isinstance(R1, Machine)
    assert MACS

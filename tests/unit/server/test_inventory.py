from dataclasses import replace

import pytest

from xenflow.model import (
    Attachment,
    Bridge,
    Interface,
    Machine,
    MachineKind,
    Network,
    NodeLimits,
    Port,
    PortKind,
    mac_text,
)
from xenflow_server.definitions import Definitions, PortDefinition
from xenflow_server.hypervisor import AttachedMacs
from xenflow_server.inventory import Inventory, take
from xenflow_server.node import NodeScope
from xenflow_server.view import BFD_MARK, BFD_SETTINGS, DRAINED_MARK, BridgeView, PortView, plan_bfd, plan_marks

MACS = [bytes([2, 0, 0, 0, 0, n]) for n in range(4)]
R1 = Machine("r1", MachineKind.ROUTER, (Interface(1, "a", MACS[1]), Interface(2, "b", MACS[2])))
H1 = Machine("h1", MachineKind.HOST, (Interface(1, "a", MACS[3]),))
DEFINED = Definitions(
    {"a": 10, "b": 11},
    {"t1": PortDefinition("t1", True), "eth1": PortDefinition("eth1", False, (Attachment(0, "a"),))},
    {"r1": R1, "h1": H1},
)


def vif(name: str, number: int, mac: bytes, **ids: str) -> PortView:
    return PortView(name, number, {"attached-mac": mac_text(mac), **ids})


def observe(*ports: PortView) -> Inventory:
    view = BridgeView("xenbr0", 5, "netdev", ports)
    hypervisor = AttachedMacs()
    hypervisor.observe(view)
    return take(DEFINED, view, hypervisor.running())


def ports(inventory: Inventory) -> list[Port]:
    return [fact for fact in inventory.facts if isinstance(fact, Port)]


def test_everything_that_is_here_and_defined() -> None:
    inventory = observe(PortView("t1", 1), PortView("eth1", 2), vif("vif1.0", 3, MACS[1]), vif("vif1.1", 4, MACS[2]))
    assert set(inventory.facts) == {
        Bridge("xenbr0", 5, "netdev"),
        Network("a", 10),
        Network("b", 11),
        R1,
        Port("t1", 1, PortKind.TRUNK),
        Port("eth1", 2, PortKind.ACCESS, attachments=(Attachment(0, "a"),)),
        Port("vif1.0", 3, PortKind.VIF, machine="r1", interface=1),
        Port("vif1.1", 4, PortKind.VIF, machine="r1", interface=2),
    }
    assert inventory.trunks == {"t1"}
    assert inventory.router("r1") == R1
    assert inventory.router("h1") is None


@pytest.mark.parametrize(
    "port",
    [
        PortView("t1", 0),
        PortView("unknown", 7),
        PortView("xenbr0", 65534),
        vif("vif9.0", 7, bytes([2, 9, 9, 9, 9, 9])),
        PortView("vif9.0", 7, {"attached-mac": "nonsense"}),
        vif("vif1.0", 7, MACS[1], **{"iface-status": "inactive"}),
    ],
)
def test_what_is_not_reported(port: PortView) -> None:
    assert ports(observe(port)) == []


def test_a_machine_whose_vif_has_no_number_yet_runs_already() -> None:
    inventory = observe(vif("vif1.0", 0, MACS[1]))
    assert inventory.router("r1") == R1
    assert ports(inventory) == []


def test_of_two_ports_with_one_address_the_emulated_one_is_left_out() -> None:
    inventory = observe(vif("tap5.0", 3, MACS[1]), vif("vif5.0", 4, MACS[1]))
    assert ports(inventory) == [Port("vif5.0", 4, PortKind.VIF, machine="r1", interface=1)]
    assert "port tap5.0: has the MAC address of port vif5.0" in inventory.problems[0]


def test_a_bridge_that_is_gone_has_nothing() -> None:
    inventory = take(DEFINED, BridgeView("xenbr0", exists=False), frozenset())
    assert set(inventory.facts) == {Network("a", 10), Network("b", 11)}


def test_a_limit_of_the_node_is_told_if_there_is_one() -> None:
    scope = NodeScope(DEFINED, 0, max_routers=7)
    known = scope.observe(BridgeView("xenbr0", 5, "netdev"))
    assert known is not None
    assert NodeLimits(7) in known.facts
    assert not any(isinstance(fact, NodeLimits) for fact in observe().facts)


def test_a_bridge_that_is_not_filled_in_says_nothing() -> None:
    scope = NodeScope(DEFINED, 0)
    assert scope.observe(BridgeView("xenbr0", exists=False)) is None
    assert scope.observe(BridgeView("xenbr0", 0, "netdev", (vif("vif1.0", 3, MACS[1]),))) is None
    known = scope.observe(BridgeView("xenbr0", 5, "netdev", (vif("vif1.0", 3, MACS[1]),)))
    assert known is not None
    assert scope.observe(BridgeView("xenbr0", 0, "netdev")) is None
    assert scope.inventory == known  # ovs-vswitchd starts again: what was known stays
    gone = scope.observe(BridgeView("xenbr0", exists=False))
    assert gone is not None
    assert gone.machines == {}


def test_an_error_of_open_vswitch_is_a_problem() -> None:
    inventory = observe(PortView("t1", 0, error="could not open network device t1"))
    assert inventory.problems == ("port t1: Open vSwitch says: could not open network device t1",)


DOWN = {"forwarding": "false", "state": "down"}


STARTED_ANEW = {"diagnostic": "Neighbor Signaled Session Down", "remote_diagnostic": "No Diagnostic"}


@pytest.mark.parametrize(
    ("status", "alive"),
    [
        ({}, True),
        ({**DOWN, "flap_count": "0"}, True),
        ({"forwarding": "true", "state": "up", "flap_count": "1"}, True),
        ({**DOWN, "flap_count": "2"}, False),
        ({**DOWN, "flap_count": "2", **STARTED_ANEW}, True),
        ({**DOWN, "flap_count": "2", **STARTED_ANEW, "remote_diagnostic": "Control Detection Time Expired"}, False),
        ({**DOWN, "flap_count": "2", **STARTED_ANEW, "diagnostic": "Control Detection Time Expired"}, False),
        ({**DOWN, "flap_count": "2", "remote_state": "admin_down"}, True),
    ],
)
def test_a_trunk_is_alive(status: dict[str, str], alive: bool) -> None:
    (port,) = ports(observe(PortView("t1", 1, bfd_status=status)))
    assert port.alive is alive
    (access,) = ports(observe(PortView("eth1", 1, bfd_status=status)))
    assert access.alive


def test_a_trunk_without_carrier_is_not_alive() -> None:
    (port,) = ports(observe(PortView("t1", 1, link_state="down")))
    assert not port.alive


def test_bfd_is_planned_for_trunks_and_only_ours_is_undone() -> None:
    fresh, ours = PortView("a"), PortView("b", 0, {BFD_MARK: "true"}, BFD_SETTINGS)
    theirs = PortView("c", bfd={"enable": "true"})
    view = BridgeView("xenbr0", 5, "", (fresh, ours, theirs))
    assert plan_bfd(view, frozenset("abc")) == (["a"], [])
    assert plan_bfd(view, frozenset()) == ([], ["b"])
    spoilt = replace(view, ports=(replace(ours, bfd={"enable": "true"}),))
    assert plan_bfd(spoilt, frozenset("b")) == (["b"], [])


def test_a_marked_trunk_is_reported_as_drained_and_nothing_else_is() -> None:
    mark = {DRAINED_MARK: "true"}
    inventory = observe(PortView("t1", 1, mark), PortView("eth1", 2, mark))
    assert {port.name: port.drained for port in ports(inventory)} == {"t1": True, "eth1": False}
    inventory = observe(PortView("t1", 1, {DRAINED_MARK: "false"}))
    assert [port.drained for port in ports(inventory)] == [False]


def test_only_marks_that_differ_are_written() -> None:
    view = BridgeView("xenbr0", 5, "netdev", (PortView("t1", 1, {DRAINED_MARK: "true"}), PortView("t2", 2)))
    assert plan_marks(view, {}) == {}
    assert plan_marks(view, {"t1": True, "t2": False, "gone": True}) == {}
    assert plan_marks(view, {"t1": False, "t2": True}) == {"t1": False, "t2": True}

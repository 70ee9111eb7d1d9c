"""Who asks for a router's MAC hears of it on the kernel datapath, too, though that cannot rewrite a solicitation.

ARP is answered by the switch, as everywhere. A solicitation goes to the controller and on to the VM, so each gets one
answer or two, the same; and exactly one while the VM stands still, or while no controller is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.lab import ring, tools
from tests.lab.conftest import DATAPATH, LabFactory
from xenflow_lab.lab import Lab
from xenflow_lab.topology import Datapath

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

TOPOLOGY = """
node = [{ name = "n1" }, { name = "n2" }]
trunk = [{ between = ["n1", "n2"] }]
network = [{ name = "left", vid = 10 }]

[lab]
name = "answers"

[[router]]
name = "r1"
node = "n1"
routing = "static"
interface = [{ network = "left", addresses = ["10.0.1.1/24", "fd00:1::1/64"] }]

[[host]]
name = "h1"
node = "n1"
network = "left"
addresses = ["10.0.1.11/24", "fd00:1::11/64"]

[[host]]
name = "h2"
node = "n2"
network = "left"
addresses = ["10.0.1.12/24", "fd00:1::12/64"]
"""
TARGETS = {"arp": "10.0.1.1", "nd": "fd00:1::1"}
RATE_HZ = "10"
ASKED_S = 5.0


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    assert DATAPATH is Datapath.KERNEL
    made = make_lab(TOPOLOGY, "answers")
    made.wait_settled()
    for who in ("h1", "h2"):
        assert all(tools.answers(made, who, list(TARGETS.values())).values()), who
    return made


@contextmanager
def asking(lab: Lab) -> Iterator[dict[tuple[str, str], dict[str, Any]]]:
    """Both hosts ask for r1 by ARP and by ND while the block runs; what each counted is in the dictionary after it."""
    (mac,) = tools.macs(lab, "r1")
    counted: dict[tuple[str, str], dict[str, Any]] = {}
    with ExitStack() as stack:
        askers = {}
        for who in ("h1", "h2"):
            own = [word for address in tools.addresses(lab, who) for word in ("--own", address)]
            for kind, target in TARGETS.items():
                words = ("--mac", mac, "--target", target, "--rate-hz", RATE_HZ, *own)
                askers[who, kind] = stack.enter_context(tools.begin(lab, who, "ask", *words))
        ring.pause(lab, ASKED_S)
        yield counted
        counted |= {key: tool.stop() for key, tool in askers.items()}


def heard(counted: dict[tuple[str, str], dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return by host how many solicitations were sent, and how many advertisements came; ARP: one answer to each.

    The answers of controller and VM do not repeat the number that a question carries.
    """
    found = {}
    for (who, kind), report in counted.items():
        print(
            f"{who}, {kind}: {report['asked']} asked, {report['answered']}, without number {report['without_number']}"
        )
        assert report["asked"] > ASKED_S
        assert not report["wrong"]
        if kind == "arp":
            assert report["answered"] == {"1": report["asked"]}, who
        else:
            found[who] = report["asked"] + report["kernel_asked"], report["without_number"]
    return found


def test_each_solicitation_is_answered_once_or_twice(lab: Lab) -> None:
    with asking(lab) as counted:
        pass
    for who, (asked, answers) in heard(counted).items():
        assert asked <= answers <= 2 * asked, who


def test_the_controller_answers_while_the_vm_stands_still(lab: Lab) -> None:
    with lab.paused("r1"), asking(lab) as counted:
        assert not any(tools.answers(lab, "h1", list(TARGETS.values())).values()), "it does not answer a ping"
    for who, (asked, answers) in heard(counted).items():
        assert answers == asked, who


def test_the_vm_answers_while_no_controller_is_there(lab: Lab) -> None:
    lab.process("controller").kill()
    with asking(lab) as counted:
        pass
    for who, (asked, answers) in heard(counted).items():
        assert answers == asked, who
    lab.process("controller").start()
    lab.wait_settled()

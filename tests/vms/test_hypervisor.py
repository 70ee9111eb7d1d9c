"""What libvirt, its machines and the people who use it do meanwhile: the router goes on, comes back, or is refused."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import moving
from tests.vms.conftest import await_routes, machines
from xenflow_lab import stations
from xenflow_lab.lab import Lab
from xenflow_lab.vms.machines import LIBVIRTD

pytestmark = [pytest.mark.vms, pytest.mark.root, pytest.mark.ovs]

ROUTER, SENDER, RECEIVER, ADDRESS = "blue-r1", "blue-h1", "blue-h2", "10.0.2.10"
RATE_PPS, PORT = 1000, 5100
SLOW_MIB, FAST_MIB = "1", "8796093022207"
MOVE_S, BOOT_S = 300.0, 300.0


@contextmanager
def numbered(lab: Lab) -> Iterator[dict[str, int]]:
    """Send through the router while the block runs; what was lost and doubled is in the dictionary after it."""
    found: dict[str, int] = {}
    words = ["--to", f"{ADDRESS}:{PORT}", "--rate-pps", f"{RATE_PPS}", "--duration", "3600"]
    with stations.start(lab, RECEIVER, "receive", "--port", f"{PORT}", "--flows", "1") as receiver:
        with stations.begin(lab, SENDER, "send", *words) as sender:
            yield found
            sent = sender.stop()["sent"]
        report = receiver.end(10)
    found |= {"sent": sent, "lost": sent - report["received"], "doubled": report["duplicated"]}


def complete(found: dict[str, int]) -> bool:
    return found["sent"] > 0 and (found["lost"], found["doubled"]) == (0, 0)


def document(lab: Lab, node: str, name: str = ROUTER) -> ElementTree.Element:
    return ElementTree.fromstring(machines(lab).virsh(node, "dumpxml", "--inactive", name))


def define(lab: Lab, node: str, root: ElementTree.Element) -> None:
    path = lab.paths.machine(ROUTER) / "other.xml"
    path.write_text(ElementTree.tostring(root, encoding="unicode"), encoding="utf-8")
    machines(lab).virsh(node, "define", str(path))


def await_up(lab: Lab) -> None:
    """Return once the router's machine is up, and everything as it should be."""
    machines(lab).await_up(ROUTER, BOOT_S)
    await_routes(lab)
    moving.assert_as_wanted(lab)


def test_libvirtd_is_killed_in_the_middle_of_a_migration(lab: Lab) -> None:
    """The machine stays where it is, in one piece, and the next migration goes through."""
    there, here = machines(lab), moving.node_of(lab, ROUTER)
    target = "n2" if here == "n1" else "n1"
    there.virsh(here, "migrate-setspeed", ROUTER, SLOW_MIB)
    with numbered(lab) as counted:
        number = moving.order(lab, ROUTER, target)
        lab.wait_until(lambda: moving.migrations(lab, number=str(number))[0].percent > 0, MOVE_S, "memory on its way")
        lab.process(LIBVIRTD, here).kill()
        lab.process(LIBVIRTD, here).start()
        there.await_libvirtd(here)
        done = moving.ended(lab, number, MOVE_S)
    print(f"libvirtd killed: migration {done.state}, {done.error!r}; {counted}")
    assert (done.state, moving.node_of(lab, ROUTER)) == ("failed", here)
    assert complete(counted), counted
    lab.wait_settled(BOOT_S)
    moving.assert_as_wanted(lab)
    there.virsh(here, "migrate-setspeed", ROUTER, FAST_MIB)
    with numbered(lab) as counted:
        again = moving.ended(lab, moving.order(lab, ROUTER, target), MOVE_S)
    assert (again.state, again.error) == ("done", "")
    assert complete(counted), counted


def test_a_machine_that_is_paused_forwards(lab: Lab) -> None:
    there, here = machines(lab), moving.node_of(lab, ROUTER)
    with numbered(lab) as counted:
        there.virsh(here, "suspend", ROUTER)
        lost = lab.run(SENDER, ["ping", "-c5", "-i0.2", "-W1", "10.0.1.1"]).stdout
        there.virsh(here, "resume", ROUTER)
    assert " 0 received" in lost, "the machine was not paused"
    assert complete(counted), counted
    await_routes(lab)


def test_two_machines_with_one_mac_address(lab: Lab) -> None:
    """The second one is refused, loudly, and changes nothing."""
    there, here = machines(lab), moving.node_of(lab, ROUTER)
    root = document(lab, here)
    _be(root, "intruder", "0a1b2c3d-0000-4000-8000-0000000000ff")
    for number, target in enumerate(root.iterfind("devices/interface/target")):
        target.set("dev", f"intruder{number}")
    for serial in root.findall("devices/serial") + root.findall("devices/console"):
        root.find("devices").remove(serial)  # type: ignore[union-attr]
    define(lab, here, root)
    try:
        with numbered(lab) as counted:
            there.virsh(here, "start", "--paused", "intruder")
            lab.wait_until(
                lambda: any("intruder" in text for text in lab.app_status().alarms), 60, "an alarm that names it"
            )
        print(f"alarms: {lab.app_status().alarms}")
        assert complete(counted), counted
    finally:
        there.virsh(here, "destroy", "intruder")
        there.virsh(here, "undefine", "intruder")
    lab.wait_until(lambda: not lab.app_status().alarms, 60, "no alarm any more")
    moving.assert_as_wanted(lab)


def test_a_vif_is_unplugged_while_its_flows_are_in_use(lab: Lab) -> None:
    """Nothing is sent to a port that is gone; plugged in again, it works as before."""
    there, here = machines(lab), moving.node_of(lab, ROUTER)
    (vif,) = (vif for vif in lab.plan.vifs if vif.machine == ROUTER and vif.network == "blue-lan2")
    interface = next(
        found
        for found in document(lab, here).iterfind("devices/interface")
        if found.find("mac").get("address") == vif.interface.mac  # type: ignore[union-attr]
    )
    path = lab.paths.machine(ROUTER) / "vif.xml"
    path.write_text(ElementTree.tostring(interface, encoding="unicode"), encoding="utf-8")
    with numbered(lab) as counted:
        there.virsh(here, "detach-device", ROUTER, str(path), "--live")
        lab.wait_until(lambda: vif.port not in lab.vsctl(here, "list-ports", "xenbr0").split(), 60, "no port")
        lab.wait_until(lambda: not stations.answers(lab, SENDER, [ADDRESS])[ADDRESS], 60, "no way")
    assert counted["lost"] > 0
    assert counted["doubled"] == 0
    there.virsh(here, "attach-device", ROUTER, str(path), "--live")
    rename = f"for d in /sys/class/net/*; do grep -q {vif.interface.mac} $d/address && echo ${{d##*/}}; done"
    device = lab.run(ROUTER, ["sh", "-c", rename]).stdout.split()[0]
    for words in (
        ["link", "set", device, "name", vif.interface.device],
        ["link", "set", vif.interface.device, "up"],
        *(["address", "add", address, "dev", vif.interface.device] for address in vif.interface.addresses),
    ):
        lab.run(ROUTER, ["ip", *words])
    await_routes(lab)
    moving.assert_as_wanted(lab)


def test_a_machine_that_is_reset_comes_back(lab: Lab) -> None:
    boot = ["cat", "/proc/sys/kernel/random/boot_id"]
    before = lab.run(ROUTER, boot, check=True).stdout
    machines(lab).virsh(moving.node_of(lab, ROUTER), "reset", ROUTER)
    machines(lab).await_up(ROUTER, BOOT_S)
    assert lab.run(ROUTER, boot, check=True).stdout != before
    await_up(lab)


def test_a_machine_that_is_destroyed_renamed_and_made_anew_with_its_mac_addresses(lab: Lab) -> None:
    there, here = machines(lab), moving.node_of(lab, ROUTER)
    there.virsh(here, "destroy", ROUTER)
    lab.wait_until(lambda: not moving.of_router(lab, here, ROUTER), 60, "no flows of a router that is gone")
    there.virsh(here, "domrename", ROUTER, "renamed")
    root = document(lab, here, "renamed")
    there.virsh(here, "undefine", "renamed")
    _be(root, ROUTER, "0a1b2c3d-0000-4000-8000-0000000000fe")
    define(lab, here, root)
    there.virsh(here, "start", ROUTER)
    await_up(lab)


def _be(root: ElementTree.Element, name: str, uuid: str) -> None:
    for tag, text in (("name", name), ("uuid", uuid)):
        found = root.find(tag)
        assert found is not None
        found.text = text

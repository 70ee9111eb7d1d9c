"""Xen's hotplug script on a real Open vSwitch: from its first instant on, a new port leads nowhere but by a flow."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.private_ovs import PrivateSwitch, private_switch, wait_until

pytestmark = [pytest.mark.root, pytest.mark.ovs]

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPT, CLEANER = DEPLOY / "xen/vif-xenflow", DEPLOY / "node/remove-dead-vifs"
UUID, MAC = "0a1b2c3d-0000-4000-8000-000000000001", "00:16:3e:00:00:01"
BACKEND = "/local/domain/0/backend/vif/5/0"
STORE = {
    f"{BACKEND}/bridge": "br0",
    f"{BACKEND}/mac": MAC,
    f"{BACKEND}/frontend-id": "5",
    "/local/domain/5/vm": f"/vm/{UUID}",
    "/local/domain/5/name": "r1",
    f"/vm/{UUID}/uuid": UUID,
    f"/vm/{UUID}/name": "r1",
}
READ = '#!/bin/sh\nexec cat "{store}$1"\n'
WRITE = '#!/bin/sh\nwhile [ $# -gt 1 ]; do mkdir -p "{store}$(dirname "$1")"; echo "$2" >"{store}$1"; shift 2; done\n'
FLOOD = """
import itertools, signal, socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind((sys.argv[1], 0))
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
for tag in itertools.cycle(("", "8100000b", "81000000")):
    try:
        sock.send(bytes.fromhex("ffffffffffff00163e000001" + tag + "0800" + "00" * 46))
    except OSError:
        pass
    signal.sigtimedwait([], 0.0005)
"""
"""A guest that sends all the time, untagged and with tags of its own."""
COUNT = """
import socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.bind((sys.argv[1], 0))
print("ready", flush=True)
while True:
    frame, (_, _, kind, _, _) = sock.recvfrom(2048)
    if kind != socket.PACKET_OUTGOING:
        print(frame.hex(), flush=True)
"""


class Dom0:
    """A switch, a guest's vif that is not plugged yet, a port that a leak would come out of, and XenStore as files."""

    def __init__(self, switch: PrivateSwitch) -> None:
        self.switch = switch
        self.store = switch.directory / "store"
        programs = switch.directory / "bin"
        programs.mkdir()
        for name, text in (("xenstore-read", READ), ("xenstore-write", WRITE)):
            (programs / name).write_text(text.format(store=self.store))
            (programs / name).chmod(0o755)
        switch.environment["PATH"] = f"{programs}:{switch.environment['PATH']}"
        for path, value in STORE.items():
            self.write(path, value)
        switch.run("ip", "link", "add", "vif5.0", "type", "veth", "peer", "name", "guest0")
        switch.run("ip", "link", "set", "guest0", "up")
        switch.add_port("leak", 9)
        switch.run("ip", "link", "set", "leak", "up")
        self.processes: list[subprocess.Popen[str]] = []

    def write(self, path: str, value: str) -> None:
        file = Path(f"{self.store}{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")

    def read(self, path: str) -> str:
        file = Path(f"{self.store}{path}")
        return file.read_text().strip() if file.exists() else ""

    def hotplug(self, *arguments: str, **environment: str) -> None:
        variables = {"vif": "vif5.0", "XENBUS_PATH": BACKEND} | environment
        self.switch.run("env", *(f"{key}={value}" for key, value in variables.items()), str(SCRIPT), *arguments)

    def start(self, *command: str) -> subprocess.Popen[str]:
        inside = ["ip", "netns", "exec", self.switch.namespace, *command]
        process = subprocess.Popen(inside, env=self.switch.environment, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def row(self, table: str, name: str, column: str) -> str:
        return self.switch.vsctl("--if-exists", "get", table, name, column).strip()

    def received(self) -> int:
        """Return how many frames Open vSwitch has taken from the vif."""
        return int(self.row("Interface", "vif5.0", "statistics:rx_packets").strip('"') or 0)

    def ports(self) -> list[str]:
        return self.switch.vsctl("list-ports", "br0").split()

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def dom0() -> Iterator[Dom0]:
    with private_switch(Path(tempfile.mkdtemp(prefix="xf"))) as switch:
        host = Dom0(switch)
        host.switch.vsctl("set", "Open_vSwitch", ".", "other_config:stats-update-interval=200")
        try:
            yield host
        finally:
            host.close()


def test_nothing_of_a_new_port_gets_through_before_it_is_admitted(dom0: Dom0) -> None:
    sink = dom0.start("python3", "-c", COUNT, "leak")
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n"
    dom0.start("python3", "-c", FLOOD, "guest0")
    dom0.hotplug("online", "type_if=vif")
    assert dom0.read(f"{BACKEND}/hotplug-status") == "connected"
    wait_until(lambda: dom0.received() > 200, "the guest's frames reach the switch")

    number = int(dom0.row("Interface", "vif5.0", "ofport"))
    admitted = "02:77:00:00:00:00"
    flow = f"in_port={number},dl_src={MAC},vlan_tci=0 actions=mod_dl_dst:{admitted},output:9"
    dom0.switch.run("ovs-ofctl", "add-flow", dom0.switch.socket, flow)
    first = bytes.fromhex(sink.stdout.readline())
    assert first[:12] == bytes.fromhex((admitted + MAC).replace(":", "")), "the first frame to come out was admitted"


def test_the_port_has_its_identity_and_no_network_from_its_first_row_on(dom0: Dom0) -> None:
    database = f"unix:{dom0.switch.directory}/db.sock"
    columns = ["Port", "name,tag,vlan_mode", "Interface", "name,external_ids"]
    monitor = dom0.start("ovsdb-client", "--format=json", "monitor", database, "Open_vSwitch", *columns[:2])
    interfaces = dom0.start("ovsdb-client", "--format=json", "monitor", database, "Open_vSwitch", *columns[2:])
    assert monitor.stdout is not None
    assert interfaces.stdout is not None
    for one in (monitor, interfaces):
        assert one.stdout is not None
        one.stdout.readline()  # what was there before
    dom0.hotplug("online", "type_if=vif")
    port = json.loads(monitor.stdout.readline())
    assert [row[1:] for row in port["data"]] == [["insert", "vif5.0", 4095, "access"]]
    row = json.loads(interfaces.stdout.readline())["data"][0]
    identity = {"attached-mac": MAC, "vm-id": UUID, "iface-id": f"{UUID}/{MAC}", "iface-status": "active"}
    assert (row[1], row[2], dict(row[3][1])) == ("insert", "vif5.0", identity)
    dom0.hotplug("online", "type_if=vif")  # once more is as once
    assert dom0.ports().count("vif5.0") == 1
    assert dom0.row("Port", "vif5.0", "other_config:transient") == '"true"'


def test_vifs_of_machines_that_a_power_cut_has_ended_are_removed_and_nothing_else(dom0: Dom0) -> None:
    """As the rows that vif-xenflow, vif-openvswitch and libvirt make, whose devices a boot does not bring back."""
    dom0.hotplug("online", "type_if=vif")
    dom0.switch.run("ip", "link", "add", "vif6.0", "type", "veth", "peer", "name", "guest1")
    dom0.hotplug("online", "type_if=vif", vif="vif6.0")
    dom0.switch.run("ip", "link", "del", "vif6.0")
    libvirts = ["external_ids:attached-mac=02:00:00:00:00:07", f"external_ids:vm-id={UUID}"]
    other = ["type=dummy", "external_ids:attached-mac=02:00:00:00:00:08"]
    for name, columns in (("vnet0", libvirts), ("unplugged", ["external_ids:x=y"]), ("userspace", other)):
        dom0.switch.vsctl("--no-wait", "add-port", "br0", name, "--", "set", "Interface", name, *columns)
    assert "No such device" in dom0.row("Interface", "vnet0", "error")
    dom0.switch.run("sh", str(CLEANER), "br0")
    assert set(dom0.ports()) == {"leak", "vif5.0", "unplugged", "userspace"}
    dom0.switch.run("sh", str(CLEANER), "nobr")


def test_even_an_action_normal_leads_from_it_to_no_network(dom0: Dom0) -> None:
    dom0.switch.vsctl("set", "Port", "leak", "tag=11")
    dom0.hotplug("online", "type_if=vif")
    dom0.switch.run("ovs-ofctl", "add-flow", dom0.switch.socket, "actions=NORMAL")
    number = dom0.row("Interface", "vif5.0", "ofport")
    for tag in ("", "dl_vlan=11,", "dl_vlan=12,"):
        packet = f"in_port={number},dl_src={MAC},dl_dst=ff:ff:ff:ff:ff:ff,{tag}dl_type=0x0800"
        traced = dom0.switch.run("ovs-appctl", "ofproto/trace", "br0", packet)
        assert "Datapath actions: drop" in traced or "leak" not in traced.split("Datapath actions:")[1], traced
        assert not set(traced.rsplit("Datapath actions:", 1)[1].strip().split(",")) & {"11", "push_vlan(vid=11"}


@pytest.mark.parametrize(("name", "mark"), [("r1", ""), ("r1--migratedaway", "xl")])
def test_a_vif_that_goes_is_marked_if_its_machine_has_moved(dom0: Dom0, name: str, mark: str) -> None:
    database = f"unix:{dom0.switch.directory}/db.sock"
    dom0.hotplug("online", "type_if=vif")
    columns = ["Interface", "name,external_ids"]
    monitor = dom0.start("ovsdb-client", "--format=json", "monitor", database, "Open_vSwitch", *columns)
    assert monitor.stdout is not None
    monitor.stdout.readline()
    dom0.write("/local/domain/5/name", name)
    dom0.hotplug("offline", "type_if=vif")
    assert "vif5.0" not in dom0.ports()
    seen = [json.loads(monitor.stdout.readline())["data"] for _ in range(2 if mark else 1)]
    assert seen[-1][0][1] == "delete"
    assert ("xenflow-moved" in json.dumps(seen[0])) == bool(mark)
    dom0.hotplug("offline", "type_if=vif")  # gone already


def test_names_of_its_own_and_the_emulated_port(dom0: Dom0) -> None:
    dom0.write(f"{BACKEND}/vifname", "r1.0")
    dom0.hotplug("online", "type_if=vif")
    assert "r1.0" in dom0.ports()
    dom0.switch.run("ip", "link", "add", "vif5.0-emu", "type", "veth", "peer", "name", "guest1")
    dom0.hotplug("add", "type_if=tap", INTERFACE="vif5.0-emu")
    assert "r1.0-emu" in dom0.ports()
    dom0.hotplug("remove", "type_if=tap", INTERFACE="vif5.0-emu")
    dom0.hotplug("offline", "type_if=vif")
    assert not {"r1.0", "r1.0-emu"} & set(dom0.ports())
    dom0.hotplug("add", "type_if=vif")  # is the other kind's
    assert "vif5.0" not in dom0.ports()


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (f"{BACKEND}/bridge", "br0.11", "only a plain name"),
        (f"{BACKEND}/bridge", "other", "is not there, or not fail_mode=secure"),
        (f"{BACKEND}/mac", "x; reboot", "cannot be read"),
        (f"{BACKEND}/mac", "", "has no MAC address"),
    ],
)
def test_what_is_refused(dom0: Dom0, path: str, value: str, reason: str) -> None:
    dom0.write(path, value)
    with pytest.raises(AssertionError):
        dom0.hotplug("online", "type_if=vif")
    assert reason in dom0.read(f"{BACKEND}/hotplug-error")
    assert dom0.read(f"{BACKEND}/hotplug-status") == "error"
    assert "vif5.0" not in dom0.ports()


def test_a_bridge_that_is_open_without_a_controller_is_refused(dom0: Dom0) -> None:
    dom0.switch.vsctl("set-fail-mode", "br0", "standalone")
    with pytest.raises(AssertionError):
        dom0.hotplug("online", "type_if=vif")
    assert "not fail_mode=secure" in dom0.read(f"{BACKEND}/hotplug-error")

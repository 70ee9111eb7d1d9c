"""Our packages under a real systemd: installed, started, watched, restarted, upgraded, and there again after a reboot.

One node and its controller, on one machine, as docs/install.md has it. Two machines outside (namespaces) at two access
ports of one network: while they reach each other, the node forwards.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.debs import install, remove
from tests.machines import guests
from xenflow.answers import Status
from xenflow_lab import operator
from xenflow_lab.command import wait_until
from xenflow_lab.machines.machine import Machine

pytestmark = [pytest.mark.root, pytest.mark.machine]

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "deploy" / "deb" / "build.py"
UNITS = ("xenflow-controller", "qos-controller", "xenflow-server")
LIMIT_S = 300.0
EXAMPLES = "/usr/share/doc/xenflow-server/examples"
OUTSIDE = """\
[Unit]
Description=Two machines at access ports
DefaultDependencies=no
Before=openvswitch-switch.service ovs-vswitchd.service
After=systemd-modules-load.service local-fs.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'for n in 1 2; do ip netns add m$n; ip link add port$n type veth peer name eth0 netns m$n; \
    ip link set port$n up; ip -n m$n address add 10.0.0.$n/24 dev eth0; ip -n m$n link set eth0 up; done'

[Install]
WantedBy=multi-user.target
"""
DEFINITIONS = """\
[[network]]
name = "red"
vid = 10
rate = "5Mbit"
[[port]]
name = "port1"
kind = "access"
network = "red"
capacity = "100Mbit"
[[port]]
name = "port2"
kind = "access"
network = "red"
"""
BRIDGE = """\
set -e
systemctl enable --now outside
cp {examples}/xfctl.netdev {examples}/xfctl.network {examples}/xfctl-vif.network /etc/systemd/network
systemctl enable --now systemd-networkd
cd /root
xenflow pki init
xenflow init controller app --nodes n1
xenflow init node n1 --app ssl:127.0.0.1:6654
xenflow import app.xenflow
xenflow import n1.xenflow
ovs-vsctl set-ssl /etc/xenflow/node/key.pem /etc/xenflow/node/certificate.pem /etc/xenflow/node/ca.pem
ovs-vsctl --may-exist add-br xenbr0 -- set Bridge xenbr0 fail_mode=secure protocols=OpenFlow10 \
    -- set-controller xenbr0 ssl:127.0.0.1:6653
ovs-vsctl --may-exist add-port xenbr0 port1 -- --may-exist add-port xenbr0 port2
"""


def build(output: Path, version: str) -> list[Path]:
    words = [sys.executable, BUILD, "--output", output, "--version", version, "--compression", "none"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(output.glob("*.deb"))


def shown(guest: Machine, unit: str, *names: str) -> dict[str, str]:
    lines = guest.check(["systemctl", "show", unit, *(f"--property={name}" for name in names)]).splitlines()
    return dict(line.split("=", 1) for line in lines)


def active(guest: Machine) -> bool:
    return all(shown(guest, unit, "ActiveState")["ActiveState"] == "active" for unit in UNITS)


def forwards(guest: Machine) -> bool:
    return guest.run(["ip", "netns", "exec", "m1", "ping", "-c1", "-W2", "10.0.0.2"]).code == 0


def assert_answered(log: str) -> None:
    """By what ping has printed, each of its packets was answered; the answer to the last may have been on its way."""
    sent = re.search(r"(\d+) packets transmitted", log)
    assert sent is not None, log[-500:]
    assert int(sent[1]) > 5, log[-500:]
    answered = {int(number) for number in re.findall(r"bytes from .* icmp_seq=(\d+)", log)}
    assert set(range(1, int(sent[1]))) - answered == set(), log[-500:]
    assert "DUP!" not in log


def in_sync(guest: Machine) -> bool:
    done = guest.run(["xenflow", "status", "--json"], timeout_s=LIMIT_S)
    return done.code == 0 and not operator.missing(msgspec.json.decode(done.out, type=Status), nodes=1, routers=0)


def definitions(guest: Machine) -> str:
    return guest.shell("find /etc/xenflow /var/lib/xenflow -name '*.toml' | sort | xargs sha256sum")


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(tmp_path_factory.mktemp("debs"), "0.1.0~test1")


@pytest.fixture(scope="module")
def node(guest: Machine, debs: list[Path]) -> Iterator[Machine]:
    """The machine with all packages installed and configured, and all units started."""
    install(guest, debs)
    guest.agent.put("/etc/systemd/system/outside.service", OUTSIDE.encode())
    guest.check(["bash", "-c", BRIDGE.format(examples=EXAMPLES)], timeout_s=LIMIT_S)
    guest.agent.put("/etc/xenflow/definitions.d/red.toml", DEFINITIONS.encode())
    guest.shell(f"systemctl restart {' '.join(UNITS)}", timeout_s=LIMIT_S)
    wait_until(lambda: forwards(guest), LIMIT_S, "traffic between two access ports", 1)
    yield guest
    guest.shell(f"systemctl disable --now {' '.join(UNITS)}", timeout_s=LIMIT_S)
    guest.shell("ovs-vsctl --if-exists del-br xenbr0")


def test_units_are_ready_when_they_say_so(node: Machine) -> None:
    for unit in UNITS:
        found = shown(node, unit, "ActiveState", "SubState", "Type", "WatchdogUSec", "NRestarts")
        assert found == {
            "ActiveState": "active",
            "SubState": "running",
            "Type": "notify",
            "WatchdogUSec": "1min",
            "NRestarts": "0",
        }, unit
    wait_until(lambda: in_sync(node), LIMIT_S, "all in sync", 1)


def test_the_kernel_shapes_what_was_hired(node: Machine) -> None:
    assert node.check(["ovs-vsctl", "get", "bridge", "xenbr0", "datapath_type"]).strip() in ('""', "system")
    wait_until(lambda: "class htb" in node.shell("tc class show dev port1"), LIMIT_S, "classes at port1", 1)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_that_hangs_is_started_anew(node: Machine, unit: str) -> None:
    """The watchdog of 60 s is shortened for the test."""
    node.shell(
        f"mkdir -p /run/systemd/system/{unit}.service.d;"
        f" printf '[Service]\\nWatchdogSec=10\\n' > /run/systemd/system/{unit}.service.d/soon.conf;"
        f" systemctl daemon-reload; systemctl restart {unit}",
        timeout_s=LIMIT_S,
    )
    node.shell(f"kill -STOP $(systemctl show -P MainPID {unit})")
    wait_until(lambda: shown(node, unit, "NRestarts")["NRestarts"] == "1", LIMIT_S, f"restart of {unit}", 1)
    wait_until(lambda: active(node), LIMIT_S, "all units", 1)
    assert forwards(node)
    node.shell(f"rm /run/systemd/system/{unit}.service.d/soon.conf; systemctl daemon-reload")


def test_a_restart_of_everything_loses_no_packet(node: Machine) -> None:
    ping = "ip netns exec m1 ping -i 0.1 -w 3600 10.0.0.2 > /var/tmp/ping.log 2>&1"
    node.shell(f"systemd-run -q --unit=ping -p KillSignal=SIGINT sh -c {ping!r}")
    node.shell(f"systemctl restart {' '.join(UNITS)}", timeout_s=LIMIT_S)
    wait_until(lambda: active(node), LIMIT_S, "all units", 1)
    wait_until(lambda: in_sync(node), LIMIT_S, "all in sync", 1)
    node.shell("systemctl stop ping")
    assert_answered(node.agent.get("/var/tmp/ping.log").decode())


def test_without_its_server_a_node_goes_on_forwarding(node: Machine, debs: list[Path]) -> None:
    """Removed, not purged; installed again it finds its settings, and all units run."""
    before = definitions(node)
    remove(node, "xenflow-server")
    assert node.check(["dpkg-query", "-W", "-f", "${db:Status-Status}", "xenflow-server"]) == "config-files"
    assert [shown(node, unit, "ActiveState")["ActiveState"] for unit in UNITS[1:]] == ["inactive", "inactive"]
    assert definitions(node) == before
    assert_answered(node.check(["ip", "netns", "exec", "m1", "ping", "-c11", "-i0.2", "-W5", "10.0.0.2"]))
    install(node, debs)
    wait_until(lambda: active(node), LIMIT_S, "all units", 1)
    wait_until(lambda: in_sync(node) and forwards(node), LIMIT_S, "all in sync", 1)
    assert definitions(node) == before


def test_an_upgrade_keeps_what_is_defined(node: Machine, tmp_path: Path) -> None:
    before = definitions(node)
    install(node, build(tmp_path, "0.1.0~test2"))
    assert node.check(["dpkg-query", "-W", "-f", "${Version}", "xenflow-server"]) == "0.1.0~test2"
    assert definitions(node) == before
    wait_until(lambda: active(node), LIMIT_S, "all units", 1)
    wait_until(lambda: in_sync(node) and forwards(node), LIMIT_S, "all in sync", 1)


def test_a_reboot_loses_nothing(node: Machine) -> None:
    before = definitions(node)
    guests.reboot(node)
    wait_until(lambda: active(node), LIMIT_S, "all units", 1)
    wait_until(lambda: in_sync(node) and forwards(node), LIMIT_S, "all in sync", 1)
    assert definitions(node) == before

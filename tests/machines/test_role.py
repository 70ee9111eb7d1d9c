"""The Ansible role of a node, on a host with systemd and Open vSwitch: run, run again, run with other variables.

The machine is Ansible's own target. Packages and bundle come as an operator has them, the bundle from this source tree,
since its authority is none of the node's. No controller runs: the node is set up for one, and waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.debs import INSTALL_S
from tests.machines.test_installation import LIMIT_S, build, shown
from xenflow_lab.command import wait_until
from xenflow_lab.machines.machine import Machine
from xenflow_lab.machines.tree import ENVIRONMENT, ROOT

pytestmark = [pytest.mark.root, pytest.mark.machine]
PLAY_S = 1800.0
HERE = "/var/tmp/role"
NEEDED = ("xenflow-common", "xenflow", "xenflow-server")
DAEMONS = ("qos-controller", "xenflow-server")
UNITS = ("openvswitch-switch", "systemd-networkd", *DAEMONS)
INVENTORY = f"""\
[xenflow_controllers]
[xenflow_nodes]
n1 ansible_connection=local
[xenflow_nodes:vars]
xenflow_debs={HERE}/debs
xenflow_bundles={HERE}/bundles
xenflow_definitions={HERE}/definitions
xenflow_controller_host=127.0.0.1
xenflow_trunks=["trunk1"]
xenflow_control_network=true
"""
APT = """\
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "/dev/null";
APT::Get::List-Cleanup "false";
"""
"""The machine has no network: with sources `apt update` would fail; without, there is nothing to fetch. All that is
installed is there, and what Debian's sources have said before is kept."""
VARIABLES = (
    *("LC_ALL=C.UTF-8", f"APT_CONFIG={HERE}/apt.conf"),
    *("ANSIBLE_GATHERING=explicit", "ANSIBLE_PIPELINING=1"),
)
"""The last two save minutes under emulation: the roles need no facts, and modules go to Python by its input."""
RED = """\
[[network]]
name = "red"
vid = 10
[[port]]
name = "trunk1"
kind = "trunk"
"""
BLUE = """\
[[network]]
name = "blue"
vid = 20
"""
CLEAR = f"""\
names=$(dpkg-query -W -f '${{Package}} ' 'xenflow*' 2>/dev/null || true)
if [ -n "$names" ]; then DEBIAN_FRONTEND=noninteractive dpkg --purge $names </dev/null; fi
ovs-vsctl --timeout=60 --if-exists del-br xenbr0 -- del-ssl
systemctl disable -q --now systemd-networkd.socket systemd-networkd.service
rm -f /etc/systemd/network/xfctl*
for name in xfctl trunk1; do ip link delete $name 2>/dev/null || true; done
systemctl disable -q xenflow-dom0 2>/dev/null || true
rm -rf {HERE} /var/cache/xenflow /etc/systemd/system/xenflow-dom0.service
rm -rf /etc/systemd/system.control/machine.slice.d /etc/systemd/system.control/ovs-vswitchd.service.d
systemctl daemon-reload
"""
"""The machine as before any of our packages, whatever other tests have left; the authority of theirs stays."""
PREPARE = f"""\
ip link add trunk1 type dummy
ip link set trunk1 up
mkdir -p {HERE}/bundles
cd {ROOT}
export XENFLOW_PKI={HERE}/pki
xenflow() {{ {ENVIRONMENT}/bin/python -m xenflow.cli.main "$@"; }}
xenflow pki init
xenflow init node n1 --app ssl:127.0.0.1:6654 -o {HERE}/bundles/n1.xenflow
"""


@dataclass(frozen=True, slots=True)
class Played:
    """A run of the playbook: what it counted for the node, and all that it printed."""

    counts: dict[str, int]
    text: str


def play(guest: Machine, *options: str) -> Played:
    """Run the playbook to its end, which must be a good one."""
    words = [f"{HERE}/inventory.ini", f"{ROOT}/deploy/ansible/site.yml", *options]
    done = guest.run(["env", *VARIABLES, "ansible-playbook", "-i", *words], timeout_s=PLAY_S)
    text = f"exit code {done.code}\n{done.out}\n{done.err}"
    with (guest.directory / "role.log").open("a") as log:
        log.write(text)
    recap = re.search(r"^n1 +: (.*)$", done.out, re.MULTILINE)
    assert done.code == 0, text
    assert recap is not None, text
    counts = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", recap[1])}
    assert (counts["failed"], counts["unreachable"]) == (0, 0), text
    return Played(counts, text)


def processes(guest: Machine) -> dict[str, str]:
    return {unit: shown(guest, unit, "MainPID")["MainPID"] for unit in (*DAEMONS, "ovs-vswitchd")}


def weights(guest: Machine) -> list[str]:
    return [shown(guest, unit, "CPUWeight")["CPUWeight"] for unit in ("machine.slice", "ovs-vswitchd.service")]


def loaded(guest: Machine, what: str) -> bool:
    """Whether the server that runs has loaded definitions of which it says `what`."""
    server = shown(guest, "xenflow-server", "MainPID")["MainPID"]
    log = guest.shell(f"journalctl --sync; journalctl -q --no-pager -o cat _PID={server}", timeout_s=LIMIT_S)
    return f"definitions reloaded: {what}" in log


@pytest.fixture(scope="module")
def node(guest: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine after the first run of the role."""
    guest.shell(CLEAR, timeout_s=INSTALL_S)
    for deb in build(tmp_path_factory.mktemp("debs"), "0.1.0~role1"):
        if deb.name.partition("_")[0] in NEEDED:
            guest.agent.put(f"{HERE}/debs/{deb.name}", deb.read_bytes())
    for name, text in {"inventory.ini": INVENTORY, "apt.conf": APT, "definitions/red.toml": RED}.items():
        guest.agent.put(f"{HERE}/{name}", text.encode())
    guest.shell(PREPARE, timeout_s=LIMIT_S)
    play(guest)
    yield guest
    guest.shell(CLEAR, timeout_s=INSTALL_S)


def test_units_run_now_and_after_a_boot(node: Machine) -> None:
    for unit in UNITS:
        found = shown(node, unit, "ActiveState", "UnitFileState")
        assert found == {"ActiveState": "active", "UnitFileState": "enabled"}, unit
    assert [shown(node, unit, "NRestarts")["NRestarts"] for unit in DAEMONS] == ["0", "0"]


def test_the_bridge_obeys_one_controller(node: Machine) -> None:
    tls = "/etc/xenflow/node"
    read = "ovs-vsctl --bare --columns={} list {}"
    assert node.shell(read.format("fail_mode,protocols", "Bridge xenbr0")).split() == ["secure", "OpenFlow10"]
    limits = "target,controller_rate_limit,controller_burst_limit"
    assert node.shell(read.format(limits, "Controller")).split() == ["ssl:127.0.0.1:6653", "2000", "1000"]
    keys = [f"{tls}/{name}.pem" for name in ("key", "certificate", "ca")]
    assert node.shell(read.format("private_key,certificate,ca_cert", "SSL")).split() == keys
    node.shell(f"test -s {' -a -s '.join(keys)}")
    assert node.check(["ovs-vsctl", "list-ports", "xenbr0"]).split() == ["trunk1"]
    assert node.shell(read.format("error", "Interface trunk1")).split() == []


def test_the_host_comes_first(node: Machine) -> None:
    assert weights(node) == ["10", "1000"]


def test_routers_find_their_server(node: Machine) -> None:
    assert "fe80::1/64" in node.shell("ip -6 address show dev xfctl")
    wait_until(lambda: "[fe80::1]%xfctl:6655" in node.shell("ss -Htln"), LIMIT_S, "server on xfctl", 1)


def test_definitions_are_loaded(node: Machine) -> None:
    assert node.agent.get("/etc/xenflow/definitions.d/red.toml").decode() == RED
    assert "0 machines in 1 networks: good" in node.check(["xenflow-server", "--check"], timeout_s=LIMIT_S)
    wait_until(lambda: loaded(node, "0 machines in 1 networks"), LIMIT_S, "definitions of the first run", 1)


def test_a_second_run_changes_nothing(node: Machine) -> None:
    """Neither does it touch the controller's row, which a new one would have a new identifier for."""
    rows = "ovs-vsctl get Bridge xenbr0 controller -- get Open_vSwitch . ssl"
    before = node.shell(rows), processes(node)
    again = play(node)
    assert again.counts["changed"] == 0, again.text
    assert (node.shell(rows), processes(node)) == before


def test_a_new_definition_is_loaded_without_a_restart(node: Machine) -> None:
    before = processes(node)
    node.agent.put(f"{HERE}/definitions/blue.toml", BLUE.encode())
    changed = play(node)
    assert changed.counts["changed"] > 0, changed.text
    wait_until(lambda: loaded(node, "0 machines in 2 networks"), LIMIT_S, "the new definition", 1)
    assert processes(node) == before


def test_the_host_comes_first_no_more(node: Machine) -> None:
    """With the unit of a Dom0, which is not started here, as an earlier run would have left it."""
    node.shell(f"cp {ROOT}/deploy/node/xenflow-dom0.service /etc/systemd/system; systemctl enable -q xenflow-dom0")
    play(node, "-e", "xenflow_host_first=false")
    assert weights(node) == ["[not set]", "[not set]"]
    assert shown(node, "xenflow-dom0", "UnitFileState") == {"UnitFileState": "disabled"}

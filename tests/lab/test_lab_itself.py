"""The lab itself: what it builds, that nothing is left behind, and that it stays away from everybody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import TOPOLOGIES, LabFactory, own_name
from xenflow.errors import ConfigError
from xenflow_lab import host, teardown
from xenflow_lab.command import LabError
from xenflow_lab.lab import Lab, silent
from xenflow_lab.paths import Paths, lab_names, lab_namespaces

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

SIMPLE = TOPOLOGIES / "simple.toml"
XENFLOW = [sys.executable, "-m", "xenflow.cli.main"]


def settings_now() -> tuple[list[str], dict[str, str]]:
    """The host-wide settings, and who needs them."""
    values = {name: (Path("/proc/sys") / name.replace(".", "/")).read_text().strip() for name in host.SETTINGS}
    return lab_names(), values


def assert_restored(before: tuple[list[str], dict[str, str]]) -> None:
    """The settings are what they were; nothing can be said if somebody else's lab has come or gone meanwhile."""
    labs, values = settings_now()
    assert labs != before[0] or values == before[1]


def host_interfaces() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def assert_nothing_of(name: str) -> None:
    assert lab_namespaces(name) == []
    assert not Paths(name).state.exists()
    assert name not in "".join(_command_lines())


def read_until(process: subprocess.Popen[str], line: str) -> None:
    """Return once the command has said `line` on standard error."""
    assert process.stderr is not None
    seen = []
    for text in process.stderr:
        seen.append(text)
        if text.strip() == line:
            return
    raise AssertionError("".join(seen))


def _command_lines() -> Iterator[str]:
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            try:
                yield Path(f"/proc/{entry}/cmdline").read_text(errors="replace")
            except OSError:
                continue


@pytest.fixture(scope="module")
def bare(make_lab: LabFactory) -> Lab:
    """The simple lab without XenFlow's programs, its bridge a plain learning switch with access VLANs."""
    lab = make_lab(SIMPLE, "bare", with_xenflow=False)
    vids = {network.name: network.vid for network in lab.plan.topology.network}
    for vif in lab.plan.vifs:
        lab.vsctl(vif.node, "set", "Port", vif.port, f"tag={vids[vif.network]}")
    lab.ofctl("n1", "add-flow", "actions=NORMAL")
    return lab


@pytest.mark.parametrize("target", ["10.0.2.10", "fd00:2::10"])
def test_wires_carry_packets_through_router(bare: Lab, target: str) -> None:
    done = bare.run("h1", ["ping", "-c2", "-i0.2", "-W2", target])
    assert done.returncode == 0, done.stdout
    assert "ttl=63" in done.stdout


def test_tcp_has_good_checksums(bare: Lab) -> None:
    server = bare.popen("h2", ["iperf3", "-s", "-1"])
    bare.wait_until(lambda: ":5201" in bare.run("h2", ["ss", "-Hltn"]).stdout, 10.0, "the server's socket")
    done = bare.run("h1", ["iperf3", "-c", "10.0.2.10", "-n", "5M", "-J"])
    server.communicate(timeout=10)
    assert json.loads(done.stdout)["end"]["sum_received"]["bytes"] > 1_000_000


def test_ports_have_wanted_numbers_and_ids(bare: Lab) -> None:
    for vif in bare.plan.vifs:
        assert bare.vsctl("n1", "get", "Interface", vif.port, "ofport").strip() == str(vif.ofport)
        mac = bare.vsctl("n1", "get", "Interface", vif.port, "external_ids:attached-mac").strip().strip('"')
        assert mac == vif.interface.mac
    assert bare.vsctl("n1", "get", "Bridge", "xenbr0", "fail_mode").strip() == "secure"


def test_node_kernel_never_answers_guests(bare: Lab) -> None:
    node = bare.plan.management["n1"]
    bare.run("h1", ["ip", "route", "add", node, "dev", "eth0"], check=True)
    assert bare.run("h1", ["ping", "-c2", "-i0.2", "-W1", node]).returncode != 0
    neighbor = bare.run("h1", ["ip", "neigh", "show", node]).stdout
    assert "lladdr" not in neighbor
    bare.run("h1", ["ip", "route", "del", node, "dev", "eth0"], check=True)


def test_control_link_reaches_node_only(bare: Lab) -> None:
    assert bare.run("r1", ["ping", "-c1", "-W2", "fe80::1%xfctl"]).returncode == 0


def test_routers_on_one_node_do_not_meet_on_the_control_link(make_lab: LabFactory) -> None:
    demo = make_lab(TOPOLOGIES / "demo.toml", "control", with_xenflow=False)
    address = demo.run("blue-r2", ["ip", "-6", "-o", "address", "show", "dev", "xfctl"]).stdout.split()[3]
    other = f"{address.partition('/')[0]}%xfctl"
    assert demo.run("n1", ["ping", "-c1", "-W2", other]).returncode == 0
    assert demo.run("red-r1", ["ping", "-c1", "-W1", other]).returncode != 0
    demo.down()


def test_guest_keeps_carrier_while_its_port_is_gone(bare: Lab) -> None:
    vif = bare.plan.vifs[0]
    bare.run("n1", ["ip", "link", "set", vif.port, "down"], check=True)
    assert bare.run(vif.machine, ["cat", "/sys/class/net/eth0/carrier"]).stdout.strip() == "1"
    bare.run("n1", ["ip", "link", "set", vif.port, "up"], check=True)


def test_machines_have_their_own_run_directory_and_name(bare: Lab) -> None:
    assert bare.run("n1", ["hostname"]).stdout.strip() == "n1"
    assert "xenbr0" in bare.run("n1", ["ovs-vsctl", "list-br"]).stdout
    assert not Path("/run/openvswitch/db.sock").exists() or not Path("/run/openvswitch/conf.db").exists()


def test_nothing_of_lab_is_in_host_namespace(bare: Lab) -> None:
    before = host_interfaces()
    assert not [name for name in before if name.startswith(("vif", "t-", "ovs-netdev", "xenbr"))]


def test_second_lab_of_same_name_is_refused(bare: Lab) -> None:
    with pytest.raises(ConfigError, match="is up already"):
        Lab(SIMPLE, bare.name, with_xenflow=False).up()
    assert bare.run("h1", ["true"]).returncode == 0


def test_unknown_machine_is_named(bare: Lab) -> None:
    with pytest.raises(ConfigError, match=r"no machine 'h9'; it has: .*h1, h2"):
        bare.run("h9", ["true"])


def test_attach_finds_processes(bare: Lab) -> None:
    again = Lab.attach(bare.name)
    assert again.process("vswitchd", "n1").pid == bare.process("vswitchd", "n1").pid
    assert again.run("h1", ["hostname"]).stdout.strip() == "h1"


def test_two_labs_side_by_side(bare: Lab, make_lab: LabFactory) -> None:
    other = make_lab(SIMPLE, "other", with_xenflow=False)
    raised = settings_now()[1]
    assert other.run("h1", ["ping", "-c1", "-W1", "10.0.2.10"]).returncode != 0  # its switch has no flows
    other.down()
    assert_nothing_of(other.name)
    assert settings_now()[1] == raised  # the first one still needs them
    assert bare.run("h1", ["ping", "-c1", "-W2", "10.0.2.10"]).returncode == 0


def test_down_leaves_nothing_and_restores_settings() -> None:
    interfaces, before = host_interfaces(), settings_now()
    name = own_name("gone")
    said: list[str] = []
    with Lab(SIMPLE, name, with_xenflow=False, say=said.append):
        pass
    assert_nothing_of(name)
    assert host_interfaces() == interfaces
    assert_restored(before)


@pytest.mark.parametrize("until", ["namespaces", "cables", "switches", "routers"])
def test_down_cleans_up_after_kill_half_way(until: str) -> None:
    name, before = own_name(f"kill-{until[:4]}"), settings_now()
    command = [*XENFLOW, "lab", "up", str(SIMPLE), "--name", name, "--without-xenflow"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    read_until(process, until)
    process.kill()
    process.wait()
    assert teardown.down(name, silent)
    assert_nothing_of(name)
    assert_restored(before)


def test_interrupted_up_takes_itself_down() -> None:
    name = own_name("term")
    command = [*XENFLOW, "lab", "up", str(SIMPLE), "--name", name, "--without-xenflow"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    read_until(process, "cables")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert_nothing_of(name)


def test_failed_up_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(SIMPLE.read_text().replace('routing = "static"', 'routing = "frr"\nfrr = "no such line"'))
    name = own_name("bad")
    with pytest.raises(LabError, match="r1: frr: "):
        Lab(path, name, with_xenflow=False).up()
    assert_nothing_of(name)


def test_stranger_in_name_pattern_survives() -> None:
    name = own_name("a")
    stranger = f"xfl.{name}b.x"  # belongs to another lab, whose name begins alike
    subprocess.run(["ip", "netns", "add", stranger], check=True)
    sleeper = subprocess.Popen(["ip", "netns", "exec", stranger, "sleep", "60"])
    try:
        with Lab(SIMPLE, name, with_xenflow=False):
            pass
        assert sleeper.poll() is None
        assert Path("/run/netns", stranger).exists()
    finally:
        sleeper.kill()
        sleeper.wait()
        subprocess.run(["ip", "netns", "del", stranger], check=True)
        host.forget_root()


def test_commands_for_people(bare: Lab) -> None:
    def xenflow(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*XENFLOW, "lab", *words], capture_output=True, text=True)

    assert bare.name in json.loads(xenflow("list", "--json").stdout)
    state = json.loads(xenflow("status", bare.name, "--json").stdout)
    assert state["healthy"]
    assert {machine["name"] for machine in state["machines"]} == set(bare.plan.machines)
    assert xenflow("exec", "--name", bare.name, "h1", "--", "sh", "-c", "exit 7").returncode == 7
    refused = xenflow("up", str(SIMPLE), "--name", bare.name)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert xenflow("down", "no-such-lab").returncode == 2


def test_whole_lab_forwards(simple_lab: Lab) -> None:
    for target in ("10.0.2.10", "fd00:2::10"):
        assert simple_lab.run("h1", ["ping", "-c2", "-i0.2", "-W2", target]).returncode == 0


@pytest.mark.parametrize(
    ("role", "who"),
    [("client", "r1"), ("server", "n1"), ("controller", "controller"), ("vswitchd", "n1"), ("ovsdb", "n1")],
)
def test_each_process_can_be_killed_and_started(simple_lab: Lab, role: str, who: str) -> None:
    process = simple_lab.process(role, who)
    before = process.pid
    process.kill()
    assert process.pid is None
    process.start()
    assert process.pid not in (None, before)
    simple_lab.wait_settled()
    ping = ["ping", "-c1", "-W1", "10.0.2.10"]
    simple_lab.wait_until(lambda: simple_lab.run("h1", ping).returncode == 0, 20.0, f"packets after a new {role}")


OUTSIDE = """
[lab]
name = "outside"
[[network]]
name = "a"
vid = 10
[[network]]
name = "b"
vid = 20
mtu = 1400
[[node]]
name = "n1"
[[node]]
name = "n2"
[[trunk]]
between = ["n1", "n2"]
rate_mbps = 50
[[router]]
name = "r1"
node = "n1"
routing = "bird"
ospf = true
[[router.interface]]
network = "a"
addresses = ["10.1.0.1/24", "fd01::1/64"]
[[router.interface]]
network = "b"
addresses = ["10.2.0.1/24", "fd02::1/64"]
[[access]]
name = "tagged"
node = "n2"
vlans = { 100 = "a", 200 = "b" }
[[access]]
name = "plain"
node = "n2"
network = "b"
[[outside]]
name = "ext"
routing = "frr"
ospf = true
[[outside.interface]]
access = "tagged"
vlan = 200
mtu = 1400
addresses = ["10.2.0.9/24", "fd02::9/64"]
[[outside.interface]]
access = "tagged"
vlan = 100
addresses = ["10.1.0.9/24", "fd01::9/64"]
[[outside]]
name = "pc"
routing = "none"
gateways = ["10.2.0.1"]
[[outside.interface]]
access = "plain"
mtu = 1400
addresses = ["10.2.0.8/24"]
"""


@pytest.fixture(scope="module")
def outside_lab(make_lab: LabFactory) -> Lab:
    lab = make_lab(OUTSIDE, "outside")
    lab.wait_settled()
    return lab


@pytest.mark.parametrize(
    ("who", "target"),
    [("ext", "10.1.0.1"), ("ext", "10.2.0.1"), ("ext", "fd01::1"), ("ext", "fd02::1"), ("pc", "10.1.0.9")],
)
def test_outside_machines_take_part(outside_lab: Lab, who: str, target: str) -> None:
    ping = ["ping", "-c1", "-W1", target]
    outside_lab.wait_until(lambda: outside_lab.run(who, ping).returncode == 0, 20.0, f"{target} from {who}")


def test_bird_and_frr_become_neighbors(outside_lab: Lab) -> None:
    def full() -> int:
        return outside_lab.run("r1", ["birdc", "show", "ospf", "neighbors"]).stdout.count("Full")

    outside_lab.wait_until(lambda: full() == 4, 40.0, "four adjacencies: two interfaces, OSPFv2 and OSPFv3")


def test_vlan_end_passes_its_own_vlan_only(outside_lab: Lab) -> None:
    """Frames of the other VLAN reach the plain bridge between the two ends, and go no further."""
    capture = outside_lab.popen("ext", ["tcpdump", "-lnei", "eth0", "-c", "1", "arp and host 10.1.0.77"])
    assert capture.stderr is not None
    capture.stderr.readline()  # "tcpdump: verbose output suppressed", then "listening on": it captures
    capture.stderr.readline()
    outside_lab.run("r1", ["ping", "-c2", "-i0.2", "-W1", "10.1.0.77"])
    capture.terminate()
    assert capture.communicate()[0].strip() == ""


def test_trunk_has_its_rate(outside_lab: Lab) -> None:
    server = outside_lab.popen("pc", ["iperf3", "-s", "-1"])
    outside_lab.wait_until(
        lambda: ":5201" in outside_lab.run("pc", ["ss", "-Hltn"]).stdout, 10.0, "the server's socket"
    )
    done = outside_lab.run("r1", ["iperf3", "-c", "10.2.0.8", "-t", "3", "-J"])
    server.communicate(timeout=20)
    rate_bps = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]
    assert 20e6 < rate_bps < 52e6

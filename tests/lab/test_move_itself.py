"""The lab's live migration: the guest never notices, a frozen machine is silent, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.conftest import LabFactory
from tests.lab.test_lab_itself import XENFLOW, assert_nothing_of
from tests.lab.twonodes import (
    TWO_NODES,
    answers,
    be_heard,
    elsewhere,
    ends_at,
    everything,
    frozen,
    guest,
    learning,
    move,
    pids,
    read_until,
    started,
)
from xenflow.errors import ConfigError
from xenflow_lab import programs, teardown
from xenflow_lab.command import LabError
from xenflow_lab.lab import Lab, silent
from xenflow_lab.move import DONE, FROZEN, HANDED_OVER, PREPARED
from xenflow_lab.openvswitch import MOVED_MARK

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]
ECHO = """
import socket
listener = socket.create_server(("10.0.1.1", 7777))
connection, _ = listener.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""
TALK = """
import socket, sys
connection = socket.create_connection(("10.0.1.1", 7777), timeout=20)
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(100).decode(), end="", flush=True)
"""


@pytest.fixture(scope="module")
def bare(make_lab: LabFactory) -> Lab:
    """Two nodes, their bridges plain learning switches: the router's own kernel forwards (planes not separated)."""
    return learning(make_lab(TWO_NODES, "move", with_xenflow=False))


@pytest.mark.parametrize("node", ["n2", "n1"])
def test_plan_follows(bare: Lab, node: str) -> None:
    moved = move(bare, node)
    assert (moved.target, bare.plan.machines["r1"].node) == (node, node)
    assert Lab.attach(bare.name).plan.machines["r1"].node == node
    assert {vif.node for vif in bare.plan.vifs if vif.machine == "r1"} == {node}
    for vif in bare.plan.vifs:
        if vif.machine == "r1":
            ids = bare.vsctl(node, "get", "Interface", vif.port, "external_ids")
            assert vif.interface.mac in ids
            assert "active" in ids
            assert MOVED_MARK not in ids
    status = subprocess.run([*XENFLOW, "lab", "status", bare.name, "--json"], capture_output=True, text=True)
    machines = {machine["name"]: machine for machine in json.loads(status.stdout)["machines"]}
    assert machines["r1"]["node"] == node
    assert status.returncode == 0
    assert answers(bare, "h1", "10.0.2.10")
    assert answers(bare, "r1", "fe80::1%xfctl")


def test_frozen_router_answers_nobody(bare: Lab) -> None:
    source = bare.plan.machines["r1"].node
    vifs = [vif for vif in bare.plan.vifs if vif.machine == "r1"]
    assert answers(bare, "h1", "10.0.1.1")
    assert answers(bare, "h1", "fd00:1::1")

    def heard() -> list[str]:
        """Frames that the node has got from the router: a veth's end counts what the other end sends."""
        files = [f"/sys/class/net/{port}/statistics/rx_packets" for port in [*(vif.port for vif in vifs), "ctl1"]]
        return bare.run(source, ["cat", *files], check=True).stdout.split()

    with frozen(bare, elsewhere(bare), 8.0):
        before = heard()
        bare.run("h1", ["ip", "neighbor", "flush", "all"], check=True)
        with ThreadPoolExecutor(6) as pool:
            asked = [
                pool.submit(answers, bare, who, target)
                for who, target in [
                    ("h1", "10.0.1.1"),
                    ("h1", "fd00:1::1"),
                    ("h2", "10.0.2.1"),
                    ("h2", "fd00:2::1"),
                    ("h1", "10.0.2.10"),
                    ("h1", "fd00:2::10"),
                ]
            ]
            assert [reply.result() for reply in asked] == [False] * 6
        assert "lladdr" not in bare.run("h1", ["ip", "neighbor", "show", "10.0.1.1"]).stdout  # no ARP answer
        assert "lladdr" not in bare.run("h1", ["ip", "neighbor", "show", "fd00:1::1"]).stdout  # no ND answer
        states = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids(bare)}
        assert states == {"T"}
        assert heard() == before
    be_heard(bare)
    assert answers(bare, "h1", "fd00:2::10")


def test_frozen_kernel_is_silent_even_if_it_wants_to_speak(bare: Lab) -> None:
    """What its kernel sends of itself (here: for a command that is no part of the machine) reaches nobody."""
    with frozen(bare, elsewhere(bare), 4.0):
        assert not answers(bare, "r1", "10.0.1.10")
        assert not answers(bare, "r1", "fe80::1%xfctl")
    be_heard(bare)


def test_forwarding_stops_for_the_whole_freeze(bare: Lab) -> None:
    """Every packet through the router's kernel passes before the cut or after the joining."""
    ping = bare.popen("h1", ["ping", "-n", "-D", "-i0.02", "10.0.2.10"])
    assert ping.stdout is not None
    read_until(ping.stdout, "ttl=63")
    moved = move(bare, elsewhere(bare), 1.0)
    read_until(ping.stdout, "ttl=63")
    bare.wait_until(lambda: answers(bare, "h1", "10.0.2.10"), 10.0, "forwarding")
    ping.send_signal(signal.SIGINT)
    text = ping.stdout.read()  # not communicate(): it loses what is read ahead
    ping.communicate()
    offset_s = time.time() - time.monotonic()
    times_s = [float(stamp) - offset_s for stamp in re.findall(r"\[(\d+\.\d+)\] .*ttl=63", text)]
    assert moved.joined_at_s - moved.cut_at_s >= 1.0
    assert [when for when in times_s if moved.cut_at_s + 0.01 < when < moved.joined_at_s - 0.01] == []
    assert max(times_s) > moved.joined_at_s


def test_freeze_lasts_as_long_as_asked(bare: Lab) -> None:
    for freeze_s in (0.05, 0.5):
        moved = move(bare, elsewhere(bare), freeze_s)
        assert freeze_s <= moved.joined_at_s - moved.cut_at_s < freeze_s + 0.5


def test_ten_moves_leave_the_guest_and_the_nodes_as_they_were(bare: Lab) -> None:
    """To and fro: no carrier lost, no interface changed, no process ended, no port or file left."""
    if elsewhere(bare) == "n1":
        move(bare, "n1")
    move(bare, "n2")
    move(bare, "n1")  # from now on there is a file that says where it is
    files = sorted(os.listdir(bare.paths.places))
    before, seen, running = everything(bare), guest(bare), set(pids(bare))
    monitor = bare.popen("r1", ["ip", "-o", "monitor", "link"])
    server = bare.popen("r1", [sys.executable, "-c", ECHO])
    bare.wait_until(lambda: ":7777" in bare.run("r1", ["ss", "-Hltn"]).stdout, 10.0, "the router's socket")
    talk = bare.popen("h1", [sys.executable, "-c", TALK], stdin=subprocess.PIPE)
    assert talk.stdin is not None
    assert talk.stdout is not None
    for number in range(10):
        move(bare, elsewhere(bare))
        talk.stdin.write(f"{number}\n")
        talk.stdin.flush()
        assert talk.stdout.readline() == f"{number}\n"
        assert server.poll() is None
    talk.stdin.close()
    talk.wait(10)
    server.wait(10)
    monitor.terminate()
    assert monitor.communicate()[0] == ""
    assert guest(bare) == seen
    assert set(pids(bare)) == running
    assert everything(bare) == before
    assert sorted(os.listdir(bare.paths.places)) == files


def test_frozen_kernel_gives_up_no_neighbor(bare: Lab) -> None:
    """A stale neighbor in use would be given up after 8 s without answer: not by a frozen machine."""
    be_heard(bare)
    monitor = bare.popen("r1", ["ip", "monitor", "neigh"])
    neighbors = "ip neigh change 10.0.1.10 dev eth0 nud stale; ip neigh change 10.0.2.10 dev eth1 nud stale"
    bare.run("r1", ["sh", "-c", neighbors], check=True)
    with frozen(bare, elsewhere(bare), 10.0):
        for far in ("10.0.1.10", "10.0.2.10"):
            assert not answers(bare, "r1", far)
        bare.wait_until(lambda: "PROBE" in bare.run("r1", ["ip", "neigh"]).stdout, 8.0, "a neighbor in doubt")
    monitor.terminate()
    said = monitor.communicate()[0]
    assert "10.0.1.10 dev eth0 lladdr" in said
    assert "FAILED" not in said
    assert bare.run("r1", ["cat", "/proc/sys/net/ipv4/neigh/eth1/ucast_solicit"]).stdout.strip() == "3"
    be_heard(bare)


@pytest.mark.parametrize("percent", [0, PREPARED, FROZEN, HANDED_OVER])
def test_move_that_fails_goes_back(bare: Lab, percent: int) -> None:
    before, source = everything(bare), bare.plan.machines["r1"].node
    with pytest.raises(RuntimeError, match="ended here"):
        bare.move("r1", elsewhere(bare), 0.05, ends_at(percent))
    assert everything(bare) == before
    assert bare.plan.machines["r1"].node == source
    assert answers(bare, "h1", "10.0.2.10")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_terminated_command_moves_it_back(bare: Lab, number: signal.Signals) -> None:
    before = everything(bare)
    command = started(bare, elsewhere(bare), 30.0)
    assert command.stdout is not None
    read_until(command.stdout, f"{FROZEN}%")
    command.send_signal(number)
    _, errors = command.communicate(timeout=20)
    assert command.returncode not in (0, -number)
    assert "cancelled" in errors
    assert everything(bare) == before
    assert answers(bare, "h1", "10.0.2.10")


@pytest.mark.parametrize("percent", [0, PREPARED, FROZEN])
def test_killed_move_is_finished_by_the_next(bare: Lab, percent: int) -> None:
    command = started(bare, elsewhere(bare), 30.0)
    assert command.stdout is not None
    read_until(command.stdout, f"{percent}%")
    command.kill()
    command.wait()
    for _ in range(2):
        done = started(bare, elsewhere(bare), 0.05)
        output, errors = done.communicate(timeout=30)
        assert done.returncode == 0, errors
        assert output.splitlines()[-1] == f"{DONE}%"
        be_heard(bare)
    assert answers(bare, "h1", "10.0.2.10")
    here = bare.plan.machines["r1"].node
    ports = bare.vsctl("n2" if here == "n1" else "n1", "list-ports", "xenbr0")
    assert not {vif.port for vif in bare.plan.vifs if vif.machine == "r1"} & set(ports.split())


def test_move_goes_on_when_nobody_reads_its_progress(bare: Lab) -> None:
    to = elsewhere(bare)
    command = started(bare, to, 0.3)
    assert command.stdout is not None
    command.stdout.readline()
    command.stdout.close()
    assert command.wait(30) == 0
    assert bare.plan.machines["r1"].node == to
    be_heard(bare)


def test_move_can_be_started_inside_a_node(bare: Lab) -> None:
    """As the node's server does it: the command of its settings, with router and target appended."""
    source, to = bare.plan.machines["r1"].node, elsewhere(bare)
    argv = [*programs.move_argv(bare.name), "r1", to]
    done = bare.run(source, argv)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{DONE}%"
    be_heard(bare)
    assert bare.plan.machines["r1"].node == to


def test_what_cannot_be_asked_is_refused(bare: Lab) -> None:
    here = bare.plan.machines["r1"].node
    with pytest.raises(ConfigError, match="is on node"):
        bare.move("r1", here)
    with pytest.raises(ConfigError, match="no node 'n9'; it has: n1, n2"):
        bare.move("r1", "n9")
    with pytest.raises(ConfigError, match="no virtual machine 'n1'; it has: r1, h1, h2"):
        bare.move("n1", "n2")
    with pytest.raises(ConfigError, match="the freeze must last"):
        bare.move("r1", elsewhere(bare), -1.0)
    with frozen(bare, elsewhere(bare), 1.5), pytest.raises(ConfigError, match="is being moved already"):
        bare.move("r1", here)
    be_heard(bare)


def test_target_without_switch_keeps_the_machine_where_it_is(bare: Lab) -> None:
    to = elsewhere(bare)
    bare.process("ovsdb", to).kill()
    try:
        with pytest.raises(LabError):
            bare.move("r1", to)
        assert bare.plan.machines["r1"].node != to
        assert answers(bare, "r1", "10.0.1.10" if to == "n2" else "10.0.2.10")
    finally:
        bare.process("ovsdb", to).start()
    bare.wait_until(lambda: bare.run(to, ["ovs-vsctl", "list-br"]).returncode == 0, 20.0, "the database")
    move(bare, to)


def test_down_after_a_killed_move_leaves_nothing(make_lab: LabFactory) -> None:
    lab = make_lab(TWO_NODES, "movekill", with_xenflow=False)
    command = started(lab, "n2", 30.0)
    assert command.stdout is not None
    read_until(command.stdout, f"{FROZEN}%")
    command.kill()
    command.wait()
    assert teardown.down(lab.name, silent)
    assert_nothing_of(lab.name)


def test_destroyed_machine_is_nowhere(make_lab: LabFactory) -> None:
    lab = learning(make_lab(TWO_NODES, "destroy", with_xenflow=False))
    lab.move("r1", "n2", 0.05)
    lab.destroy("r1")
    assert lab.plan.machines["r1"].node == ""
    assert {vif.machine for vif in lab.plan.vifs} == {"h1", "h2"}
    assert "vif1." not in lab.vsctl("n1", "list-ports", "xenbr0") + lab.vsctl("n2", "list-ports", "xenbr0")
    assert pids(lab) == [lab.holder_pid("r1")]
    assert not answers(lab, "h1", "10.0.1.1")
    with pytest.raises(ConfigError, match="was destroyed"):
        lab.move("r1", "n1")
    lab.down()
    assert_nothing_of(lab.name)

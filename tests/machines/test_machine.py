"""A machine as the labs use it: commands, files, several users at once, a state that is kept and taken up again."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from xenflow_lab.command import LabError
from xenflow_lab.machines.agent import CHUNK_BYTES
from xenflow_lab.machines.machine import Machine
from xenflow_lab.machines.qemu import AGENT_PORTS, console_log

pytestmark = [pytest.mark.root, pytest.mark.machine]


def test_systemd_has_started_it(guest: Machine) -> None:
    assert guest.check(["ps", "-p", "1", "-o", "comm="]).strip() == "systemd"
    assert guest.shell("systemctl --failed --no-legend") == ""
    assert "xenflow-initrd" not in console_log(guest.directory).read_text(errors="replace")


def test_commands_end_with_their_code_and_output(guest: Machine) -> None:
    done = guest.run(["sh", "-c", "cat; echo problem >&2; exit 7"], stdin="some input\n")
    assert (done.code, done.out, done.err) == (7, "some input\n", "problem\n")
    with pytest.raises(LabError, match="exit code 7: problem"):
        guest.check(["sh", "-c", "echo problem >&2; exit 7"])
    assert guest.run(["sleep", "1000"], timeout_s=0.5).code == -9


def test_files_go_in_and_out(guest: Machine) -> None:
    content = os.urandom(3 * CHUNK_BYTES + 11)
    guest.agent.put("/var/tmp/deep/file", content, 0o600)
    assert guest.agent.get("/var/tmp/deep/file") == content
    assert guest.check(["stat", "-c", "%a %s", "/var/tmp/deep/file"]).split() == ["600", str(len(content))]


def test_several_ask_at_once(guest: Machine) -> None:
    numbers = range(2 * AGENT_PORTS)
    with ThreadPoolExecutor(len(numbers)) as pool:
        found = list(pool.map(lambda n: guest.check(["echo", str(n)]).strip(), numbers))
    assert found == [str(n) for n in numbers]


def test_another_process_finds_it_again(guest: Machine) -> None:
    again = Machine(guest.directory)
    assert again.alive
    assert again.pid == guest.pid
    assert again.check(["hostname"]) == guest.check(["hostname"])
    with pytest.raises(LabError, match="runs already"):
        again.start()


def test_a_saved_state_is_taken_up_again(guest: Machine) -> None:
    """A process of then goes on, and what was written since is not there."""
    guest.shell("sleep 100000 >/dev/null 2>&1 & echo $! > /run/before")
    guest.save("before")
    guest.shell("touch /var/tmp/after; sync")
    guest.kill()
    assert not guest.alive
    began = time.monotonic()
    guest.start("before", niceness=10)
    guest.wait_up()
    print(f"\n    up again after {time.monotonic() - began:.1f} s")
    guest.shell("test ! -e /var/tmp/after; kill $(cat /run/before)")

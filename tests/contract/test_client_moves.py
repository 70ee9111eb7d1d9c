"""The client's process in a router that moves: the wire is joined to another host, which has the same address.

client's namespace --xfctl--[ wire's namespace: one of two bridges ]--xfctl-- n1's or n2's namespace (fe80::1)
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests.contract.client_world import run
from xenflow.identity import Identity
from xenflow.pki import Authority

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]
ROUTES = 1000
PATIENCE_S = 20.0
FREEZE_S = 0.2
NOTICED_S = 2.5
"""Bounds are for a machine with other things to do; docs/client.md has what is usual."""


class Events:
    """What a process says on a pipe, line by line."""

    def __init__(self, pipe: IO[str]) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda: [self._lines.put(line) for line in pipe], daemon=True).start()

    def until(self, text: str) -> str:
        """Return the next line that has `text`."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in (line := self._lines.get(timeout=max(deadline - time.monotonic(), 0.001))):
            pass
        return line

    def rest(self) -> list[str]:
        """Return what has been said and not been asked for."""
        return [self._lines.get_nowait() for _ in range(self._lines.qsize())]


class Hosts:
    """Two hosts and a router between which nothing but the wire changes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.names = {who: f"xfmoves-{os.getpid()}-{who}" for who in ("wire", "r1", "n1", "n2")}
        self.processes: list[subprocess.Popen[str]] = []
        self.pki = Authority.create(directory / "pki")
        for who in ("router/r1", "node/n1", "node/n2"):
            self.pki.issue(Identity.parse(f"xenflow:{who}"))
        for name in self.names.values():
            run("ip", "netns", "add", name)
        for who, mac in (("r1", 9), ("n1", 1), ("n2", 1)):
            self._wire(who, f"02:00:00:00:01:{mac:02x}")
        for node in ("n1", "n2"):
            self._in("wire", f"link add br-{node} type bridge mcast_snooping 0", f"link set br-{node} up")
            self._in("wire", f"link set {node} master br-{node}")
            self._in(node, "-6 addr add fe80::1/64 dev xfctl nodad")
        batch = "".join(f"route add blackhole 10.{i // 250}.{i % 250}.0/24\n" for i in range(ROUTES))
        run("ip", "-n", self.names["r1"], "-batch", "-", given=batch)

    def join(self, node: str | None) -> None:
        """Join the router's wire to a node, or to nothing."""
        self._in("wire", f"link set r1 master br-{node}" if node else "link set r1 nomaster")

    def serve(self, node: str, busy_s: float = 0.0) -> Events:
        """Start a server; it listens when this returns."""
        command = [sys.executable, "-m", "tests.contract.little_server", str(self.directory / "pki"), node, str(busy_s)]
        process = self._start(node, command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        events = Events(process.stdout)
        events.until("listening")
        return events

    def report(self) -> tuple[subprocess.Popen[str], Events]:
        """Start the client."""
        settings = self.directory / "client.toml"
        files = {"ca": "ca.pem", "certificate": "router/r1.pem", "key": "router/r1.key", "crl": "crl.pem"}
        lines = ['router = "r1"', 'server = "ssl:[fe80::1%xfctl]:6655"', "[tls]"]
        settings.write_text("\n".join(lines + [f'{key} = "pki/{file}"' for key, file in files.items()]))
        command = [sys.executable, "-m", "xenflow_client.main", "--config", str(settings)]
        process = self._start("r1", command, stderr=subprocess.PIPE)
        assert process.stderr is not None
        return process, Events(process.stderr)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def _wire(self, who: str, mac: str) -> None:
        inner, wire = self.names[who], self.names["wire"]
        run("ip", "netns", "exec", inner, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        run("ip", "-n", inner, *f"link add xfctl address {mac} type veth peer name {who} netns {wire}".split())
        self._in("wire", f"link set {who} up")
        self._in(who, "link set xfctl up")

    def _in(self, who: str, *commands: str) -> None:
        for command in commands:
            run("ip", "-n", self.names[who], *command.split())

    def _start(self, who: str, command: list[str], **pipes: Any) -> subprocess.Popen[str]:
        entered = ["ip", "netns", "exec", self.names[who], *command]
        self.processes.append(subprocess.Popen(entered, text=True, cwd=ROOT, **pipes))
        return self.processes[-1]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path)
    try:
        yield hosts
    finally:
        hosts.close()


def test_a_router_that_moves_reports_to_the_host_at_hand(hosts: Hosts, record_property: pytest.RecordProperty) -> None:
    servers = {node: hosts.serve(node) for node in ("n1", "n2")}
    hosts.join("n1")
    client, _ = hosts.report()
    epoch = json.loads(servers["n1"].until("hello"))["epoch"]
    servers["n1"].until("in-sync")
    for number, node in enumerate(("n2", "n1") * 5):
        client.send_signal(signal.SIGSTOP)
        hosts.join(None)
        frozen_until = time.monotonic() + FREEZE_S
        while time.monotonic() < frozen_until:
            os.sched_yield()
        hosts.join(node)
        resumed = time.monotonic()
        client.send_signal(signal.SIGCONT)
        hello = json.loads(servers[node].until("hello"))
        in_sync = json.loads(servers[node].until("in-sync"))
        assert hello["epoch"] > epoch
        epoch = hello["epoch"]
        record_property(f"move {number}: hello, in sync (s)", (hello["at"] - resumed, in_sync["at"] - resumed))
        print(f"move {number} hello {hello['at'] - resumed:.3f} s in-sync {in_sync['at'] - resumed:.3f} s")
        assert hello["at"] - resumed < NOTICED_S


def test_a_server_out_of_reach_is_noticed_without_a_word_from_anybody(hosts: Hosts) -> None:
    server = hosts.serve("n1")
    hosts.join("n1")
    _, log = hosts.report()
    server.until("in-sync")
    cut = time.monotonic()
    hosts.join(None)
    log.until("out of reach")
    print(f"noticed after {time.monotonic() - cut:.3f} s")
    assert time.monotonic() - cut < NOTICED_S


def test_a_busy_server_is_not_taken_for_one_out_of_reach(hosts: Hosts) -> None:
    server = hosts.serve("n1", busy_s=3.0)
    hosts.join("n1")
    _, log = hosts.report()
    server.until("in-sync")
    assert not any("hello" in line for line in server.rest())
    lines = log.rest()
    connected = next(place for place, line in enumerate(lines) if "reporting server=" in line)
    assert not any("not connected" in line for line in lines[connected:]), lines

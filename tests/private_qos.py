"""A private Open vSwitch, and a qos-controller as a process of its own, for tests that kill either of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from xenflow.address import Address, Scheme
from xenflow.bandwidth import PortQueues
from xenflow.channel import Channel, connect
from xenflow.qosanswers import QosStatus
from xenflow.replica import Outbox
from xenflow.wire import QUEUES_SCOPE, VERSION, Ack, Answer, Hello, Message, Query, Role

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
BRIDGE = "xenbr0"
DATAPATH = os.environ.get("XENFLOW_DATAPATH", "netdev")
"""`system` in a machine whose kernel has Open vSwitch's datapath (tests/machines)."""
DEADLINE_S = 30.0 * float(os.environ.get("XENFLOW_PATIENCE", "1"))


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return when `condition` holds; fail the test when it does not in time."""
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f"after {DEADLINE_S} s still not: {what}"
        time.sleep(0.02)


class QosNode:
    """A namespace with a switch, ports that lead nowhere, and a qos-controller."""

    def __init__(self, directory: Path, ports: tuple[str, ...] = ("p1", "p2")) -> None:
        self.directory = directory
        self.namespace = f"xft-qos-{os.getpid()}-{directory.name[-6:]}"
        self.environment = os.environ | {
            f"OVS_{name}": str(directory) for name in ("RUNDIR", "LOGDIR", "DBDIR", "SYSCONFDIR")
        }
        self.environment["PATH"] += ":/usr/sbin:/sbin"
        self.daemon: subprocess.Popen[bytes] | None = None
        self._ports = ports

    def start(self) -> None:
        """Make namespace, switch, bridge and ports."""
        subprocess.run(["ip", "netns", "add", self.namespace], check=True, env=self.environment)
        self.run("ip", "link", "set", "lo", "up")
        self.run("ovsdb-tool", "create", f"{self.directory}/conf.db", str(SCHEMA))
        self.start_database()
        self.vsctl("--no-wait", "init")
        self.start_switch()
        self.vsctl("add-br", BRIDGE, "--", "set", "bridge", BRIDGE, f"datapath_type={DATAPATH}", "fail_mode=secure")
        for port in self._ports:
            self.add_device(port)
            self.vsctl("add-port", BRIDGE, port)

    def stop(self) -> None:
        """Remove everything."""
        if self.daemon is not None:
            self.stop_daemon(signal.SIGKILL)
        for name in ("ovs-vswitchd", "ovsdb-server"):
            self.stop_ovs(name)
        subprocess.run(["ip", "netns", "del", self.namespace], check=True, env=self.environment)

    def add_device(self, name: str) -> None:
        self.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-far")
        for end in (name, f"{name}-far"):
            self.run("ip", "link", "set", end, "up")

    def run(self, *command: str) -> str:
        """Run a command in the namespace; its standard output."""
        inside = ["ip", "netns", "exec", self.namespace, *command]
        done = subprocess.run(inside, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def vsctl(self, *arguments: str) -> str:
        return self.run("ovs-vsctl", f"--db=unix:{self.directory}/db.sock", f"--timeout={DEADLINE_S:g}", *arguments)

    def start_database(self) -> None:
        remote = f"--remote=punix:{self.directory}/db.sock"
        self.run("ovsdb-server", f"{self.directory}/conf.db", remote, *self._detached())

    def start_switch(self) -> None:
        self.run("ovs-vswitchd", f"unix:{self.directory}/db.sock", *self._detached())

    def stop_ovs(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a daemon of Open vSwitch, if it runs."""
        pidfile = self.directory / f"{name}.pid"
        if not pidfile.exists():
            return
        pid = int(pidfile.read_text())
        os.kill(pid, number)
        wait_until(lambda: not Path(f"/proc/{pid}/cmdline").exists(), f"{name} ended")
        pidfile.unlink(missing_ok=True)

    def start_daemon(self, **settings: object) -> None:
        """Start qos-controller; on return it listens."""
        lines = {"t_med_s": 0.1, "socket": f"unix:{self.socket}", "state": f"{self.directory}/state"} | settings
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
        config = self.directory / "qos.toml"
        config.write_text(f'{text}[ovs]\ndatabase = "unix:{self.directory}/db.sock"\nbridge = "{BRIDGE}"\n')
        command = [sys.executable, "-m", "qos_controller.main", "--config", str(config)]
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command], stderr=log, env=self.environment
            )
        wait_until(lambda: self.daemon is not None and self._listens(), "qos-controller listens")

    def stop_daemon(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End qos-controller and return its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        code = self.daemon.wait(DEADLINE_S)
        self.daemon = None
        return code

    @property
    def socket(self) -> Path:
        return self.directory / "qos.sock"

    @property
    def log(self) -> Path:
        return self.directory / "qos.log"

    def classes(self, device: str = "p1") -> dict[str, str]:
        """Return handle -> what tc(8) says of its parameters."""
        found = {}
        for line in self.run("tc", "-d", "class", "show", "dev", device).splitlines():
            words = line.split()
            rest = words[3:]
            if "leaf" in rest:
                del rest[rest.index("leaf") : rest.index("leaf") + 2]
            found[words[2]] = " ".join(rest)
        return found

    def qdisc(self, device: str = "p1") -> str:
        return self.run("tc", "qdisc", "show", "dev", device, "root")

    def _listens(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, self.log.read_text()
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def _detached(self) -> list[str]:
        return ["--detach", "--no-chdir", "--pidfile", "--verbose=off", f"--log-file={self.directory}/ovs.log"]


class QosClient:
    """What xenflow-server is for the daemon: it brings plans, and asks."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._outbox = Outbox(QUEUES_SCOPE)
        self._begun = False
        self._number = 0
        self.heard: list[Message] = []

    @classmethod
    async def to(cls, node: QosNode) -> QosClient:
        hello = Hello(VERSION, Role.NODE, "n1", 1)
        return cls(await connect(Address(Scheme.UNIX, path=str(node.socket)), None, hello, lambda _: None))

    async def plan(self, *facts: PortQueues) -> None:
        """Send a plan, and return once it is acknowledged."""
        self._outbox.replace(facts)
        if not self._begun:
            self._outbox.restart()
            self._begun = True
        await self._channel.send(*self._outbox.take())
        while not any(isinstance(each, Ack) and each.seq == self._outbox.last_seq for each in self.heard):
            await self._hear()

    async def ask(self, what: str, **arguments: str) -> Answer:
        self._number += 1
        await self._channel.send(Query(self._number, what, arguments))
        while True:
            for message in self.heard:
                if isinstance(message, Answer) and message.number == self._number:
                    return message
            await self._hear()

    async def status(self) -> QosStatus:
        answer = await self.ask("qos")
        assert not answer.error
        return msgspec.json.decode(answer.body, type=QosStatus)

    async def _hear(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            messages = await self._channel.receive()
        assert messages, self._channel.reason
        self.heard += messages

    async def close(self) -> None:
        await self._channel.close("done")

"""A real Open vSwitch of a test's own: daemons, database and bridge in a network namespace, all gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from xenflow_app.openflow import actions, messages
from xenflow_app.openflow.messages import BarrierReply, ErrorMessage, Flow, FlowStats, SwitchMessage
from xenflow_app.openflow.stream import Framer

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
DEADLINE_S = 20.0

M = TypeVar("M", bound=SwitchMessage)


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Return when `condition` holds; fail the test when it does not in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"after {deadline_s} s still not: {what}")
        time.sleep(0.01)


class PrivateSwitch:
    """One namespace with ovsdb-server, ovs-vswitchd and the bridge br0 (userspace datapath, OpenFlow 1.0)."""

    def __init__(self, directory: Path, namespace: str) -> None:
        self.directory = directory
        self.namespace = namespace
        self.environment = os.environ | {
            f"OVS_{name}": str(directory) for name in ("RUNDIR", "LOGDIR", "DBDIR", "SYSCONFDIR")
        }
        self.environment["PATH"] += ":/usr/sbin:/sbin"

    def run(self, *command: str, text: str | None = None) -> str:
        """Run a command in the namespace; its standard output."""
        inside = ["ip", "netns", "exec", self.namespace, *command]
        done = subprocess.run(inside, env=self.environment, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def vsctl(self, *arguments: str) -> str:
        return self.run("ovs-vsctl", f"--db=unix:{self.directory}/db.sock", "--timeout=10", *arguments)

    def dump_flows(self) -> list[str]:
        """Return what ovs-ofctl prints, without counters and ages (and then without table=0, which is added)."""
        printed = self.run("ovs-ofctl", "-O", "OpenFlow10", "--no-stats", "dump-flows", self.socket)
        lines = [line.strip() for line in printed.splitlines() if "actions=" in line]
        return sorted(line if ", table=" in line else line.replace(", ", ", table=0, ", 1) for line in lines)

    @property
    def socket(self) -> str:
        return f"unix:{self.directory}/br0.mgmt"

    def start(self) -> None:
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        self.run("ip", "link", "set", "lo", "up")
        database = str(self.directory / "conf.db")
        self.run("ovsdb-tool", "create", database, str(SCHEMA))
        common = ["--detach", "--no-chdir", "--verbose=off", "--pidfile"]
        self.run("ovsdb-server", database, f"--remote=punix:{self.directory}/db.sock", *common)
        self.run("ovs-vswitchd", f"unix:{self.directory}/db.sock", *common)
        self.vsctl("--no-wait", "init")
        bridge = ["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "protocols=OpenFlow10"]
        self.vsctl(*bridge, "fail_mode=secure", "other_config:datapath-id=0000000000000a01")

    def add_port(self, name: str, number: int) -> None:
        """Add a port that leads to nothing (an internal one)."""
        row = ["--", "set", "interface", name, "type=internal", f"ofport_request={number}"]
        self.vsctl("add-port", "br0", name, *row)

    def stop(self) -> None:
        for pidfile in self.directory.glob("*.pid"):
            pid = int(pidfile.read_text())
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}/cmdline").exists(), f"{pidfile.name} ended")  # type: ignore[misc]
        subprocess.run(["ip", "netns", "del", self.namespace], check=True)


@contextmanager
def private_switch(directory: Path) -> Iterator[PrivateSwitch]:
    """A running switch; its sockets are in `directory`, whose path must be short (unix sockets)."""
    switch = PrivateSwitch(directory, f"xft-{os.getpid()}-{directory.name[-6:]}")
    try:
        switch.start()
        yield switch
    finally:
        switch.stop()
        shutil.rmtree(directory, ignore_errors=True)


class SwitchClient:
    """A blocking OpenFlow connection to the bridge's management socket."""

    def __init__(self, switch: PrivateSwitch) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE_S)
        self._socket.connect(switch.socket.removeprefix("unix:"))
        self._framer = Framer()
        self._waiting: list[SwitchMessage] = []
        self._xid = 100
        setup = (messages.hello(), messages.set_flow_format(1), messages.flow_mod_table_id(2))
        self.send(b"".join(setup) + messages.set_packet_in_format(3) + messages.set_config(4))

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_packet(self, frame: bytes, in_port: int) -> None:
        """Put a frame through the pipeline as if it came in by a port."""
        self.send(messages.packet_out(actions.output(actions.TABLE), frame, in_port))
        self.barrier()

    def receive(self, kind: type[M]) -> M:
        """Return the next message of this kind; others wait, an error fails the test unless it is asked for."""
        while True:
            for place, message in enumerate(self._waiting):
                if isinstance(message, kind):
                    del self._waiting[place]
                    return message
                assert not isinstance(message, ErrorMessage), message
            data = self._socket.recv(1 << 16)
            assert data, "the switch closed the connection"
            self._waiting += map(messages.decode, self._framer.receive(data))

    def next_xid(self) -> int:
        self._xid += 1
        return self._xid

    def barrier(self) -> None:
        xid = self.next_xid()
        self.send(messages.barrier_request(xid))
        assert self.receive(BarrierReply).xid == xid

    def dump(self, cookie: tuple[int, int] | None = None) -> list[Flow]:
        self.send(messages.flow_dump_request(self.next_xid(), cookie=cookie))
        flows: list[Flow] = []
        while True:
            part = self.receive(FlowStats)
            flows += part.flows
            if not part.more:
                return flows

"""A real ovsdb-server and ovs-vswitchd of a test's own, with the server's data bridge, in a network namespace."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from xenflow_server.ovsdb import Monitor

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
BRIDGE = "xenbr0"


class RealWorld:
    """A private Open vSwitch in a namespace; ports are veths whose other ends are in a second bridge."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.namespace = f"xft-ovsdb-{uuid.uuid4().hex[:8]}"
        self.env = {**os.environ, "OVS_RUNDIR": str(directory), "OVS_LOGDIR": str(directory)}
        self._run("ovsdb-tool", "create", str(directory / "conf.db"), str(SCHEMA))
        self._run("ip", "netns", "add", self.namespace)
        self._start_database()
        self._vsctl("--no-wait", "init")
        self._inside(
            "ovs-vswitchd", f"unix:{directory}/db.sock", "--pidfile", "--detach", "--no-chdir", "--log-file=/dev/null"
        )
        for bridge in (BRIDGE, "far"):
            self._vsctl("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev", "fail_mode=secure")

    def database(self) -> Monitor:
        return Monitor(f"unix:{self.directory}/db.sock", BRIDGE)

    def add_port(self, name: str, external_ids: Mapping[str, str] | None = None) -> None:
        self._inside("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-far")
        for end in (name, f"{name}-far"):
            self._inside("ip", "link", "set", end, "up")
        ids = [f"external_ids:{key}={_quoted(value)}" for key, value in (external_ids or {}).items()]
        self._vsctl("add-port", BRIDGE, name, "--", "set", "interface", name, "type=system", *ids)

    def remove_port(self, name: str) -> None:
        self._vsctl("del-port", BRIDGE, name)

    def set_external_ids(self, name: str, external_ids: Mapping[str, str]) -> None:
        ids = [f"external_ids:{key}={_quoted(value)}" for key, value in external_ids.items()]
        self._vsctl("set", "interface", name, *ids)

    def set_bfd(self, name: str, settings: Mapping[str, str]) -> None:
        self._vsctl("set", "interface", name, *(f"bfd:{key}={value}" for key, value in settings.items()))

    def far_end_speaks(self, name: str) -> None:
        far = f"{name}-far"
        self._vsctl("add-port", "far", far, "--", "set", "interface", far, "bfd:enable=true", "bfd:min_tx=300")

    def far_end_is_silent(self, name: str) -> None:
        self._vsctl("del-port", "far", f"{name}-far")

    def restart(self) -> None:
        self._stop("ovsdb-server")
        self._start_database()

    def close(self) -> None:
        for daemon in ("ovs-vswitchd", "ovsdb-server"):
            self._stop(daemon)
        self._run("ip", "netns", "del", self.namespace)

    def _start_database(self) -> None:
        conf, sock = self.directory / "conf.db", self.directory / "db.sock"
        options = ("--pidfile", "--detach", "--no-chdir", "--log-file=/dev/null")
        self._inside("ovsdb-server", str(conf), f"--remote=punix:{sock}", *options)

    def _stop(self, daemon: str) -> None:
        pidfile = self.directory / f"{daemon}.pid"
        if pidfile.exists():
            process = int(pidfile.read_text())
            handle = os.pidfd_open(process)
            os.kill(process, signal.SIGTERM)
            _wait_end(handle)

    def _vsctl(self, *arguments: str) -> str:
        return self._run("ovs-vsctl", "--timeout=10", f"--db=unix:{self.directory}/db.sock", *arguments)

    def _inside(self, *command: str) -> str:
        return self._run("ip", "netns", "exec", self.namespace, *command)

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '\\"') + '"'


def _wait_end(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    assert poll.poll(10_000), "a daemon did not stop"
    os.close(handle)

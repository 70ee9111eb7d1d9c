"""What both hosts must do, with a small core and a real Open vSwitch; subclassed in tests/contract and tests/pox."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.demo_core import COOKIE, demo_flows
from tests.private_ovs import PrivateSwitch, SwitchClient, private_switch, wait_until
from xenflow import channel
from xenflow.address import Address
from xenflow.identity import Identity
from xenflow.pki.authority import Authority
from xenflow.wire import VERSION, Answer, Hello, Query, Role
from xenflow_app.openflow import text

TESTS = Path(__file__).parent
FRAME = bytes.fromhex("02000000000202000000000188b5") + bytes(50)
DPID = "switch a01"


class Setup:
    """A switch, an authority with certificates, and a controller's process in the switch's namespace."""

    def __init__(self, switch: PrivateSwitch) -> None:
        self.switch = switch
        self.directory = switch.directory
        self.authority = Authority.create(self.directory / "pki")
        for name in ("controller/app", "node/n1", "node/n9", "router/r1"):
            self.authority.issue(Identity.from_text(name))
        self.process: subprocess.Popen[str] | None = None

    def write_settings(self, openflow: str, extra: str = "") -> Path:
        certificate, key = self.authority.paths(Identity.from_text("controller/app"))
        path = self.directory / "app.toml"
        path.write_text(
            f'nodes = ["n1"]\nlisten = "ssl:127.0.0.1:6654"\nopenflow = "{openflow}"\n'
            f'socket = "{self.directory}/app.sock"\n{extra}\n[tls]\nca = "{self.authority.ca_path}"\n'
            f'certificate = "{certificate}"\nkey = "{key}"\ncrl = "{self.authority.crl_path}"\n'
        )
        return path

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        inside = ["ip", "netns", "exec", self.switch.namespace, *command]
        log = (self.directory / "controller.log").open("a")
        self.process = subprocess.Popen(inside, env=os.environ | environment, stderr=log, stdout=log, text=True)

    def stop(self) -> int:
        """End the controller as a service manager would; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.process = None
        return code

    def log(self) -> str:
        path = self.directory / "controller.log"
        return path.read_text() if path.exists() else ""

    def present(self, identity: str) -> None:
        """Let the switch show this identity's certificate."""
        certificate, key = self.authority.paths(Identity.from_text(identity))
        self.switch.vsctl("set-ssl", str(key), str(certificate), str(self.authority.ca_path))

    def point_to(self, target: str) -> None:
        self.switch.vsctl("set-controller", "br0", target, "--", "set", "controller", "br0", "max_backoff=1000")

    def flows(self) -> set[str]:
        """Return our flows in the switch, as text."""
        return {line for line in self.switch.dump_flows() if f"cookie={COOKIE >> 48:#x}" in line}

    def ask(self, what: str = "state") -> dict[str, Any]:
        """Return what the core says that has happened."""
        answer: dict[str, Any] = asyncio.run(_ask(Address.parse(f"unix:{self.directory}/app.sock"), what))
        return answer

    def happened(self, event: str) -> bool:
        try:
            return any(event in line for line in self.ask()["events"])
        except (FileNotFoundError, ConnectionRefusedError):  # does not listen yet
            return False


async def _ask(address: Address, what: str) -> object:
    hello = Hello(VERSION, Role.OPERATOR, "test")
    asking = await channel.connect(address, None, hello, lambda _peer: None)
    await asking.send(Query(1, what))
    async for message in asking:
        if isinstance(message, Answer):
            await asking.close("thanks")
            return msgspec.json.decode(message.body)
    raise ConnectionResetError(asking.reason)


class HostSuite(ABC):
    """Subclasses say how the host is started."""

    @abstractmethod
    def command(self, settings: Path) -> tuple[list[str], dict[str, str]]:
        """Return how the suite's controller is started: arguments and environment."""

    @abstractmethod
    def controller(self, settings: Path) -> tuple[list[str], dict[str, str]]:
        """Return how the controller itself is started, as a user does."""

    def start(self, setup: Setup, openflow: str, extra: str = "") -> None:
        command, environment = self.command(setup.write_settings(openflow, extra))
        setup.start(command, environment)

    @pytest.fixture
    def setup(self) -> Iterator[Setup]:
        with private_switch(Path(tempfile.mkdtemp(prefix="xf"))) as switch:
            switch.add_port("p1", 1)
            made = Setup(switch)
            try:
                yield made
            finally:
                if made.process is not None:
                    made.process.kill()
                    made.process.wait()
                print(made.log())

    def test_flows_events_and_a_restart_without_a_flow_mod(self, setup: Setup) -> None:
        self.start(setup, "tcp:127.0.0.1:6653")
        setup.point_to("tcp:127.0.0.1:6653")
        wait_until(lambda: setup.happened("barrier 2"), "flows are confirmed")
        wanted = {text.flow(key, value) for key, value in demo_flows(3000).items()}
        assert setup.flows() == wanted
        assert setup.ask()["sent"] == len(wanted)
        assert setup.happened(f"{DPID} node=None ports=br0 p1")

        client = SwitchClient(setup.switch)
        client.send_packet(FRAME, in_port=1)
        wait_until(lambda: setup.happened("packet-in table=5 port=1 reg0=7"), "the packet has come in")
        client.close()
        setup.switch.add_port("p2", 2)
        wait_until(lambda: setup.happened("port p2 ADD"), "the port has been seen")

        assert setup.stop() == 0
        assert setup.flows() == wanted, "flows outlive the controller"
        self.start(setup, "tcp:127.0.0.1:6653")
        wait_until(lambda: setup.happened("barrier 2"), "the switch is back")
        assert setup.ask()["sent"] == 0
        assert setup.flows() == wanted
        assert setup.stop() == 0

    def test_tls_names_the_node_and_refuses_others(self, setup: Setup) -> None:
        setup.present("node/n1")
        self.start(setup, "ssl:127.0.0.1:6653")
        setup.point_to("ssl:127.0.0.1:6653")
        wait_until(lambda: setup.happened("barrier 2"), "flows are confirmed")
        assert setup.happened(f"{DPID} node=n1")

        setup.authority.revoke(Identity.from_text("node/n1"))
        wait_until(lambda: setup.happened("switch closed"), "a revoked node is thrown out")
        setup.present("node/n9")
        wait_until(lambda: "node n9 is not among the nodes" in setup.log(), "an unknown node is refused")
        setup.present("router/r1")
        wait_until(lambda: "router/r1 is no node" in setup.log(), "a router is refused")
        assert sum("switch a01" in line for line in setup.ask()["events"]) == 1
        assert setup.stop() == 0

    def test_the_controller_itself_serves_a_switch(self, setup: Setup) -> None:
        setup.present("node/n1")
        setup.start(*self.controller(setup.write_settings("ssl:127.0.0.1:6653")))
        setup.point_to("ssl:127.0.0.1:6653")
        wait_until(lambda: "switch up dpid=0000000000000a01 node=n1" in setup.log(), "the switch is up")
        assert setup.stop() == 0
        assert "Traceback" not in setup.log()

    def test_a_fault_of_the_core_ends_the_process(self, setup: Setup) -> None:
        self.start(setup, "tcp:127.0.0.1:6653")
        setup.point_to("tcp:127.0.0.1:6653")
        wait_until(lambda: setup.happened("barrier 2"), "flows are confirmed")
        before = setup.flows()
        with pytest.raises(ConnectionResetError):
            setup.ask("fail")
        assert setup.process is not None
        assert setup.process.wait(20) == 1
        assert "ZeroDivisionError: a fault of ours" in setup.log()
        assert setup.flows() == before

    def test_port_in_use(self, setup: Setup) -> None:
        self.start(setup, "tcp:127.0.0.1:6653")
        wait_until(lambda: (setup.directory / "app.sock").exists(), "the first controller runs")
        command, environment = self.command(setup.write_settings("ssl:127.0.0.1:6653"))
        second = self.run_inside(setup, command, environment)
        assert second.returncode == 2
        assert "6654" in second.stderr
        assert "in use" in second.stderr
        assert setup.happened("peer operator/test"), "the first one goes on"

    def test_settings_that_cannot_be_used(self, setup: Setup) -> None:
        settings = setup.write_settings("tcp:192.0.2.1:6653", "bogus = 1")
        refused = self.run_inside(setup, *self.command(settings))
        assert refused.returncode == 2
        assert "bogus: unknown key" in refused.stderr
        assert "plain TCP is for loopback only" in refused.stderr
        refused = self.run_inside(setup, *self.command(setup.write_settings("ssl:192.0.2.1:6653")))
        assert refused.returncode == 1, "an address may come later: systemd tries again"
        assert "not an address of this machine (or not yet)" in refused.stderr
        settings = setup.write_settings("ssl:127.0.0.1:6653")
        setup.authority.ca_path.rename(setup.directory / "away.pem")
        refused = self.run_inside(setup, *self.command(settings))
        assert refused.returncode == 2
        assert f"{setup.authority.ca_path}: does not exist" in refused.stderr

    def run_inside(
        self, setup: Setup, command: list[str], environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        inside = ["ip", "netns", "exec", setup.switch.namespace, *command]
        return subprocess.run(inside, env=os.environ | environment, capture_output=True, text=True, timeout=30)


PYTHON = sys.executable

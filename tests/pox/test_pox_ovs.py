"""The POX host with a real POX and a real Open vSwitch: all that the stand-alone host does, and what only POX does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.host_suite import PYTHON, TESTS, HostSuite, Setup
from tests.private_ovs import wait_until

pytestmark = [pytest.mark.root, pytest.mark.ovs, pytest.mark.pox]

POX = [PYTHON, str(Path(os.environ.get("POX_HOME", "pox")) / "pox.py")]


class TestPox(HostSuite):
    def command(self, settings: Path) -> tuple[list[str], dict[str, str]]:
        return [*POX, "xenflow_demo", f"--config={settings}"], {"PYTHONPATH": f"{TESTS}:{TESTS / 'pox'}"}

    def controller(self, settings: Path) -> tuple[list[str], dict[str, str]]:
        return [*POX, "xenflow.app", f"--config={settings}"], {}

    def test_another_branch_is_named(self, setup: Setup) -> None:
        command, environment = self.command(setup.write_settings("tcp:127.0.0.1:6653"))
        refused = self.run_inside(setup, [*command, "--branch=0.7.0"], environment)
        assert refused.returncode == 2
        assert "this POX is 0.7.0; XenFlow needs branch halosaur" in refused.stderr

    def test_nobody_gets_around_the_verified_listener(self, setup: Setup) -> None:
        setup.present("node/n1")
        self.start(setup, "ssl:127.0.0.1:6653")
        setup.point_to("tcp:127.0.0.1:6633")
        wait_until(
            lambda: "refused a switch that went around ssl:127.0.0.1:6653" in setup.log(), "the bridge is refused"
        )
        assert not setup.happened("switch ")
        assert setup.flows() == set()
        setup.point_to("ssl:127.0.0.1:6653")
        wait_until(lambda: setup.happened("node=n1"), "the proper way is open")
        assert setup.stop() == 0

    def test_another_listener_of_pox_is_named(self, setup: Setup) -> None:
        command, environment = self.command(setup.write_settings("tcp:127.0.0.1:6653"))
        refused = self.run_inside(setup, [*POX, "openflow.of_01", "--port=6640", *command[2:]], environment)
        assert refused.returncode == 2
        assert "openflow.of_01 runs already" in refused.stderr

    def test_port_of_pox_in_use(self, setup: Setup) -> None:
        command, environment = self.command(setup.write_settings("ssl:127.0.0.1:6653", "[pox]\nport = 6654"))
        refused = self.run_inside(setup, command, environment)
        assert refused.returncode == 2
        assert "pox.port" in refused.stderr

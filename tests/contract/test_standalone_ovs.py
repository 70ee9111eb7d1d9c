"""The stand-alone host with a real Open vSwitch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host_suite import PYTHON, TESTS, HostSuite

pytestmark = [pytest.mark.root, pytest.mark.ovs]


class TestStandalone(HostSuite):
    def command(self, settings: Path) -> tuple[list[str], dict[str, str]]:
        return [PYTHON, str(TESTS / "demo_core.py"), "--config", str(settings)], {}

    def controller(self, settings: Path) -> tuple[list[str], dict[str, str]]:
        return [PYTHON, "-m", "xenflow_app.standalone", "--config", str(settings)], {}

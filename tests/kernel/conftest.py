"""For a machine whose kernel has Open vSwitch's datapath: `make test-kernel` runs these tests inside one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.conftest import _nothing_left, make_lab

__all__ = ["_nothing_left", "make_lab"]


@pytest.fixture(scope="session", autouse=True)
def _kernel_datapath() -> None:
    assert Path("/sys/module/openvswitch").exists(), "no module openvswitch in this kernel: see make test-kernel"

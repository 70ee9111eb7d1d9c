"""What a test may rely on: a test is left out, with the reason, where the machine lacks what its marker names."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest
from hypothesis import settings

settings.register_profile("shared-machine", deadline=None)  # a slow example says nothing where cores are shared
settings.register_profile("ci", deadline=None, derandomize=True)  # what lands is judged by the same examples each time
settings.load_profile("ci" if os.environ.get("CI") else "shared-machine")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Shells start background jobs deaf to SIGINT, and what these start would be deaf as well."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _namespaces_allowed() -> bool:
    if os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False).returncode == 0


def _absent() -> dict[str, str]:
    """Return marker -> reason for everything that this machine lacks."""
    absent = {}
    if not _namespaces_allowed():
        absent["root"] = "needs root and network namespaces"
    if shutil.which("ovs-vswitchd", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        absent["ovs"] = "needs Open vSwitch: apt-get install openvswitch-switch"
    if missing := [tool for tool in ("dpkg-deb", "strip", "lintian", "systemd-analyze") if shutil.which(tool) is None]:
        absent["deb"] = f"needs {', '.join(missing)}: deploy/dev/bootstrap lab installs them"
    if "POX_HOME" not in os.environ:
        absent["pox"] = "needs POX: set POX_HOME"
    if "XENFLOW_VMS" not in os.environ:
        absent["vms"] = "emulates virtual machines for minutes: make test-vms"
    if "XENFLOW_XEN" not in os.environ:
        absent["xen"] = "emulates two Xen hosts for half an hour: make test-xen"
    if "root" in absent:
        absent["lab"] = absent["root"]
    return absent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = _absent()
    for item in items:
        for marker in item.iter_markers():
            if marker.name in absent:
                item.add_marker(pytest.mark.skip(reason=absent[marker.name]))

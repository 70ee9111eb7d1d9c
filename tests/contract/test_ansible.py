"""The Ansible role of a controller, stand-alone and in POX, in a clean Debian: run twice, and what it sets up serves.

With XENFLOW_TEST_INSTALL=1 only: some minutes, and it needs the network. No systemd runs in there: units are enabled,
and what they start is started by hand, as their user.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_packages import ROOT, Machine, build, run
from tests.private_ovs import wait_until

pytestmark = [pytest.mark.deb, pytest.mark.root]
POX_HOME = os.environ.get("POX_HOME", "")
DAEMONS = {
    "xenflow-controller": "/usr/bin/xenflow-controller",
    "xenflow-pox": "env PYTHONPATH=/usr/lib/xenflow /usr/bin/python3 /opt/pox/pox.py xenflow.app",
}
"""Unit -> what its ExecStart says."""
INSIDE = "mount --make-rprivate / && mount -t proc proc {0}/proc && mount --rbind /dev {0}/dev && ip link set lo up && "
UTF8 = "LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1"


class Debian(Machine):
    """With /proc, /dev and a network of its own, if it is to be one."""

    def inside(self, command: str, *, network: bool = True, code: int = 0) -> str:
        return run(*self.argv(command, network=network), code=code)

    def argv(self, command: str, *, network: bool) -> list[str]:
        mounts = INSIDE.format(self.root) if not network else INSIDE.format(self.root).replace("ip link set lo up", ":")
        own = ["unshare", "--mount", *([] if network else ["--net"])]
        return [*own, "sh", "-c", mounts + f'exec chroot {self.root} env {UTF8} sh -c "$1"', "sh", command]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    """With the packages, a bundle and Ansible in /srv."""
    if os.environ.get("XENFLOW_TEST_INSTALL") != "1":
        pytest.skip("installs a whole Debian: set XENFLOW_TEST_INSTALL=1")
    debian = Debian(tmp_path_factory.mktemp("ansible") / "debian")
    try:
        build(debian.root / "srv/debs")
        run("cp", "-r", ROOT / "deploy/ansible", debian.root / "srv/ansible")
        run("cp", "/etc/resolv.conf", debian.root / "etc/resolv.conf")
        debian.inside(
            "apt-get -qq update && apt-get -y -qq --no-install-recommends install ansible-core git systemd"
            " /srv/debs/xenflow-common_*.deb /srv/debs/xenflow_*.deb && mkdir /srv/bundles && cd /srv/bundles"
            " && xenflow pki init && xenflow init controller app --nodes n1"
        )
        hosts = "[xenflow_controllers]\napp ansible_connection=local\n[xenflow_nodes]\n"
        (debian.root / "srv/inventory.ini").write_text(hosts)
        yield debian
    finally:
        run("rm", "-rf", "--one-file-system", debian.root)


@pytest.mark.parametrize("unit", list(DAEMONS))
def test_the_role_of_a_controller(debian: Debian, unit: str) -> None:
    pox = unit == "xenflow-pox"
    if pox and not POX_HOME:
        pytest.skip("POX_HOME is not set: there is no POX to clone from")
    if pox:
        run("git", "clone", "-q", "--no-hardlinks", "--mirror", POX_HOME, debian.root / "srv/pox.git")
    settings = ("debs=/srv/debs", "bundles=/srv/bundles", "pox_repository=/srv/pox.git", f"pox={str(pox).lower()}")
    words = " ".join(f"-e xenflow_{each}" for each in settings)
    command = f"ansible-playbook -i /srv/inventory.ini /srv/ansible/site.yml {words}"
    assert "failed=0" in debian.inside(command)
    assert "changed=0" in debian.inside(command), "the second run changes nothing"
    enabled = {name: debian.type(f"systemctl is-enabled {name} || true").strip() for name in DAEMONS}
    assert enabled == {name: "enabled" if name == unit else "disabled" for name in DAEMONS}
    serves(debian, unit)


def serves(debian: Debian, unit: str) -> None:
    """What the unit starts serves operators, as the unit's user and with the key that the unit lets it read."""
    user = "setpriv --reuid xenflow --regid xenflow --init-groups"
    prepare = "chgrp xenflow /etc/xenflow/controller/key.pem && chmod 0640 /etc/xenflow/controller/key.pem"
    command = f"{prepare} && install -d -o xenflow -g xenflow /run/xenflow && exec {user} {DAEMONS[unit]}"
    process = subprocess.Popen(debian.argv(command, network=False))
    try:
        socket = Path(debian.root / "run/xenflow/app.sock")
        wait_until(lambda: socket.exists() or process.poll() is not None, "it listens")
        found = debian.type("xenflow status")
        assert f"host     {'pox' if unit == 'xenflow-pox' else 'stand-alone'}" in found
        assert "awaited  node n1" in found
    finally:
        process.terminate()
        process.wait(20)

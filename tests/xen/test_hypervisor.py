"""The suite of tests/contract/test_hypervisor.py on a real Xen: in Dom0, by xl, then by libvirt's Xen driver.

What pytest says there is the verdict here. It comes before test_xen, on the host that has no router: the machines that
it makes have room there. libvirtd runs for that time alone; xenflow-server asks xl all the time.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import tarfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from bench.interruption_xen import ROUTER
from tests.xen import hosts
from xenflow_lab.machines.agent import Done
from xenflow_lab.machines.machine import Machine
from xenflow_lab.plan import BRIDGE
from xenflow_lab.xen import guest
from xenflow_lab.xen.lab import ANSWER_S, XenLab

pytestmark = [pytest.mark.xen, pytest.mark.root]

HOME, NODE = "n1", "n2"
"""Where the router is, and where the suite runs."""
ROOT = Path(__file__).parents[2]
SUITE = "tests/contract/test_hypervisor.py"
FILES = (SUITE, "tests/contract/hypervisor_worlds.py", "tests/fakes/hypervisor.py")
DISTRIBUTIONS = ("pytest", "pluggy", "iniconfig", "packaging")
"""What pytest needs beside Dom0's own Python, all of it pure; python3-rich, of which we depend, brings pygments."""
THERE = "/var/tmp/xenflow-contract"
OURS = "/usr/lib/xenflow"
"""Where our packages have their modules."""
LIMIT_S = 2400.0
PATIENCE = 15
"""Deadlines of the suite are for machines that are not emulated."""
LIBVIRTD = "lab-libvirtd"
DRIVER = "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_libxl.so"
LEAST_CPU = "/usr/share/libvirt/cpu_map/x86_486.xml"
"""The least CPU that libvirt knows. It must know the host's, or there is no Xen for it; all that it knows have VME,
which QEMU's emulation lacks."""
STATE = f"""
xl list; xl info | grep memory; ovs-vsctl show
tail -v -n 40 /var/log/xen/xl-*.log /var/log/xen/console/guest-*.log /var/log/libvirt/libxl/*.log
journalctl -u {LIBVIRTD} -n 60 --no-pager; journalctl -t vif-xenflow -n 40 --no-pager
"""
"""What tells why machines were not as the suite wants them."""


@pytest.fixture(scope="module")
def dom0(lab: XenLab) -> Iterator[Machine]:
    """Dom0 of NODE, which has no guests, with pytest and the suite in THERE."""
    hosts.bring(lab, HOME)
    host = lab.hosts[NODE]
    host.agent.put(f"{THERE}.tar.gz", packed())
    host.shell(f"rm -rf {THERE}; mkdir {THERE}; tar -xzf {THERE}.tar.gz -C {THERE}", timeout_s=ANSWER_S)
    yield host
    host.shell(f"rm -rf {THERE} {THERE}.tar.gz", timeout_s=ANSWER_S)


def packed() -> bytes:
    """Return the suite and, below site/, what it needs that Dom0 has not, as a compressed tar file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for file in FILES:
            archive.add(ROOT / file, file)
        for name in DISTRIBUTIONS:
            for part in distribution(name).files or ():
                if part.parts[0] != ".." and part.suffix != ".pyc":
                    archive.add(str(part.locate()), f"site/{part}")
    return packed.getvalue()


@contextlib.contextmanager
def libvirtd(host: Machine) -> Iterator[None]:
    """For as long as the block runs, libvirtd answers for Xen, and for nothing else."""
    drivers = f"{THERE}/drivers"
    variable = f"--setenv=LIBVIRT_DRIVER_DIR={drivers}"
    unit = f"systemd-run -q --collect --unit={LIBVIRTD} -p Type=notify {variable} /usr/sbin/libvirtd"
    opens = "import libvirt; found = libvirt.open('xen:///system'); print(found.getType(), found.getLibVersion())"
    try:
        known = f"sed -i \"/name='vme'/d\" {LEAST_CPU}"
        host.shell(f"mkdir -p {drivers}; ln -sf {DRIVER} {drivers}; {known}; {unit}", timeout_s=ANSWER_S)
        print(f"\n  libvirtd: {host.check(['python3', '-c', opens], timeout_s=ANSWER_S).strip()}")
        yield
    finally:
        said = host.run(["systemctl", "stop", LIBVIRTD], timeout_s=ANSWER_S)
        if said.code:
            print(f"\n{state(host)}")  # it was not there any more


def run_suite(host: Machine, kind: str) -> tuple[Done, str]:
    """Run the suite on one kind of hypervisor; return how it ended and what it printed."""
    variables = {
        "PYTHONPATH": f"{THERE}/site:{OURS}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XENFLOW_HYPERVISORS": kind,
        "XENFLOW_PATIENCE": f"{PATIENCE}",
        "XENFLOW_GUEST_KERNEL": host.shell(f"echo {guest.DISK}/boot/vmlinuz-*", timeout_s=ANSWER_S).strip(),
        "XENFLOW_GUEST_RAMDISK": f"/srv/xenflow-lab/{ROUTER}.initrd",
    }
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    options = f"-v --tb=short --durations=0 --rootdir={THERE} --import-mode=importlib -p no:cacheprovider"
    command = f"cd {THERE} && {settings} python3 -m pytest {options} -o faulthandler_timeout=1200 {SUITE}"
    log = f"{THERE}/{kind}.log"
    done = host.run(["sh", "-c", f"{command} >{log} 2>&1"], timeout_s=LIMIT_S)
    return done, host.agent.get(log).decode(errors="replace")


def state(host: Machine) -> str:
    """Return what Xen, Open vSwitch and libvirtd show and have logged."""
    return host.run(["sh", "-c", f"exec 2>&1; {STATE}"], timeout_s=ANSWER_S).out


@pytest.mark.parametrize("kind", ["xl", "xen"])
def test_the_suite_in_dom0(lab: XenLab, dom0: Machine, kind: str) -> None:
    """It leaves nothing: no guest, no vif, no alarm; and the router does not notice."""
    assert hosts.domains(lab, NODE) == set()
    with libvirtd(dom0) if kind == "xen" else contextlib.nullcontext():
        done, said = run_suite(dom0, kind)
        left = hosts.domains(lab, NODE)
        print(f"\n{said[-12000:]}")
        if done.code or left:
            print(state(dom0))
        for name in left:
            dom0.run(["xl", "destroy", name], timeout_s=ANSWER_S)
    assert done.code == 0, f"{kind}: exit code {done.code}"
    assert "skipped" not in said.splitlines()[-1], "all of it runs there"
    assert left == set()
    ports = dom0.check(["ovs-vsctl", "list-ports", BRIDGE], timeout_s=ANSWER_S).split()
    assert not [port for port in ports if port.startswith("vif")]
    hosts.assert_settled_at(lab, HOME)

"""A router's VM that does nothing but spin on all of its virtual processors: QEMU under a libvirtd of its own.

Its control groups are the kernel's, so the kernel's scheduler decides between it and Dom0, as on a KVM host; what its
definition says of processors reaches it as from xenflow-server (`libvirt_machine`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xenflow.errors import ConfigError, DataplaneError
from xenflow.resources import Resources
from xenflow_lab.vms.libvirtd import QEMU, Libvirtd, lacks
from xenflow_server.granting import fit
from xenflow_server.scheduling import CGROUP_1, CGROUP_2

VCPUS = 2
UUID = "0a1b2c3d-0000-4000-8000-0000000000f5"
START_S = 30.0
GROUPS = Path("/sys/fs/cgroup")
_BOOT = bytes.fromhex(
    "fa31c08ed8c7060080ebfe0f0116827c0f20c00c010f22c0bb08008ec324fe0f22c066bf0000e0fe266766c787f0000000ff0100002667"
    "66c7870003000000450c0066b900000001664975fc266766c7870003000008460c0066b900000001664975fc266766c7870003000008460c"
    "00ebfe0000000000000000ffff00000092cf000f00727c0000"
)
"""A boot sector: it lets all other processors begin at 8000h (INIT, then STARTUP twice; Intel SDM 3A, 9.4.4), where a
jump to itself waits for them, and then does the same itself."""
_DOMAIN = f"""<domain type='qemu'><name>{{name}}</name><uuid>{UUID}</uuid><memory unit='MiB'>32</memory>
<vcpu>{VCPUS}</vcpu><os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
<features><acpi/><apic/></features>
<devices><emulator>{QEMU}</emulator><controller type='usb' model='none'/><memballoon model='none'/>
<disk type='file' device='disk'><driver type='raw'/><source file='{{disk}}'/><target dev='hda'/></disk></devices>
</domain>"""


def missing() -> str:
    """Return why there can be no such VM here, empty if there can."""
    if not any((GROUPS / name).exists() for name in ("cpu/cpu.shares", "cgroup.controllers")):
        return "the kernel's control groups of processors are not mounted"
    try:
        import libvirt
    except ImportError as error:
        return str(error)
    return "; ".join(lacks()) or ("" if libvirt.getVersion() else "libvirt has no version")


class Spinner:
    """The VM; it rests at first."""

    def __init__(self, directory: Path) -> None:
        import libvirt

        from xenflow_server.libvirt_adapter import prepare, serve_events
        from xenflow_server.libvirt_machine import LibvirtMachines

        prepare()
        serve_events()
        self._directory, self._daemon = directory, Libvirtd(directory, ("cpu",))
        self._daemon.prepare()
        with (directory / "log.txt").open("ab") as log:
            argv = ["unshare", "--net", *self._daemon.argv()]
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._await()
        disk = directory / "disk"
        disk.write_bytes(_BOOT.ljust(510, b"\0") + b"\x55\xaa")
        self._name = f"spin{os.getpid()}"
        self._connection = libvirt.open(self._daemon.uri)
        self._domain = self._connection.createXML(_DOMAIN.format(name=self._name, disk=disk))
        self._find = LibvirtMachines(self._daemon.uri).find

    def give(self, resources: Resources) -> None:
        """Let it have these from now on. Raises DataplaneError if it does not get them."""
        problems = fit(self._find(UUID), resources).problems
        if problems:
            raise DataplaneError("; ".join(problems))

    def prefer_host(self, times: float) -> None:
        """Let a process of the host have so many times the weight of all VMs together, when processors are short.

        What `systemctl set-property machine.slice CPUWeight=` does; processes of the lab may be at another nice level.
        """
        of_one = 1.25 ** -os.nice(0)
        if (legacy := GROUPS / "cpu/machine/cpu.shares").exists():
            legacy.write_text(str(max(2, round(CGROUP_1.default * of_one / times))), encoding="ascii")
        else:
            weight = max(1, round(CGROUP_2.default * of_one / times))
            (GROUPS / "machine/cpu.weight").write_text(str(weight), encoding="ascii")

    @contextmanager
    def spinning(self) -> Iterator[None]:
        """Inside the block it spins."""
        self._domain.resume()
        try:
            yield
        finally:
            self._domain.suspend()

    def busy_s(self) -> float:
        """Return the processor time that it has had so far, all of its threads."""
        pid = (self._directory / f"run/qemu/{self._name}.pid").read_text(encoding="ascii").strip()
        return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9

    def begin(self) -> None:
        """Return when all of its processors spin; it rests then."""
        began, before = time.monotonic(), self.busy_s()
        while self.busy_s() - before < 2 * VCPUS:
            if time.monotonic() - began > START_S:
                raise DataplaneError("the VM does not spin")
            time.sleep(0.2)
        self._domain.suspend()

    def close(self) -> None:
        """Leave nothing."""
        for pid in self._daemon.machine_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _await(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            with socket.socket(socket.AF_UNIX) as trial, contextlib.suppress(OSError):
                trial.connect(str(self._daemon.socket))
                return
            time.sleep(0.1)
        raise DataplaneError("libvirtd does not answer")


@contextmanager
def spinner() -> Iterator[Spinner]:
    """Make such a VM. Raises ConfigError if there can be none here."""
    if why := missing():
        raise ConfigError([f"a VM that spins: {why}"])
    directory = Path(tempfile.mkdtemp(prefix="xfspin"))
    made = Spinner(directory)
    try:
        made.begin()
        yield made
    finally:
        made.close()

"""A real libvirtd with QEMU of a test's own, as nodes of the lab have one; all gone afterwards.

Two of them on one machine can migrate machines to each other, over a unix socket.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path

from tests.private_ovs import wait_until
from xenflow_lab.vms import libvirtd
from xenflow_lab.vms.libvirtd import QEMU, Libvirtd

__all__ = ["DOMAIN", "QEMU", "PrivateLibvirt", "lacks", "noise"]

FULL_BYTES = 12 << 20
DOMAIN = """<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
<devices><emulator>{qemu}</emulator><controller type='usb' model='none'/><memballoon model='none'/></devices>
<qemu:commandline><qemu:arg value='-device'/><qemu:arg value='loader,file={memory},addr=0x1000000,force-raw=on'/>
</qemu:commandline></domain>"""
"""A machine without a disk: its firmware runs. What `memory` has is in its memory, so that moving it takes a time."""


def lacks() -> str:
    """Return what is missing for this, empty if nothing is."""
    return "; ".join(libvirtd.lacks())


def lacks_groups() -> str:
    """Return why its machines cannot be in control groups, empty if they can."""
    found = [Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cgroup.controllers")]
    return "" if any(path.exists() and os.access(path, os.W_OK) for path in found) else "needs control groups"


class PrivateLibvirt:
    """One libvirtd; its machines live on when it is killed, and end with `stop`."""

    def __init__(self, directory: Path, *, groups: bool = False) -> None:
        self._daemon = Libvirtd(directory, ("cpu",) if groups else ())
        self._daemon.prepare()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return self._daemon.uri

    def start(self) -> None:
        command = ["unshare", "--net", *self._daemon.argv()]
        with (self._daemon.directory / "libvirtd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, "libvirtd answers")

    def kill(self) -> None:
        """End the daemon without a warning; its machines go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        for pid in self._daemon.machine_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kill()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as trial:
            try:
                trial.connect(str(self._daemon.socket))
            except OSError:
                return False
        return True


def noise(directory: Path) -> Path:
    """Return a file whose bytes cannot be compressed."""
    path = directory / "noise"
    path.write_bytes(os.urandom(FULL_BYTES))
    return path

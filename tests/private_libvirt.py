"""A real libvirtd with QEMU of a test's own: namespaces, directories and users of its own, all gone afterwards.

Two of them on one machine can migrate machines to each other, over a unix socket.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import uuid
from pathlib import Path

from tests.private_ovs import wait_until

LIBVIRTD, QEMU = Path("/usr/sbin/libvirtd"), Path("/usr/bin/qemu-system-x86_64")
DRIVER = Path("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so")
FULL_BYTES = 12 << 20
DOMAIN = """<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
<devices><emulator>{qemu}</emulator><controller type='usb' model='none'/><memballoon model='none'/></devices>
<qemu:commandline><qemu:arg value='-device'/><qemu:arg value='loader,file={memory},addr=0x1000000,force-raw=on'/>
</qemu:commandline></domain>"""
"""A machine without a disk: its firmware runs. What `memory` has is in its memory, so that moving it takes a time."""
SETUP = """set -e; cd "$1"; mount --make-rprivate /
for place in run lib log cache; do mkdir -p $place; done
mkdir -p etc /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /etc/libvirt
mount --bind run /run/libvirt; mount --bind lib /var/lib/libvirt
mount --bind log /var/log/libvirt; mount --bind cache /var/cache/libvirt; mount --bind etc /etc/libvirt
for file in passwd group; do cp /etc/$file $file; done
echo libvirt-qemu:x:64055:64055::/nonexistent:/bin/false >>passwd; echo libvirt-qemu:x:64055: >>group
echo kvm:x:64056: >>group; mount --bind passwd /etc/passwd; mount --bind group /etc/group
exec "$2" -f /etc/libvirt/libvirtd.conf -p /run/libvirt/libvirtd.pid
"""


def lacks() -> str:
    """Return what is missing for this, empty if nothing is."""
    missing = [path.name for path in (LIBVIRTD, QEMU, DRIVER) if not path.exists()]
    packages = "libvirt-daemon libvirt-daemon-driver-qemu qemu-system-x86"
    return f"needs {', '.join(missing)}: apt-get install {packages}" if missing else ""


class PrivateLibvirt:
    """One libvirtd; its machines live on when it is killed, and end with `stop`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "etc").mkdir(parents=True)
        (directory / "etc/qemu.conf").write_text(
            'user = "root"\ngroup = "root"\ncgroup_controllers = []\nsecurity_driver = "none"\nnamespaces = []\n'
            'remember_owner = 0\nstdio_handler = "file"\n'
        )
        identity = f'host_uuid = "{uuid.uuid4()}"\nauth_unix_rw = "none"\nunix_sock_dir = "/run/libvirt"\n'
        (directory / "etc/libvirtd.conf").write_text(identity)
        self._namespace = ["unshare", "--mount", "--net"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.directory}/run/libvirt-sock"

    def start(self) -> None:
        command = [*self._namespace, "sh", "-c", SETUP, "sh", str(self.directory), str(LIBVIRTD)]
        with (self.directory / "libvirtd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, "libvirtd answers")

    def kill(self) -> None:
        """End the daemon without a warning; its machines go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        for pidfile in (self.directory / "run/qemu").glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pidfile.read_text()), signal.SIGKILL)
        self.kill()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as trial:
            try:
                trial.connect(f"{self.directory}/run/libvirt-sock")
            except OSError:
                return False
        return True


def noise(directory: Path) -> Path:
    """Return a file whose bytes cannot be compressed."""
    path = directory / "noise"
    path.write_bytes(os.urandom(FULL_BYTES))
    return path

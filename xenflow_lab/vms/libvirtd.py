"""A libvirtd of a node's own: directories, users and identity that only it and its machines see.

It is started in the network of its node, and makes a mount namespace for itself: no libvirtd of the host is met, and
none is needed. Its machines are not its children: they go on when it is killed, and it finds them again.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LIBVIRTD: Final = Path("/usr/sbin/libvirtd")
QEMU: Final = Path("/usr/bin/qemu-system-x86_64")
DRIVER: Final = Path("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so")
VIRSH: Final = Path("/usr/bin/virsh")
PACKAGES: Final = {
    LIBVIRTD: "libvirt-daemon",
    DRIVER: "libvirt-daemon-driver-qemu",
    QEMU: "qemu-system-x86",
    VIRSH: "libvirt-clients",
}
_UNIFIED: Final = Path("/sys/fs/cgroup/unified")
"""Control groups of version 2 beside those of version 1: libvirt cannot tell which has the controllers."""
NICENESS: Final = 10
"""An emulated machine takes all that it gets, and a switch that has to wait loses packets."""
_DIRECTORIES: Final = ("run", "lib", "log", "cache", "etc")
_QEMU_CONF: Final = """\
user = "root"
group = "root"
cgroup_controllers = [{controllers}]
security_driver = "none"
namespaces = []
remember_owner = 0
stdio_handler = "file"
migration_address = "0.0.0.0"
"""
_SETUP: Final = """set -e; cd "$1"; mount --make-rprivate /
test -z "$3" || umount "$3"
mkdir -p /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /etc/libvirt
mount --bind run /run/libvirt; mount --bind lib /var/lib/libvirt
mount --bind log /var/log/libvirt; mount --bind cache /var/cache/libvirt; mount --bind etc /etc/libvirt
for file in passwd group; do cp /etc/$file $file; done
echo libvirt-qemu:x:64055:64055::/nonexistent:/bin/false >>passwd; echo libvirt-qemu:x:64055: >>group
echo kvm:x:64056: >>group; mount --bind passwd /etc/passwd; mount --bind group /etc/group
exec "$2" -f /etc/libvirt/libvirtd.conf -p /run/libvirt/libvirtd.pid
"""


def lacks() -> list[str]:
    """Return what is missing on this machine, and what brings it; empty if nothing is."""
    return [f"{path.name} is missing: apt-get install {name}" for path, name in PACKAGES.items() if not path.exists()]


@dataclass(frozen=True, slots=True)
class Libvirtd:
    """One libvirtd, all of whose files are below `directory`."""

    directory: Path
    controllers: tuple[str, ...] = ()
    """Control groups that its machines are put into, such as `cpu`; none by default: not every container has them."""

    def prepare(self) -> None:
        """Make its directories and settings."""
        for name in _DIRECTORIES:
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        controllers = ", ".join(f'"{name}"' for name in self.controllers)
        (self.directory / "etc/qemu.conf").write_text(_QEMU_CONF.format(controllers=controllers), encoding="ascii")
        identity = f'host_uuid = "{uuid.uuid4()}"\nauth_unix_rw = "none"\nunix_sock_dir = "/run/libvirt"\n'
        (self.directory / "etc/libvirtd.conf").write_text(identity, encoding="ascii")

    def argv(self) -> list[str]:
        """Return its command; the process becomes libvirtd itself. Others come before its machines (NICENESS)."""
        hidden = str(_UNIFIED) if self.controllers and _UNIFIED.is_mount() else ""
        nice = ["nice", "-n", str(NICENESS)]
        return [*nice, "unshare", "--mount", "sh", "-c", _SETUP, "sh", str(self.directory), str(LIBVIRTD), hidden]

    @property
    def socket(self) -> Path:
        """Where it is asked."""
        return self.directory / "run" / "libvirt-sock"

    @property
    def uri(self) -> str:
        """Its URI for everybody on this machine, whatever is mounted where they are."""
        return f"qemu+unix:///system?socket={self.socket}"

    def machine_pids(self) -> list[int]:
        """Return the processes of its machines, whether it runs or not."""
        texts = [path.read_text(encoding="ascii").strip() for path in (self.directory / "run/qemu").glob("*.pid")]
        return [int(text) for text in texts if text.isdecimal()]

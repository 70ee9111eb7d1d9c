"""The image that all virtual routers start from: Debian, routing daemons, XenFlow's client as its package installs it.

The disk is read only and shared by all of them, so that nothing of it has to move with one. What differs comes on a
second disk: a tar file, not a file system (`guest`). PID 1 is busybox: under software emulation it is up in seconds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

from xenflow_lab.command import run
from xenflow_lab.machines import image as images
from xenflow_lab.machines.image import Image
from xenflow_lab.machines.recipe import Recipe

PACKAGES: Final = ("adduser", "bird2", "frr", "python3", "qemu-guest-agent")
KERNEL: Final = "linux-image-cloud-amd64"
MODULES: Final = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "overlay")
OURS: Final = ("xenflow-common", "xenflow-client")
BUILD: Final = Path(__file__).parents[2] / "deploy" / "deb" / "build.py"
DEB_VERSION: Final = "0~lab"
"""A version of its own, and no date: the same files give the same package, whatever the commit."""
DEB_TIMEOUT_S: Final = 300.0

INIT: Final = """\
#!/bin/busybox sh
# The disk stays as it is: what is written goes to memory. Then the files of this machine, from the second disk.
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t tmpfs -o mode=755 none /mnt
/bin/busybox mkdir /mnt/upper /mnt/work /mnt/root
/bin/busybox mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work none /mnt/root
/bin/busybox mount --move /dev /mnt/root/dev
/bin/busybox mount --move /proc /mnt/root/proc
/bin/busybox tar -xf /mnt/root/dev/vdb -C /mnt/root
exec /bin/busybox chroot /mnt/root /bin/busybox init
"""
INITTAB: Final = """\
::sysinit:/usr/local/sbin/xenflow-vm-boot
::respawn:/usr/local/sbin/xenflow-vm-agent
::once:/etc/xenflow-vm/routing
::respawn:/etc/xenflow-vm/client
::ctrlaltdel:/bin/busybox reboot -f
"""
BOOT: Final = """\
#!/bin/sh
# Interfaces by MAC address, kernel settings, addresses and static routes: all before any daemon runs.
mount -t sysfs none /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/xenflow /run/bird /run/lock
install -d -o frr -g frr /run/frr
hostname -F /etc/hostname
for device in /sys/class/net/e*; do
    name=$(sed -n "s/^$(cat "$device/address") //p" /etc/xenflow-vm/interfaces)
    ip link set "${device##*/}" name "new.$name"
done
for device in /sys/class/net/new.*; do
    ip link set "${device##*/}" name "${device##*/new.}"
done
while read -r path value; do echo "$value" > "/proc/sys/$path"; done < /etc/xenflow-vm/settings
ip link set lo up
ip -force -batch /etc/xenflow-vm/network
echo "xenflow-vm: $(hostname) is up" >/dev/console
touch /run/xenflow-vm.up
"""
AGENT: Final = """\
#!/bin/sh
# QEMU's guest agent at its port, whatever number the kernel has given that.
[ -d /sys/class/virtio-ports ] || exec sleep infinity  # another hypervisor: nobody asks
found=$(grep -lx org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name) || { sleep 1; exit 1; }
port=${found%/name}
exec qemu-ga --method virtio-serial --path "/dev/${port##*/}"
"""


def recipe(debs: tuple[Path, ...]) -> Recipe:
    """Return what the image is made of."""
    return Recipe(
        "router",
        packages=PACKAGES,
        debs=debs,
        files={
            "/etc/inittab": INITTAB,
            "/sbin/xenflow-vm-init": INIT,
            "/usr/local/sbin/xenflow-vm-boot": BOOT,
            "/usr/local/sbin/xenflow-vm-agent": AGENT,
        },
        commands=("ln -sf xenflow-vm-init /sbin/init", "rm -rf /usr/share/doc /usr/share/locale /var/lib/apt/lists"),
        kernel=KERNEL,
        modules=MODULES,
        size_mib=1536,
    )


def build() -> Image:
    """Return the image, from the cache or new; progress goes to standard error. Raises ConfigError, LabError."""
    with tempfile.TemporaryDirectory() as directory:
        return images.build(recipe(_packages(Path(directory))))


def _packages(output: Path) -> tuple[Path, ...]:
    """Build XenFlow's packages for the guest from this source tree."""
    words: list[str | Path] = [sys.executable, BUILD, "--output", output, "--version", DEB_VERSION]
    words += ["--compression", "none", "--only", *OURS]
    run(["env", "SOURCE_DATE_EPOCH=0", *words], timeout_s=DEB_TIMEOUT_S)
    return tuple(sorted(output.glob("*.deb")))

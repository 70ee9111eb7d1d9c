"""The machine that the tests here share: Debian with a kernel that has Open vSwitch's datapath, and this source tree.

Its image has what our packages and the labs need of Debian, and nothing of ours; so it is built once.
"""

from __future__ import annotations

from pathlib import Path

from xenflow_lab.machines import accelerator, image, qemu, tree
from xenflow_lab.machines.machine import Machine
from xenflow_lab.machines.recipe import Recipe

IDLE = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("e2scrub_reap.service", "man-db.timer", "logrotate.timer", "serial-getty@ttyS0.service", "getty@tty1.service"),
    *("bird.service", "frr.service", "nftables.service"),
)
PATIENCE = "[Manager]\nDefaultTimeoutStartSec=10min\nDefaultDeviceTimeoutSec=10min\n"
"""Emulation is slow, above all on a machine that is busy."""
BOOT_S = 900.0
RECIPE = Recipe(
    "kernel",
    packages=(
        *("adduser", "arping", "bird2", "ethtool", "frr", "iperf3", "mtr-tiny", "nftables", "openssl"),
        *("openvswitch-switch", "tcpdump", "traceroute"),
        *("ansible-core", "python3-apt"),
        *("python3-cffi-backend", "python3-click", "python3-rich", "python3-sortedcontainers"),
    ),
    files={"/etc/systemd/system.conf.d/patience.conf": PATIENCE},
    commands=(f"systemctl mask -q {' '.join(IDLE)}", "systemctl enable -q openvswitch-switch"),
)
TREE = "/dev/vdb"


def start(directory: Path, name: str = "xfkernel", niceness: int = 10) -> Machine:
    """Return a machine that is up, and prepared; all its files are in `directory`. It is not ended if that fails."""
    built = image.build(RECIPE)
    disk = directory / "tree.ext4"
    tree.make_disk(disk)
    made_of = qemu.Machine(
        name,
        str(built.kernel),
        str(built.initrd),
        disks=(qemu.Disk(str(built.disk)), qemu.Disk(str(disk))),
        cpus=2,
        memory_mib=2048,
        accelerator=accelerator.best(built),
    )
    machine = Machine.create(made_of, directory)
    machine.start(niceness=niceness)
    machine.wait_booted(BOOT_S)
    _prepare(machine)
    return machine


def reboot(machine: Machine) -> None:
    """Reboot one, and return once it is up, and prepared again."""
    machine.reboot(BOOT_S)
    _prepare(machine)


def _prepare(machine: Machine) -> None:
    """Mount the source tree, and load what the kernel has of the datapath."""
    tree.mount(machine, TREE)
    machine.shell("modprobe -a openvswitch sch_htb cls_bpf")

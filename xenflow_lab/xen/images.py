"""What the two images of a Xen lab are made of: a host's Dom0, and the disk that all routers share. Pure.

Dom0 is what docs/install.md says of a node: Debian, Xen, Open vSwitch, and our packages by apt.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from xenflow_lab.command import run
from xenflow_lab.machines import image
from xenflow_lab.machines.image import Image
from xenflow_lab.machines.recipe import Recipe
from xenflow_lab.vms import image as vms

HOST_DEBS: Final = ("xenflow-common", "xenflow", "xenflow-server")
ROUTER_DEBS: Final = ("xenflow-common", "xenflow-client")
_EXAMPLES: Final = "/usr/share/doc/xenflow-server/examples"
MIGRATION_PORT: Final = 8002
BUILD: Final = Path(__file__).parents[2] / "deploy" / "deb" / "build.py"
BUILD_TIMEOUT_S: Final = 600.0
VERSION: Final = "0~lab1"
_XEN: Final = "4.17"
_HOST_PACKAGES: Final = (
    *(f"xen-hypervisor-{_XEN}-amd64", f"xen-utils-{_XEN}", "xen-utils-common", "xenstore-utils"),
    *("openvswitch-switch", "openssh-server", "socat"),
    *("adduser", "python3-click", "python3-rich", "python3-cffi-backend", "python3-sortedcontainers"),
    *("libvirt-daemon", "libvirt-daemon-driver-xen", "python3-libvirt"),
)
"""libvirt has no unit in these (libvirt-daemon-system has): hosts ask xl, and only who starts libvirtd has it."""
_EXT4: Final = ("crc32c_generic", "ext4")
_ROUTER_MODULES: Final = ("xen-blkfront", "xen-netfront", "overlay")
_SSHD: Final = "/usr/local/sbin/xenflow-xen-sshd"
_SSHD_SCRIPT: Final = """\
#!/bin/sh
# Lets Dom0 in, which has the key: there is no agent of QEMU in a guest of Xen.
mkdir -p /run/sshd
exec /usr/sbin/sshd -D -e >/dev/console 2>&1
"""
_QUIET: Final = "systemctl mask -q " + " ".join(
    [
        *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
        *("systemd-tmpfiles-clean.timer", "systemd-pstore.service", "e2scrub_reap.service", "getty@tty1.service"),
        *("serial-getty@hvc0.service", "systemd-logind.service", "systemd-update-utmp.service"),
        *("systemd-update-utmp-runlevel.service", "systemd-user-sessions.service", "console-getty.service"),
    ]
)
_PATIENCE: Final = "[Manager]\nDefaultTimeoutStartSec=20min\nDefaultDeviceTimeoutSec=20min\n"
"""Emulation is slow, and whoever has the machine for himself today shares it tomorrow."""
_LONG_TO_START: Final = ("xen", "qos-controller", "xenflow-server")
_LONG_START: Final = "[Service]\nTimeoutStartSec=20min\n"
_FEW_DEVICES: Final = """\
# All drivers are there already, and most devices of an emulated machine are nobody's: udev would take minutes for them.
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=net
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=block --sysname-match=vd*
"""
_QUEUES: Final = "net.core.default_qdisc = pfifo_fast\n"
"""Debian's kernel has fq_codel, which drops what waits for more than 5 ms again and again: emulation takes longer."""
_VIFS: Final = "[Match]\nOriginalName=vif*\n\n[Link]\nTransmitQueueLength=4096\n"
"""Netback's own is 32 packets."""
_FORWARDING: Final = """\
[Unit]
Description=Packets go before processes that copy memory: there is one processor for both

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for pid in $$(pgrep "^ksoftirqd/"); do chrt --fifo --pid 1 "$$pid"; done'

[Install]
WantedBy=multi-user.target
"""
_RECEIVER: Final = f"""\
[Unit]
Description=Takes machines that another Xen host sends
Requires=xen.service
After=xen.service

[Service]
ExecStart=/usr/bin/socat TCP-LISTEN:{MIGRATION_PORT},reuseaddr,fork EXEC:"/usr/sbin/xl migrate-receive"
Restart=always
Nice=10

[Install]
WantedBy=multi-user.target
"""


def build_packages(output: Path, version: str = VERSION) -> None:
    """Build our packages from this source tree into a directory: the same files give the same packages."""
    words: list[str | Path] = [sys.executable, BUILD, "--output", output, "--version", version, "--compression", "none"]
    run(["env", "SOURCE_DATE_EPOCH=0", *words], timeout_s=BUILD_TIMEOUT_S)


def build() -> tuple[Image, Image]:
    """Return the images of hosts and of routers, from the cache or new. Raises ConfigError, LabError."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        debs = Path(name)
        build_packages(debs)
        found_host, found_router = pool.map(image.build, (host(debs), router(debs)))
    return found_host, found_router


def pick(directory: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """Return the packages of these names in a directory, such as dist/."""
    return tuple(path for name in names for path in sorted(directory.glob(f"{name}_*.deb")))


def kernel_version(built: Image) -> str:
    """Return the version of an image's kernel, as its files are named."""
    return next(built.directory.joinpath("boot").glob("config-*")).name.removeprefix("config-")


def host(debs: Path) -> Recipe:
    """Return the recipe of a Xen host's disk, with our packages in the directory `debs`."""
    return Recipe(
        "xen-host",
        packages=_HOST_PACKAGES,
        debs=pick(debs, HOST_DEBS),
        modules=("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", *_EXT4),
        files={
            "/etc/systemd/system/xl-migrate-receive.service": _RECEIVER,
            "/etc/systemd/system/xenflow-lab-forwarding.service": _FORWARDING,
            "/etc/sysctl.d/60-lab.conf": _QUEUES,
            "/etc/systemd/network/30-vif.link": _VIFS,
            "/etc/systemd/system.conf.d/10-lab.conf": _PATIENCE,
            "/etc/systemd/journald.conf.d/10-lab.conf": "[Journal]\nStorage=volatile\n",
            "/etc/systemd/system/systemd-networkd.service.d/10-lab.conf": "[Service]\nWatchdogSec=0\n",
            **{f"/etc/systemd/system/{unit}.service.d/10-lab.conf": _LONG_START for unit in _LONG_TO_START},
            "/etc/systemd/system/systemd-udev-trigger.service.d/10-lab.conf": _FEW_DEVICES,
            "/etc/systemd/system/ovs-vswitchd.service.d/20-first.conf": "[Service]\nCPUWeight=1000\n",
        },
        commands=(
            _QUIET,
            f"cp {_EXAMPLES}/xfctl.netdev {_EXAMPLES}/xfctl.network {_EXAMPLES}/xfctl-vif.network /etc/systemd/network",
            f"install -D -m 644 {_EXAMPLES}/xl.conf.example /etc/systemd/system/xenflow-server.service.d/xl.conf",
            f"install -m 644 {_EXAMPLES}/xenflow-dom0.service /etc/systemd/system",
            "mkdir -p /var/log/xen/console",
            "echo 'XENCONSOLED_ARGS=\"--log=guest\"' >> /etc/default/xen",
            "systemctl disable -q ssh && systemctl mask -q xendomains",
            "systemctl enable -q systemd-networkd ssh.socket xl-migrate-receive xenflow-lab-forwarding xenflow-dom0",
            f"gunzip -c /boot/xen-{_XEN}-amd64.gz > /boot/xen.elf",
        ),
    )


def router(debs: Path) -> Recipe:
    """Return the recipe of the routers' disk: that of `vms` with Xen's drivers in its initial RAM disk, and ssh."""
    common = vms.recipe(pick(debs, ROUTER_DEBS))
    return dataclasses.replace(
        common,
        name="xen-router",
        modules=_ROUTER_MODULES,
        packages=(*common.packages, "openssh-server"),
        files={**common.files, "/etc/inittab": f"{vms.INITTAB}::respawn:{_SSHD}\n", _SSHD: _SSHD_SCRIPT},
    )

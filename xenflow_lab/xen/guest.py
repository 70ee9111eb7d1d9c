"""A router as a PVH guest of Xen: its configuration for xl, and its initial RAM disk. Pure.

The machine is that of `vms`: one disk that nobody writes to, of which a migration's target has a copy, and a tar file
with what makes it this router. Here that file is in the initial RAM disk, which is needed at the start only.
"""

from __future__ import annotations

import gzip
import stat
from typing import Final

from xenflow_lab.machines.initrd import HOOK, Entry, archive
from xenflow_lab.plan import BRIDGE, CONTROL_BRIDGE, ControlLink, Machine, Plan, Vif
from xenflow_lab.vms import guest as vms

MEMORY_MIB: Final = 192
DISK: Final = "/srv/xenflow-lab/router"
"""Where Dom0 has the routers' disk mounted, for the kernel on it; the device itself is `DEVICE`."""
DEVICE: Final = "/dev/vdb"
_XL: Final = {"cpu_weight": "cpu_weight", "cpu_cap": "cap"}
"""What xl.cfg(5) calls them."""
_OWN: Final = "own.tar"
_SCRIPT: Final = f"/bin/busybox cp /{_OWN} /dev/vdb\n"
"""The machine looks for the file where QEMU would give it a disk."""


def configuration(plan: Plan, router: Machine, kernel: str, *, with_xenflow: bool = True) -> str:
    """Return the file for `xl create`: vif-xenflow plugs the router's vifs; its control interface is beside them.

    Without XenFlow its vifs are those of Xen's own script, each with the tag of its network.
    """
    vifs = [vif for vif in plan.vifs if vif.machine == router.name]
    tags = {network.name: network.vid for network in plan.topology.network}
    wires = [_vif(vif, 0 if with_xenflow else tags[vif.network]) for vif in vifs]
    wires.append(_control(control_of(plan, router.name)))
    return "\n".join(
        [
            f'name = "{router.name}"',
            *(f'uuid = "{vif.vm_id}"' for vif in vifs[:1]),
            'type = "pvh"',
            'tsc_mode = "native"',
            f'kernel = "{DISK}/boot/vmlinuz-{kernel}"',
            f'ramdisk = "/srv/xenflow-lab/{router.name}.initrd"',
            'cmdline = "root=/dev/xvda console=hvc0 net.ifnames=0 mitigations=off audit=0 quiet panic=1"',
            f"memory = {memory_mib(router)}",
            f"vcpus = {router.resources.vcpus or 1}",
            *(f"{_XL[key]} = {value}" for key, value in router.resources.said() if key in _XL),
            f"disk = ['phy:{DEVICE},xvda,r']",
            "vif = [" + ", ".join(f"'{wire}'" for wire in wires) + "]",
            "",
        ]
    )


def memory_mib(router: Machine) -> int:
    """Return how much memory a router's guest has."""
    return router.resources.memory_mib or MEMORY_MIB


def entrance(private: str, public: str) -> vms.Files:
    """Return the files by which who has the lab's key comes into a router."""
    return {
        "root/.ssh/authorized_keys": (public, 0o600),
        "etc/ssh/ssh_host_ed25519_key": (private, 0o600),
        "etc/ssh/sshd_config.d/lab.conf": ("HostKey /etc/ssh/ssh_host_ed25519_key\nUsePAM no\n", 0o644),
    }


def control_of(plan: Plan, router: str) -> ControlLink:
    """Return the control link of a router."""
    return next(link for link in plan.controls if link.router == router)


def _vif(vif: Vif, tag: int) -> str:
    plugged = f"{BRIDGE}.{tag},script=vif-openvswitch" if tag else f"{BRIDGE},script=vif-xenflow"
    return f"mac={vif.interface.mac},bridge={plugged}"


def _control(control: ControlLink) -> str:
    return f"mac={control.mac},bridge={CONTROL_BRIDGE},script=vif-bridge,vifname={CONTROL_BRIDGE}-{control.router}"


def initrd(common: bytes, own: bytes) -> bytes:
    """Return the initial RAM disk of a router: the common one, and the tar file of what is its own.

    It is one gzip member, since xl unpacks it by the length at its end.
    """
    entries = [Entry(_OWN, stat.S_IFREG | 0o600, own), Entry(HOOK.strip("/"), stat.S_IFREG | 0o755, _SCRIPT.encode())]
    return gzip.compress(gzip.decompress(common) + archive(entries), 1, mtime=0)

"""The command line of a machine: pure, from what it is made of."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

import msgspec

AGENT_PORTS: Final = 4
"""So many users (processes) may ask one machine at the same time."""
DEFAULT_CPU: Final = "max"


class Disk(msgspec.Struct, frozen=True):
    """A virtio disk. With `overlay` the file stays as it is: what is written goes to one of the machine's own."""

    path: str
    overlay: bool = True
    format: str = "raw"
    readonly: bool = False


class Nic(msgspec.Struct, frozen=True):
    """A virtio network interface: `netdev` as QEMU takes it, without id, such as `socket,listen=127.0.0.1:7001`."""

    netdev: str
    mac: str = ""
    model: str = "virtio-net-pci"
    options: tuple[str, ...] = ()
    """Of the device, such as `rx_queue_size=1024`."""


class Machine(msgspec.Struct, frozen=True):
    """What a machine is made of."""

    name: str
    kernel: str
    initrd: str = ""
    """As QEMU takes it: for multiboot "file arguments,file"."""
    append: str = "root=/dev/vda console=ttyS0 net.ifnames=0 mitigations=off quiet"
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    memory_mib: int = 1024
    cpus: int = 1
    cpu: str = DEFAULT_CPU
    """QEMU's -cpu under emulation; under KVM it is `host`."""
    accelerator: str = "tcg"
    """`tcg` (software emulation) or `kvm`; `accelerator.best` tells which one works."""
    extra: tuple[str, ...] = ()
    """More of QEMU's options."""


def agent_socket(directory: Path, number: int) -> Path:
    """Return where the host finds the machine's agent."""
    return directory / f"agent{number}.sock"


def monitor_socket(directory: Path) -> Path:
    """Return where QEMU takes commands (QMP)."""
    return directory / "qmp.sock"


def console_log(directory: Path) -> Path:
    """Return the file that QEMU writes what the machine prints to; nobody has to read it for the machine to go on."""
    return directory / "console.log"


def overlay(directory: Path, number: int) -> Path:
    """Return what is written to the disk `number`."""
    return directory / f"disk{number}.qcow2"


def argv(machine: Machine, directory: Path, snapshot: str = "") -> list[str]:
    """Return the command that runs `machine` with its files in `directory`, from `snapshot` if there is one."""
    accelerator = "kvm" if machine.accelerator == "kvm" else "tcg,thread=multi,tb-size=512"
    words = [
        *("qemu-system-x86_64", "-name", machine.name, "-machine", "pc", "-accel", accelerator),
        *("-cpu", "host" if machine.accelerator == "kvm" else machine.cpu, "-smp", str(machine.cpus)),
        *("-m", str(machine.memory_mib), "-nodefaults", "-no-user-config", "-vga", "none", "-display", "none"),
        *("-chardev", f"file,id=console,path={console_log(directory)},append=on", "-serial", "chardev:console"),
        *("-qmp", f"unix:{monitor_socket(directory)},server=on,wait=off"),
        *("-device", "virtio-rng-pci", "-kernel", machine.kernel, "-append", machine.append),
    ]
    if machine.initrd:
        words += ["-initrd", machine.initrd]
    words += _agent(directory)
    for number, disk in enumerate(machine.disks):
        words += _disk(disk, directory, number)
    for number, nic in enumerate(machine.nics):
        mac = nic.mac or generated_mac(machine.name, number)
        device = ",".join([nic.model, f"netdev=net{number}", f"mac={mac}", *nic.options])
        words += ["-netdev", f"{nic.netdev},id=net{number}", "-device", device]
    return [*words, *machine.extra, *(("-loadvm", snapshot) if snapshot else ())]


def _agent(directory: Path) -> list[str]:
    words = ["-device", "virtio-serial-pci,id=serial"]
    for number in range(AGENT_PORTS):
        words += ["-chardev", f"socket,id=agent{number},path={agent_socket(directory, number)},server=on,wait=off"]
        words += ["-device", f"virtserialport,bus=serial.0,chardev=agent{number},name=xenflow.{number}"]
    return words


def _disk(disk: Disk, directory: Path, number: int) -> list[str]:
    path, kind = (str(overlay(directory, number)), "qcow2") if disk.overlay else (disk.path, disk.format)
    readonly = ",readonly=on" if disk.readonly else ""
    drive = f"file={path},format={kind},if=none,id=disk{number},cache=unsafe{readonly}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive=disk{number}"]


def generated_mac(name: str, number: int) -> str:
    """Return a locally administered address, always the same for the same machine."""
    digest = zlib.crc32(name.encode())
    octets = (0x52, 0x54, *digest.to_bytes(4, "big")[:3], number)
    return ":".join(f"{octet:02x}" for octet in octets)

"""libvirt's description of a virtual router's machine. Pure: a router of the plan -> XML.

The interfaces are those of deploy/libvirt/interface.xml, in this order: the networks', then the control interface. Two
things are the lab's: names of the taps, which a live migration keeps, and no offloads, since the userspace datapath
takes frames from sockets and needs their checksums.
"""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from xenflow.resources import Resources
from xenflow_lab.machines.image import Image
from xenflow_lab.plan import BRIDGE, CONTROL_BRIDGE, Vif

MEMORY_MIB: Final = 256
EMULATOR: Final = "/usr/bin/qemu-system-x86_64"
AGENT: Final = "org.qemu.guest_agent.0"
NO_NETWORK: Final = 4095
"""A tag that no network can have: until XenFlow's flows admit the machine, its ports lead nowhere."""
QEMU: Final = "{http://libvirt.org/schemas/domain/qemu/1.0}"
STOP_FIRST: Final = "migration.x-downtime-limit=60000"
"""Has QEMU stop the machine as soon as it knows the speed (ms that it may be stopped): under software emulation, memory
that is written while it is being sent can get lost, and the guest's kernel fails after the migration."""
COMMAND_LINE: Final = "console=ttyS0 quiet panic=1 root=/dev/vda"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A machine to be: its image, second disk, interfaces; `tags`: network -> VLAN tag of a port in it."""

    name: str
    image: Image
    disk: Path
    console: Path
    accelerator: str
    vifs: tuple[Vif, ...]
    control: tuple[str, str]
    """Name and MAC address of the control interface's tap."""
    tags: Mapping[str, int] = field(default_factory=dict)
    """Those that are not here get a tag that leads nowhere."""
    resources: Resources = field(default_factory=Resources)
    """What the file says of it; the server sees to weight and cap, for which control groups are needed."""

    @property
    def uuid(self) -> str:
        """The machine's uuid: the plan's."""
        return self.vifs[0].vm_id if self.vifs else str(uuid.uuid5(uuid.NAMESPACE_DNS, self.name))


def document(wanted: Wanted) -> str:
    """Return the description."""
    root = ElementTree.Element("domain", type="kvm" if wanted.accelerator == "kvm" else "qemu")
    _text(root, "name", wanted.name)
    _text(root, "uuid", wanted.uuid)
    _text(root, "memory", str(wanted.resources.memory_mib or MEMORY_MIB), unit="MiB")
    _text(root, "vcpu", str(wanted.resources.vcpus or 1))
    system = _add(root, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="pc")
    _text(system, "kernel", str(wanted.image.kernel))
    _text(system, "initrd", str(wanted.image.initrd))
    _text(system, "cmdline", COMMAND_LINE)
    _add(_add(root, "features"), "acpi")
    devices = _add(root, "devices")
    _text(devices, "emulator", EMULATOR)
    for place, source in (("vda", wanted.image.disk), ("vdb", wanted.disk)):
        _disk(devices, place, source)
    for vif in wanted.vifs:
        _vif(devices, vif, wanted.tags.get(vif.network, NO_NETWORK))
    _control(devices, *wanted.control)
    serial = _add(devices, "serial", type="file")
    _add(serial, "source", path=str(wanted.console), append="on")
    channel = _add(devices, "channel", type="unix")
    _add(channel, "target", type="virtio", name=AGENT)
    _add(devices, "controller", type="usb", model="none")
    _add(devices, "memballoon", model="none")
    if wanted.accelerator != "kvm":
        ElementTree.register_namespace("qemu", QEMU.strip("{}"))
        arguments = _add(root, f"{QEMU}commandline")
        for value in ("-global", STOP_FIRST):
            _add(arguments, f"{QEMU}arg", value=value)
    return ElementTree.tostring(root, encoding="unicode")


def _disk(devices: ElementTree.Element, place: str, source: Path) -> None:
    """Read only: whoever migrates the machine finds the same file on the other node."""
    disk = _add(devices, "disk", type="file", device="disk")
    _add(disk, "driver", name="qemu", type="raw")
    _add(disk, "source", file=str(source))
    _add(disk, "target", dev=place, bus="virtio")
    _add(disk, "readonly")


def _vif(devices: ElementTree.Element, vif: Vif, tag: int) -> None:
    interface = _interface(devices, vif.interface.mac, BRIDGE, vif.port)
    _add(interface, "virtualport", type="openvswitch")
    _add(_add(interface, "vlan"), "tag", id=str(tag))
    _add(interface, "mtu", size=str(vif.interface.mtu))


def _control(devices: ElementTree.Element, name: str, mac: str) -> None:
    """A port of the host-local bridge that reaches the server and nobody else."""
    _add(_interface(devices, mac, CONTROL_BRIDGE, name), "port", isolated="yes")


def _interface(devices: ElementTree.Element, mac: str, bridge: str, name: str) -> ElementTree.Element:
    interface = _add(devices, "interface", type="bridge")
    _add(interface, "mac", address=mac)
    _add(interface, "source", bridge=bridge)
    _add(interface, "target", dev=name)
    _add(interface, "model", type="virtio")
    driver = _add(interface, "driver", name="qemu")
    _add(driver, "host", csum="off", gso="off", tso4="off", tso6="off", ecn="off", ufo="off", mrg_rxbuf="off")
    _add(driver, "guest", csum="off", tso4="off", tso6="off", ecn="off", ufo="off")
    return interface


def _add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _text(parent: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    _add(parent, tag, **attributes).text = text

"""Worlds of `test_hypervisor`: somebody who starts and ends machines, and the watcher that is to hear of it.

    model    the fake
    libvirt  libvirt's test driver: a life-cycle, events and interfaces, but no daemon, no migration, no hot-plug
    xl       this Xen host, by its own tool              in Dom0 (`make test-xen`): machines that run a kernel and
    xen      this Xen host, by libvirtd's Xen driver     sleep, with vifs at the bridge `xenbr0` by vif-xenflow

The kernel of Xen's machines is XENFLOW_GUEST_KERNEL; XENFLOW_GUEST_RAMDISK, its initial RAM disk, has /bin/busybox.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from tests.fakes.hypervisor import FakeHypervisor
from xenflow_server.hypervisor import Watcher

A, B = "0a1b2c3d-0000-4000-8000-00000000000a", "0a1b2c3d-0000-4000-8000-00000000000b"
PATIENCE: Final = float(os.environ.get("XENFLOW_PATIENCE", "1"))
CALL_S: Final = 60.0 * PATIENCE
"""For one call of xl: what it starts may be emulated."""
BRIDGE: Final = "xenbr0"
MEMORY_MIB: Final = 128
COMMAND_LINE: Final = "console=hvc0 mitigations=off audit=0 quiet rdinit=/bin/busybox -- sleep 1000000"
"""Its first process does nothing: no disk, no driver, no end."""
_TEST: Final = """<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>1</memory>
<os><type>hvm</type></os><devices>{interfaces}</devices></domain>"""
_TEST_INTERFACE: Final = f"""<interface type='bridge'><mac address='{{mac}}'/><source bridge='{BRIDGE}'/>
<virtualport type='openvswitch'/><vlan><tag id='4095'/></vlan></interface>"""
_XEN: Final = f"""<domain type='xen'><name>{{name}}</name><uuid>{{uuid}}</uuid>
<memory unit='MiB'>{MEMORY_MIB}</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='xenpvh'>xenpvh</type><kernel>{{kernel}}</kernel><initrd>{{ramdisk}}</initrd>
<cmdline>{COMMAND_LINE}</cmdline></os>
<clock offset='utc'><timer name='tsc' mode='native'/></clock><on_crash>preserve</on_crash>
<devices>{{interfaces}}</devices></domain>"""
_XEN_INTERFACE: Final = f"""<interface type='bridge'><mac address='{{mac}}'/><source bridge='{BRIDGE}'/>
<script path='/etc/xen/scripts/vif-xenflow'/></interface>"""
_XL: Final = f"""\
name = "{{name}}"
uuid = "{{uuid}}"
type = "pvh"
tsc_mode = "native"
kernel = "{{kernel}}"
ramdisk = "{{ramdisk}}"
cmdline = "{COMMAND_LINE}"
memory = {MEMORY_MIB}
vcpus = 1
on_crash = "preserve"
vif = [{{vifs}}]
"""


class World(Protocol):
    """Somebody who starts and ends machines."""

    watcher: Watcher

    def start(self, uuid: str, name: str, *macs: bytes) -> None: ...
    def pause(self, uuid: str) -> None: ...
    def resume(self, uuid: str) -> None: ...
    def destroy(self, uuid: str) -> None: ...
    def rename(self, uuid: str, name: str) -> None: ...
    def close(self) -> None: ...


class ModelWorld:
    def __init__(self) -> None:
        model = FakeHypervisor()
        self.watcher: Watcher = model
        self._model = model
        self._macs: dict[str, tuple[bytes, ...]] = {}

    def start(self, uuid: str, name: str, *macs: bytes) -> None:
        self._macs[uuid] = macs
        self._model.start(uuid, name, *macs)

    def pause(self, uuid: str) -> None:
        self._model.pause(uuid)

    def resume(self, uuid: str) -> None:
        self._model.resume(uuid)

    def destroy(self, uuid: str) -> None:
        self._model.end(uuid)

    def rename(self, uuid: str, name: str) -> None:
        self.destroy(uuid)
        self.start(uuid, name, *self._macs[uuid])

    def close(self) -> None:
        pass


class LibvirtWorld:
    """The test driver: its machines live in this process, and are shared by all of its connections."""

    uri = "test:///default"

    def __init__(self) -> None:
        import libvirt

        from xenflow_server.libvirt_adapter import LibvirtWatcher, prepare

        prepare()
        self.watcher: Watcher = LibvirtWatcher(self.uri)
        self._connection = libvirt.open(self.uri)
        self._error = libvirt.libvirtError
        self._macs: dict[str, tuple[bytes, ...]] = {}

    def describe(self, uuid: str, name: str, macs: tuple[bytes, ...]) -> str:
        """Return the XML of a machine."""
        interfaces = "".join(_TEST_INTERFACE.format(mac=mac.hex(":")) for mac in macs)
        return _TEST.format(name=name, uuid=uuid, interfaces=interfaces)

    def start(self, uuid: str, name: str, *macs: bytes) -> None:
        self._macs[uuid] = macs
        self._connection.defineXML(self.describe(uuid, name, macs)).create()

    def pause(self, uuid: str) -> None:
        self._connection.lookupByUUIDString(uuid).suspend()

    def resume(self, uuid: str) -> None:
        self._connection.lookupByUUIDString(uuid).resume()

    def destroy(self, uuid: str) -> None:
        self._connection.lookupByUUIDString(uuid).destroy()

    def rename(self, uuid: str, name: str) -> None:
        domain = self._connection.lookupByUUIDString(uuid)
        domain.destroy()
        domain.rename(name)
        domain.create()

    def close(self) -> None:
        for uuid in (A, B):
            with contextlib.suppress(self._error):
                domain = self._connection.lookupByUUIDString(uuid)
                with contextlib.suppress(self._error):
                    domain.destroy()
                domain.undefine()
        self._connection.close()


class LibvirtXenWorld(LibvirtWorld):
    """libvirtd's Xen driver, which sees no machine but its own."""

    uri = "xen:///system"

    def describe(self, uuid: str, name: str, macs: tuple[bytes, ...]) -> str:
        interfaces = "".join(_XEN_INTERFACE.format(mac=mac.hex(":")) for mac in macs)
        return _XEN.format(name=name, uuid=uuid, interfaces=interfaces, **guest())

    def rename(self, uuid: str, name: str) -> None:
        """The driver cannot rename: what was defined goes, and is defined again with the uuid that it had."""
        domain = self._connection.lookupByUUIDString(uuid)
        domain.destroy()
        domain.undefine()
        self.start(uuid, name, *self._macs[uuid])


class XlWorld:
    """Xen's own tool, which knows machines by their names."""

    def __init__(self) -> None:
        from xenflow_server.xl import XlWatcher

        self.watcher: Watcher = XlWatcher()
        self._names: dict[str, str] = {}

    def start(self, uuid: str, name: str, *macs: bytes) -> None:
        self._names[uuid] = name
        vifs = ", ".join(f"'mac={mac.hex(':')},bridge={BRIDGE},script=vif-xenflow'" for mac in macs)
        with tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
            file.write(_XL.format(name=name, uuid=uuid, vifs=vifs, **guest()))
            file.flush()
            _xl("create", file.name)

    def pause(self, uuid: str) -> None:
        _xl("pause", self._names[uuid])

    def resume(self, uuid: str) -> None:
        _xl("unpause", self._names[uuid])

    def destroy(self, uuid: str) -> None:
        _xl("destroy", self._names.pop(uuid))

    def rename(self, uuid: str, name: str) -> None:
        """It goes on meanwhile."""
        _xl("rename", self._names[uuid], name)
        self._names[uuid] = name

    def close(self) -> None:
        for name in self._names.values():
            with contextlib.suppress(AssertionError):  # one that was not created
                _xl("destroy", name)


WORLDS: Final[Mapping[str, Callable[[], World]]] = {
    "model": ModelWorld,
    "libvirt": LibvirtWorld,
    "xl": XlWorld,
    "xen": LibvirtXenWorld,
}


def guest() -> dict[str, str]:
    """Return what a machine of Xen starts from: `kernel` and `ramdisk`. Raises KeyError if nobody has said."""
    return {"kernel": os.environ["XENFLOW_GUEST_KERNEL"], "ramdisk": os.environ["XENFLOW_GUEST_RAMDISK"]}


def _xl(*words: str) -> None:
    """Run xl to its end. Raises AssertionError with what it complains of."""
    done = subprocess.run(
        ["xl", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALL_S, check=False
    )
    assert done.returncode == 0, f"xl {' '.join(words)}: exit code {done.returncode}: {done.stderr}{done.stdout}"

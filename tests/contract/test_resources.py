"""One suite for whatever gives machines processor and memory: the model, xl's model, libvirt's test driver, real QEMU.

libvirt's test driver has memory and processors, no cap, and a weight that stays as it is. QEMU is in control groups of
the kernel if it may be; its guest here is a firmware that never gives memory back.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.machines import XL, FakeMachine, FakeMachines
from tests.private_libvirt import QEMU, PrivateLibvirt, lacks, lacks_groups
from xenflow.errors import DataplaneError
from xenflow.resources import Resources
from xenflow_server.granting import Adjustable, Grant
from xenflow_server.resourcing import InThread
from xenflow_server.xl_machine import XlMachines

UUID = "0a1b2c3d-0000-4000-8000-00000000000d"
MACHINE = """<domain type='{type}'><name>{name}</name><uuid>{uuid}</uuid>
<memory unit='MiB'>128</memory><currentMemory unit='MiB'>64</currentMemory><vcpu current='1'>2</vcpu>
<os><type arch='x86_64'>hvm</type></os>{devices}</domain>"""
DEVICES = f"<devices><emulator>{QEMU}</emulator><controller type='usb' model='none'/></devices>"
MOST_MIB, MOST_VCPUS = 128, 2


@dataclasses.dataclass(frozen=True)
class World:
    """A machine with 64 of 128 MiB and one of two processors. `cap`, `weight` and `memory`: what it really can."""

    find: Callable[[str], Adjustable]
    weight: bool = True
    cap: bool = True
    memory: bool = True

    def grant(self, wanted: Resources, uuid: str = UUID) -> Grant:
        async def ask() -> Grant:
            return await asyncio.wait_for(InThread(self.find).grant(uuid, wanted), 30)

        return asyncio.run(ask())


@contextlib.contextmanager
def model() -> Iterator[World]:
    machine = FakeMachine(MOST_MIB, MOST_VCPUS, has={"memory_mib": 64, "vcpus": 1})
    yield World(FakeMachines({UUID: machine}).find)


@contextlib.contextmanager
def xl(scheduler: str = "credit2") -> Iterator[World]:
    one = {"uuid": UUID, "name": "r 1", "mem": 64, "vcpus": 1, "weight": 256, "cap": 0}
    host = {"0": one | {"uuid": "", "name": "Domain-0"}, "3": one | {"most": MOST_MIB, "most_vcpus": MOST_VCPUS}}
    with tempfile.TemporaryDirectory() as directory:
        program, state = Path(directory, "xl.py"), Path(directory, "state")
        program.write_text(XL)
        state.write_text(json.dumps({"scheduler": scheduler, **host}))
        yield World(XlMachines((sys.executable, "-IS", str(program), str(state))).find)


@contextlib.contextmanager
def libvirt_test() -> Iterator[World]:
    import libvirt

    from xenflow_server.libvirt_machine import LibvirtMachines

    connection = libvirt.open("test:///default")
    domain = connection.createXML(MACHINE.format(type="test", name="r1", uuid=UUID, devices=""))
    try:
        yield World(LibvirtMachines("test:///default").find, weight=False, cap=False)
    finally:
        domain.destroy()
        connection.close()


@contextlib.contextmanager
def qemu(*, groups: bool = True) -> Iterator[World]:
    import libvirt

    from xenflow_server.libvirt_machine import LibvirtMachines

    directory = Path(tempfile.mkdtemp(prefix="xfv"))
    host = PrivateLibvirt(directory, groups=groups)
    try:
        host.start()
        name = f"r-{uuid.uuid4().hex[:8]}"  # also that of its control group, which the machine has only once
        connection = libvirt.open(host.uri)
        connection.createXML(MACHINE.format(type="qemu", name=name, uuid=UUID, devices=DEVICES))
        connection.close()
        yield World(LibvirtMachines(host.uri).find, weight=groups, cap=groups, memory=False)
        connection = libvirt.open(host.uri)  # a fresh one: nobody has answered pings on an older one
        connection.lookupByUUIDString(UUID).destroy()
        connection.close()
    finally:
        host.stop()
        shutil.rmtree(directory, ignore_errors=True)


WORLDS: dict[str, Any] = {"model": model, "xl": xl, "libvirt": libvirt_test, "qemu": qemu}
needs_libvirt = pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="needs python3-libvirt")
needs_qemu = [
    needs_libvirt,
    pytest.mark.root,
    pytest.mark.skipif(bool(lacks() or lacks_groups()), reason=lacks() or lacks_groups() or "-"),
]


@pytest.fixture(
    scope="module",
    params=["model", "xl", pytest.param("libvirt", marks=needs_libvirt), pytest.param("qemu", marks=needs_qemu)],
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with WORLDS[request.param]() as made:
        yield made


def test_nothing_wanted_changes_nothing(world: World) -> None:
    before = world.grant(Resources())
    assert before.problems == ()
    assert before.has.vcpus is not None
    assert before.has.memory_mib is not None
    assert world.grant(Resources()) == before


def test_processors_and_memory_while_it_runs(world: World) -> None:
    grant = world.grant(Resources(memory_mib=96, vcpus=2))
    assert grant.has.vcpus == 2
    if world.memory:
        assert (grant.has.memory_mib, grant.problems) == (96, ())
    else:
        assert ["memory_mib = 96: the guest has not followed (yet)" in text for text in grant.problems] == [True]
    assert world.grant(Resources(memory_mib=96, vcpus=2)) == grant, "applied twice is as applied once"


def test_weight_and_cap(world: World) -> None:
    grant = world.grant(Resources(cpu_weight=512, cpu_cap=50))
    said = " ".join(grant.problems)
    assert (grant.has.cpu_weight == 512) == world.weight == ("cpu_weight = 512" not in said)
    assert (grant.has.cpu_cap == 50) == world.cap == ("cpu_cap = 50" not in said)
    if world.cap:
        assert world.grant(Resources(cpu_cap=0)).has.cpu_cap == 0, "no cap again"


@pytest.mark.parametrize(
    ("wanted", "key"), [(Resources(memory_mib=4096), "memory_mib"), (Resources(vcpus=64), "vcpus")]
)
def test_too_much_is_refused_with_the_reason_and_the_rest_goes_on(world: World, wanted: Resources, key: str) -> None:
    before = world.grant(Resources())
    grant = world.grant(wanted)
    assert [text.partition(" = ")[0] for text in grant.problems] == [key]
    assert grant.has == before.has
    both = Resources(wanted.memory_mib, wanted.vcpus or 1, cpu_weight=300)
    grant = world.grant(both)
    assert (grant.has.cpu_weight == 300) == world.weight


def test_a_machine_that_is_not_here(world: World) -> None:
    with pytest.raises(DataplaneError):
        world.grant(Resources(vcpus=1), "0a1b2c3d-0000-4000-8000-0000000000ee")


@pytest.mark.parametrize("scheduler", ["credit", "credit2", "null"])
def test_schedulers_of_xen(scheduler: str) -> None:
    with xl(scheduler) as world:
        grant = world.grant(Resources(cpu_weight=512, cpu_cap=50))
        if scheduler == "null":
            assert (grant.has.cpu_weight, grant.has.cpu_cap) == (None, None)
            assert all("has no weight and cap" in text for text in grant.problems)
            assert len(grant.problems) == 2
        else:
            assert grant == Grant(Resources(64, 1, 512, 50))


@pytest.mark.root
@needs_libvirt
@pytest.mark.skipif(bool(lacks()), reason=lacks() or "-")
def test_qemu_without_control_groups_says_so_and_the_rest_goes_on() -> None:
    with qemu(groups=False) as world:
        grant = world.grant(Resources(vcpus=2, cpu_weight=512, cpu_cap=50))
        assert (grant.has.vcpus, grant.has.cpu_weight, grant.has.cpu_cap) == (2, None, None)
        assert ["cgroup CPU controller" in text for text in grant.problems] == [True, True]

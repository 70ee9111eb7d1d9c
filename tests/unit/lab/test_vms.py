"""Routers as virtual machines: what libvirt is told of them, what is on their second disks, where they are."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.unit.lab.topologies import RING, parsed
from xenflow_lab.machines.image import Image
from xenflow_lab.paths import Paths
from xenflow_lab.plan import Kind, Plan, plan
from xenflow_lab.vms import domain, guest, image, machines


@pytest.fixture
def ring() -> Plan:
    return machines.planned(plan(parsed(RING), "x"))


def wanted(ring: Plan, **tags: int) -> domain.Wanted:
    router = ring.of_kind(Kind.ROUTER)[0]
    vifs = tuple(vif for vif in ring.vifs if vif.machine == router.name)
    link = next(link for link in ring.controls if link.router == router.name)
    names = (Path("/disk.tar"), Path("/console.log"))
    control = (link.port, link.mac)
    return domain.Wanted(router.name, Image(Path("/i")), *names, "tcg", vifs, control, tags, router.resources)


def test_ports_have_the_vifs_names_and_lead_nowhere_until_they_are_admitted(ring: Plan) -> None:
    machine = wanted(ring)
    root = ElementTree.fromstring(domain.document(machine))
    assert root.get("type") == "qemu"
    assert root.findtext("uuid") == machine.vifs[0].vm_id
    *vifs, control = root.findall("devices/interface")
    for vif, interface in zip(machine.vifs, vifs, strict=True):
        assert interface.find("mac").get("address") == vif.interface.mac  # type: ignore[union-attr]
        assert interface.find("target").get("dev") == vif.port  # type: ignore[union-attr]
        assert interface.find("vlan/tag").get("id") == str(domain.NO_NETWORK)  # type: ignore[union-attr]
        assert interface.find("virtualport").get("type") == "openvswitch"  # type: ignore[union-attr]
    assert control.find("port").get("isolated") == "yes"  # type: ignore[union-attr]
    assert control.find("virtualport") is None


def test_a_machine_starts_with_what_the_file_says_of_it() -> None:
    usual = wanted(plan(parsed(RING), "x"))
    given = wanted(plan(parsed(RING.replace("max_flows = 7", "memory_mib = 512\nvcpus = 2")), "x"))
    for machine, expected in ((usual, ("256", "1")), (given, ("512", "2"))):
        root = ElementTree.fromstring(domain.document(machine))
        assert (root.findtext("memory"), root.findtext("vcpu")) == expected


def test_plain_switches_get_the_networks_tags(ring: Plan) -> None:
    first = wanted(ring).vifs[0].network
    root = ElementTree.fromstring(domain.document(wanted(ring, **{first: 77})))
    assert root.find("devices/interface/vlan/tag").get("id") == "77"  # type: ignore[union-attr]


def test_both_disks_are_read_only_so_that_the_machine_can_move(ring: Plan) -> None:
    disks = ElementTree.fromstring(domain.document(wanted(ring))).findall("devices/disk")
    assert [disk.find("source").get("file") for disk in disks] == ["/i/disk.ext4", "/disk.tar"]  # type: ignore[union-attr]
    assert all(disk.find("readonly") is not None for disk in disks)


def test_a_disk_is_a_tar_file_of_whole_blocks(ring: Plan) -> None:
    for router in ring.of_kind(Kind.ROUTER):
        found = guest.disk(ring, Paths("x"), router, with_client=False)
        assert len(found) % guest.BLOCK_BYTES == 0
        with tarfile.open(fileobj=io.BytesIO(found)) as archive:
            text = {name: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr]
        assert text["etc/hostname"].strip() == router.name
        devices = dict(line.split() for line in text["etc/xenflow-vm/interfaces"].splitlines())
        assert list(devices.values()) == [*(interface.device for interface in router.interfaces), "xfctl"]
        assert "net/ipv4/conf/all/forwarding 1" in text["etc/xenflow-vm/settings"]
        assert "etc/xenflow/client.toml" not in text


def test_only_routers_are_machines_of_the_hypervisor(ring: Plan) -> None:
    routers = {router.name for router in ring.of_kind(Kind.ROUTER)}
    assert {vif.machine for vif in ring.vifs if vif.vm_id} == routers
    left = ring.without(routers)
    assert not {vif.machine for vif in left.vifs} & routers
    assert not left.controls
    assert left.of_kind(Kind.NODE) == ring.of_kind(Kind.NODE)


def test_the_same_things_make_the_same_image(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"a")
    one, same = image.recipe((tmp_path / "a.deb",)), image.recipe((tmp_path / "a.deb",))
    assert one.digest() == same.digest()
    before = one.digest()
    (tmp_path / "a.deb").write_bytes(b"b")
    assert one.digest() != before
    assert dataclasses.replace(one, packages=()).root_digest() != one.root_digest()

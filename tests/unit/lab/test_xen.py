"""What emulated Xen hosts and their guests are made of: files, wires, configurations."""

from __future__ import annotations

import gzip
import tomllib
import zlib
from pathlib import Path

import msgspec
import pytest

from xenflow_lab.machines.image import Image
from xenflow_lab.plan import WIRE_MTU, Kind, Plan, plan
from xenflow_lab.topology import load
from xenflow_lab.xen import guest, images, node, own, wires
from xenflow_lab.xen.guests import Guests
from xenflow_lab.xen.lab import XenLab

TOPOLOGY = Path(__file__).parents[3] / "deploy" / "lab" / "xen.toml"
TLS = {f"{name}.pem": b"-" for name in ("ca", "certificate", "key", "crl")}


@pytest.fixture(scope="module")
def lab() -> Plan:
    return plan(load(TOPOLOGY), "t")


def files(lab: Plan, name: str, tls: dict[str, bytes] = TLS) -> dict[str, str]:
    hypervisor = Guests(XenLab(TOPOLOGY, "t")).hypervisor(name)
    found = node.files(lab, lab.machines[name], hypervisor, tls, ("private", "public"))
    return {path: file.content.decode() for path, file in found.items()}


def test_a_dom0_is_set_as_a_real_node_is(lab: Plan) -> None:
    found = files(lab, "n1")
    settings = tomllib.loads(found["etc/xenflow/server.toml"])
    assert settings["hypervisor"] == {"uri": "xl:", "peers": {"n2": "tcp://172.31.0.3:8002"}}
    assert all(f"{path}".removeprefix("/") in found for path in settings["tls"].values())
    assert settings["definitions"] == "/etc/xenflow/definitions.d"
    assert [one["name"] for one in tomllib.loads(found["etc/xenflow/definitions.d/lab.toml"])["router"]] == ["r1"]
    assert "router" not in tomllib.loads(files(lab, "n2")["etc/xenflow/definitions.d/lab.toml"])
    script = found["usr/local/sbin/xenflow-lab-bridge"]
    assert "datapath_type=system" in script
    assert "fail_mode=secure" in script
    assert "add-port xenbr0 t-n2" in script
    assert "add-port xenbr0 acc1" in script
    assert "vif" not in script
    assert "set Interface t-n2 bfd:enable=true bfd:min_tx=1000 bfd:min_rx=1000 bfd:mult=30" in script
    assert "set Interface acc1 bfd" not in script
    assert "set Controller xenbr0 inactivity_probe=30000" in script


def test_without_xenflow_its_bridge_is_a_learning_switch(lab: Plan) -> None:
    found = files(lab, "n2", {})
    assert not [path for path in found if path.startswith("etc/xenflow/")]
    script = found["usr/local/sbin/xenflow-lab-bridge"]
    assert "set Port acc2 tag=20" in script
    assert script.endswith("actions=NORMAL\n")
    assert "ssl:" not in script


def test_every_wire_of_a_node_has_a_tap_and_a_nic(lab: Plan) -> None:
    image = Image(Path("/image"))
    for name, expected in (("n1", ["mgmt", "t-n2", "acc1"]), ("n2", ["mgmt", "t-n1", "acc2"])):
        ports = node.ports(lab, name)
        assert [port for port, _, _ in ports] == expected
        made_of = node.machine(lab, name, image, image, Path("/initrd"))
        assert [nic.mac for nic in made_of.nics] == [mac for _, mac, _ in ports]
        assert all(nic.options == ("rx_queue_size=1024",) for nic in made_of.nics)
        batch, filters = wires.node_links(lab, name), wires.node_filters(lab, name)
        for index, port in enumerate(expected):
            assert f"tuntap add dev {node.tap(index)} mode tap\n" in batch
            assert f"link set {node.tap(index)} mtu {WIRE_MTU} txqueuelen {node.QUEUE} up\n" in batch
            assert f"link set {port} up\n" in batch
            assert f"dev {node.tap(index)}\n" in filters
            assert f"dev {port}\n" in filters
        assert made_of.disks[1].readonly
        assert not made_of.disks[1].overlay
    macs = [mac for name in ("n1", "n2") for _, mac, _ in node.ports(lab, name)]
    assert len(set(macs)) == len(macs)


@pytest.mark.parametrize(
    ("with_xenflow", "expected"),
    [
        (True, ["bridge=xenbr0,script=vif-xenflow"] * 2),
        (False, ["bridge=xenbr0.10,script=vif-openvswitch", "bridge=xenbr0.20,script=vif-openvswitch"]),
    ],
)
def test_the_configuration_of_a_guest(lab: Plan, with_xenflow: bool, expected: list[str]) -> None:
    found = configuration(lab, with_xenflow=with_xenflow)
    assert (found["name"], found["type"]) == ("r1", "pvh")
    assert (found["memory"], found["vcpus"]) == (guest.MEMORY_MIB, 1)
    assert not found.keys() & {"cpu_weight", "cap"}
    assert found["uuid"] == lab.vifs[0].vm_id
    macs = [vif.interface.mac for vif in lab.vifs]
    vifs = found["vif"]
    assert isinstance(vifs, list)
    assert vifs[:2] == [f"mac={mac},{rest}" for mac, rest in zip(macs, expected, strict=True)]
    assert vifs[2] == f"mac={lab.controls[0].mac},bridge=xfctl,script=vif-bridge,vifname=xfctl-r1"


def configuration(lab: Plan, *, with_xenflow: bool = True) -> dict[str, object]:
    """Return what xl reads in the configuration of r1; xl's format is Python's, as far as it is used here."""
    found: dict[str, object] = {}
    exec(guest.configuration(lab, lab.machines["r1"], "6.1", with_xenflow=with_xenflow), {}, found)
    return found


def test_a_guest_starts_with_what_the_file_says_of_it(lab: Plan) -> None:
    (router,) = lab.topology.router
    router = msgspec.structs.replace(router, memory_mib=320, vcpus=2, cpu_weight=512, cpu_cap=0)
    given = plan(msgspec.structs.replace(lab.topology, router=(router,)), "t")
    found = configuration(given)
    assert (found["memory"], found["vcpus"], found["cpu_weight"], found["cap"]) == (320, 2, 512, 0)
    image = Image(Path("/image"))
    usual, larger = (node.machine(one, "n2", image, image, Path("/initrd")).memory_mib for one in (lab, given))
    assert larger - usual == 320 - guest.MEMORY_MIB, "it may come to any host"


def test_what_a_host_has_of_its_own_is_a_second_archive() -> None:
    packed = own.pack({"root/.ssh/id": own.text("secret", 0o600), "etc/hostname": own.text("n1\n")})
    content = gzip.decompress(packed)
    for name in (
        b"own/root/.ssh/id\0",
        b"own/etc/hostname\0",
        b"own/root/.ssh\0",
        b"own\0",
        b"hook\0",
        b"TRAILER!!!\0",
    ):
        assert name in content
    assert content.index(b"own/root/.ssh\0") < content.index(b"own/root/.ssh/id\0")
    assert packed == own.pack({"etc/hostname": own.text("n1\n"), "root/.ssh/id": own.text("secret", 0o600)})


def test_routers_are_no_namespaces(lab: Plan) -> None:
    built = XenLab(TOPOLOGY, "t")
    assert not built.cabled.of_kind(Kind.ROUTER)
    assert not built.cabled.vifs
    assert not built.cabled.controls
    assert built.plan.of_kind(Kind.ROUTER)


def test_queues_hold_what_emulation_delays(lab: Plan) -> None:
    recipe = images.host(Path("/nowhere"))
    assert recipe.files["/etc/sysctl.d/60-lab.conf"] == "net.core.default_qdisc = pfifo_fast\n"
    assert "TransmitQueueLength=4096\n" in files(lab, "n1")["etc/systemd/network/10-t-n2.link"]
    units = {Path(path).stem for path in recipe.files if path.endswith(".service")}
    (enabled,) = (line.split()[3:] for line in recipe.commands if line.startswith("systemctl enable"))
    assert units <= set(enabled)


def test_dom0_shapes_what_was_hired(lab: Plan) -> None:
    settings = tomllib.loads(files(lab, "n1")["etc/xenflow/qos.toml"])
    assert (settings["state"], settings["frame_bytes"]) == ("/var/lib/xenflow/qos", 0)
    (router,) = (msgspec.structs.replace(router, rate="") for router in lab.topology.router)
    access = tuple(msgspec.structs.replace(access, capacity="") for access in lab.topology.access)
    nothing = plan(msgspec.structs.replace(lab.topology, router=(router,), access=access), "t")
    assert "etc/xenflow/qos.toml" not in files(nothing, "n1")


def test_dom0_comes_into_its_guests_with_the_labs_key() -> None:
    found = guest.entrance("private", "public")
    assert found["root/.ssh/authorized_keys"] == ("public", 0o600)
    recipe = images.router(Path("/nowhere"))
    assert "openssh-server" in recipe.packages
    (line,) = (line for line in recipe.files["/etc/inittab"].splitlines() if "sshd" in line)
    assert line.rpartition(":")[2] in recipe.files


def test_units_are_wanted_by_links() -> None:
    lab = plan(load(TOPOLOGY), "t")
    found = node.files(lab, lab.machines["n1"], {}, TLS, ("", ""))
    wanted = {path: file for path, file in found.items() if ".wants/" in path}
    assert len(wanted) == 2
    for path, file in wanted.items():
        assert file == own.link(f"../{path.rpartition('/')[2]}")
        assert path.replace("multi-user.target.wants/", "") in found


def test_the_initrd_of_a_guest_is_one_gzip_member() -> None:
    packed = guest.initrd(gzip.compress(b"common"), b"own")
    unpack = zlib.decompressobj(wbits=31)
    content = unpack.decompress(packed)
    assert unpack.eof
    assert unpack.unused_data == b""
    assert content.startswith(b"common")
    assert int.from_bytes(packed[-4:], "little") == len(content)

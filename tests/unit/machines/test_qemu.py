"""The command line of a machine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from xenflow_lab.machines.qemu import AGENT_PORTS, Disk, Machine, Nic, argv, generated_mac

HERE = Path("/run/m1")
MACHINE = Machine(
    "m1",
    "/vmlinuz",
    "/initrd",
    disks=(Disk("/image.ext4"), Disk("/tools.tar", overlay=False, readonly=True)),
    nics=(Nic("socket,listen=127.0.0.1:7001"), Nic("user,restrict=on", mac="52:54:00:00:00:09")),
    memory_mib=700,
    cpus=2,
)


def after(words: list[str], option: str) -> list[str]:
    return [words[place + 1] for place, word in enumerate(words) if word == option]


def test_a_disk_of_an_image_is_an_overlay_of_the_machines_own() -> None:
    drives = after(argv(MACHINE, HERE), "-drive")
    assert drives[0].startswith("file=/run/m1/disk0.qcow2,format=qcow2,")
    assert drives[1].startswith("file=/tools.tar,format=raw,")
    assert drives[1].endswith("readonly=on")


def test_interfaces_have_addresses_of_their_own() -> None:
    words = argv(MACHINE, HERE)
    assert after(words, "-netdev") == ["socket,listen=127.0.0.1:7001,id=net0", "user,restrict=on,id=net1"]
    macs = [word.rpartition("mac=")[2] for word in after(words, "-device") if "mac=" in word]
    assert macs == [generated_mac("m1", 0), "52:54:00:00:00:09"]
    assert int(generated_mac("m1", 0)[:2], 16) & 3 == 2, "unicast, locally administered"
    assert generated_mac("m1", 0) != generated_mac("m2", 0)


def test_an_interface_may_have_options_of_its_device() -> None:
    nic = Nic("tap", mac="52:54:00:00:00:09", options=("rx_queue_size=1024",))
    words = argv(msgspec.structs.replace(MACHINE, nics=(nic,)), HERE)
    assert "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:09,rx_queue_size=1024" in words


def test_kvm_gives_the_hosts_processor_and_emulation_the_one_that_is_asked_for() -> None:
    emulated = argv(msgspec.structs.replace(MACHINE, cpu="max,-smap"), HERE)
    assert after(emulated, "-cpu") == ["max,-smap"]
    assert after(emulated, "-accel")[0].startswith("tcg,thread=multi")
    real = argv(msgspec.structs.replace(MACHINE, accelerator="kvm"), HERE)
    assert (after(real, "-cpu"), after(real, "-accel")) == (["host"], ["kvm"])


def test_a_snapshot_is_loaded_only_if_one_is_named() -> None:
    assert "-loadvm" not in argv(MACHINE, HERE)
    assert after(argv(MACHINE, HERE, "booted"), "-loadvm") == ["booted"]


def test_the_agent_has_ports_for_several_users() -> None:
    found = [word for word in after(argv(MACHINE, HERE), "-device") if word.startswith("virtserialport")]
    assert [word.rpartition("name=")[2] for word in found] == [f"xenflow.{n}" for n in range(AGENT_PORTS)]

"""A node as an emulated Xen host: its QEMU machine, and what its Dom0 has of its own. Pure.

Dom0 is installed as docs/install.md says; what `xenflow init node` and the operator would put there is unpacked over
its disk at the first start only, so that a reboot finds what Dom0 itself has changed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from xenflow_lab import openvswitch, programs, toml
from xenflow_lab.machines import qemu
from xenflow_lab.machines.image import Image
from xenflow_lab.openvswitch import Tls
from xenflow_lab.paths import Paths
from xenflow_lab.plan import BRIDGE, Kind, Machine, Plan
from xenflow_lab.xen import guest
from xenflow_lab.xen.own import File, Files, link, text

CPU: Final = "max,-smap,-rdtscp,-xsave,-xsaveopt,-avx,-avx2,-f16c,-fma,-mpx,-pku,-la57,-vaes"
"""Under software emulation: with SMAP Dom0 dies, with RDTSCP a PVH guest does, with AVX ssh between hosts breaks."""
MEMORY_MIB: Final = 1536
DOM0_MIB: Final = 832
_XEN: Final = (
    f"console=com1 com1=115200,8n1 dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M dom0_max_vcpus=1"
    " spec-ctrl=no xpti=no pv-l1tf=no noreboot loglvl=warning"
)
_DOM0: Final = "console=hvc0 root=/dev/vda mitigations=off audit=0 net.ifnames=0 quiet"
RING: Final = 1024
"""Descriptors for what a NIC receives, QEMU's most: so many packets may come while the emulated processor is busy."""
QUEUE: Final = 4096
"""Packets that a queue in front of a NIC holds, in Dom0 and in its tap: emulation delays, it need not lose."""
PATIENCE_MS: Final = 30_000
PATIENT_BFD: Final = {"enable": "true", "min_tx": "1000", "min_rx": "1000", "mult": f"{PATIENCE_MS // 1000}"}
"""Of the switch with its neighbors and the controller; an operator's settings, which xenflow-server leaves alone.

Its own are 1.5 s for BFD. Here a processor is away for that long, and a link that is taken for dead loses packets.
"""
MANAGEMENT: Final = "mgmt"
TLS: Final = {name: f"/etc/xenflow/node/{name}.pem" for name in ("ca", "certificate", "key", "crl")}
_BRIDGE_SCRIPT: Final = "usr/local/sbin/xenflow-lab-bridge"
_UNIT: Final = f"""\
[Unit]
Description=The data bridge of a lab's node
After=openvswitch-switch.service
Requires=openvswitch-switch.service
Before=xenflow-server.service
ConditionPathExists=!/var/lib/xenflow-lab/bridge

[Service]
Type=oneshot
ExecStart=/{_BRIDGE_SCRIPT}
ExecStart=/usr/bin/install -D /dev/null /var/lib/xenflow-lab/bridge

[Install]
WantedBy=multi-user.target
"""
_MOUNT: Final = f"""\
[Unit]
Description=The routers' disk: their kernel is on it

[Mount]
What={guest.DEVICE}
Where={guest.DISK}
Type=ext4
Options=ro,noload

[Install]
WantedBy=multi-user.target
"""


def ports(plan: Plan, node: str) -> list[tuple[str, str, int]]:
    """Return the wired interfaces of a node, in the order of its NICs: name, MAC address, MTU."""
    number = plan.machines[node].number
    found = [(MANAGEMENT, 1500)]
    found += [(end.port, trunk.mtu) for trunk in plan.trunks for end in trunk.ends if end.node == node]
    found += [(access.port, 1500) for access in plan.accesses if access.table.node == node]
    return [(name, f"02:58:46:10:{number:02x}:{index:02x}", mtu) for index, (name, mtu) in enumerate(found)]


def tap(index: int) -> str:
    """Return the name of the tap device of a node's NIC, in the node's namespace."""
    return f"q{index}"


def machine(plan: Plan, node: str, image: Image, router: Image, initrd: Path) -> qemu.Machine:
    """Return the QEMU machine of a node: Xen, with Dom0's kernel and initial RAM disk as its modules."""
    nics = [
        qemu.Nic(f"tap,ifname={tap(index)},script=no,downscript=no", mac, options=(f"rx_queue_size={RING}",))
        for index, (_, mac, _) in enumerate(ports(plan, node))
    ]
    routers = plan.of_kind(Kind.ROUTER)  # each of them may come here
    more_mib = sum(max(0, guest.memory_mib(one) - guest.MEMORY_MIB) for one in routers)
    return qemu.Machine(
        name=node,
        kernel=str(image.file("xen.elf")),
        initrd=f"{image.kernel} {_DOM0},{initrd}",
        append=_XEN,
        disks=(qemu.Disk(str(image.disk)), qemu.Disk(str(router.disk), overlay=False, readonly=True)),
        nics=tuple(nics),
        memory_mib=MEMORY_MIB + more_mib,
        cpu=CPU,
    )


def files(
    plan: Plan, node: Machine, hypervisor: programs.Settings, tls: Mapping[str, bytes], ssh: tuple[str, str]
) -> Files:
    """Return what this node's Dom0 has of its own; `ssh`: private and public key, the same on all nodes of a lab.

    Without `tls`, the files of its certificate by their names, there is no XenFlow: its bridge is a learning switch.
    """
    settings: programs.Settings = {
        **programs.server_settings(plan, _NOWHERE, node.name, hypervisor),
        "definitions": "/etc/xenflow/definitions.d",
        "state": "/var/lib/xenflow",
        "tls": TLS,
    }
    hosts = "".join(f"{at} {name}\n" for name, at in plan.management.items())
    found = {
        "etc/hostname": text(f"{node.name}\n"),
        "etc/machine-id": text(f"{node.number:032x}\n"),
        "etc/hosts": text(f"127.0.0.1 localhost\n{hosts}"),
        "etc/systemd/system/xenflow-lab-bridge.service": text(_UNIT),
        "etc/systemd/system/srv-xenflow\\x2dlab-router.mount": text(_MOUNT),
        _BRIDGE_SCRIPT: text(_bridge(plan, node) if tls else _switch(plan, node), 0o755),
        "root/.ssh/id_ed25519": text(ssh[0], 0o600),
        "root/.ssh/authorized_keys": text(ssh[1], 0o600),
        "root/.ssh/config": text("StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"),
    }
    for unit in ("xenflow-lab-bridge.service", "srv-xenflow\\x2dlab-router.mount"):
        found[f"etc/systemd/system/multi-user.target.wants/{unit}"] = link(f"../{unit}")
    if tls:
        found["etc/xenflow/server.toml"] = text(toml.encode(programs.overlay(settings, plan.topology.server)))
        found["etc/xenflow/definitions.d/lab.toml"] = text(toml.encode(programs.definitions(plan, node.name)))
        found |= {f"etc/xenflow/node/{name}": File(content, 0o600) for name, content in tls.items()}
    if tls and plan.topology.has_queues:
        shaping = {
            **programs.qos_settings(plan, _NOWHERE, node.name),
            "state": "/var/lib/xenflow/qos",
            "frame_bytes": 0,
        }
        found["etc/xenflow/qos.toml"] = text(toml.encode(programs.overlay(shaping, plan.topology.qos)))
    return found | _network(plan, node.name)


_NOWHERE: Final = Paths("none")
"""Paths of the lab's own machine, none of which Dom0 has: all that name one are replaced."""


def _bridge(plan: Plan, node: Machine) -> str:
    """Return the script that makes the bridge with all ports and its controller in one transaction."""
    certificate = Tls(Path(TLS["key"]), Path(TLS["certificate"]), Path(TLS["ca"]))
    words = openvswitch.first_transaction(_without_guests(plan), node, certificate, datapath="system")
    for end in plan.trunk_ends(node.name):
        words += ["--", "set", "Interface", end.port, *(f"bfd:{key}={value}" for key, value in PATIENT_BFD.items())]
    words += ["--", "set", "Controller", BRIDGE, f"inactivity_probe={PATIENCE_MS}"]
    return f"#!/bin/sh\nexec ovs-vsctl --timeout=900 {shlex.join(words)}\n"


def _switch(plan: Plan, node: Machine) -> str:
    """Return the script that makes the bridge a learning switch, with its access ports in their networks."""
    words = openvswitch.first_transaction(_without_guests(plan), node, None, datapath="system")
    tags = {network.name: network.vid for network in plan.topology.network}
    for access in plan.accesses:
        if access.table.node == node.name and access.table.network:
            words += ["--", "set", "Port", access.port, f"tag={tags[access.table.network]}"]
    made = f"ovs-vsctl --timeout=900 {shlex.join(words)}"
    return f"#!/bin/sh -e\n{made}\novs-ofctl add-flow {BRIDGE} actions=NORMAL\n"


def _without_guests(plan: Plan) -> Plan:
    return plan.without([router.name for router in plan.of_kind(Kind.ROUTER)])


def _network(plan: Plan, node: str) -> Files:
    found = {}
    for name, mac, mtu in ports(plan, node):
        found[f"etc/systemd/network/10-{name}.link"] = text(
            f"[Match]\nMACAddress={mac}\n\n[Link]\nName={name}\nMTUBytes={mtu}\nTransmitQueueLength={QUEUE}\n"
        )
        addressed = f"Address={plan.management[node]}/16\n" if name == MANAGEMENT else ""
        online = "" if addressed else "[Link]\nRequiredForOnline=no\n\n"
        found[f"etc/systemd/network/20-{name}.network"] = text(
            f"[Match]\nName={name}\n\n{online}[Network]\n{addressed}LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        )
    return found

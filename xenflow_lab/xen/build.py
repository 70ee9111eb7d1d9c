"""The steps of a lab of Xen hosts: images, namespaces, cables, hosts with Dom0, routers as guests, routing outside.

What was built before is not built again: each host goes on from where it was saved (`keep`), with the keys of then.
"""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xenflow.identity import Identity
from xenflow.wire import Role
from xenflow_lab import build as namespaces
from xenflow_lab import fabric, programs
from xenflow_lab.command import LabError, run, run_all
from xenflow_lab.machines.image import Image
from xenflow_lab.machines.machine import Machine as Emulated
from xenflow_lab.plan import WIRES, Kind, Machine
from xenflow_lab.vms import guest as vms
from xenflow_lab.xen import guest, images, keep, node, own, wires

if TYPE_CHECKING:
    from xenflow_lab.xen.lab import XenLab

NICENESS: Final = 5
BOOT_TIMEOUT_S: Final = 2400.0
CREATE_TIMEOUT_S: Final = 600.0
SNAPSHOT: Final = "ready"


def build(lab: XenLab) -> None:
    """Bring up everything of `lab`, whose state directory is there."""
    found = lab.routers.images or images.build()
    kept = keep.find(lab, *found)
    if why := kept.why_anew():
        lab.say(f"saved hosts: {why}; making hosts (a second start will take seconds)")
    lab.say("namespaces")
    namespaces.make_spaces(lab)
    lab.say("cables")
    make_fabric(lab)
    if kept.ready:
        shutil.copytree(kept.pki, lab.paths.pki, dirs_exist_ok=True)
    elif lab.with_xenflow:
        lab.say("certificates")
        programs.issue_certificates(lab.built, lab.paths)
    if lab.with_xenflow:
        namespaces.start_controller(lab)
    namespaces.start_routing(lab)
    if not kept.ready or not resume_hosts(lab, kept):
        make_hosts(lab, kept, *found)


def resume_hosts(lab: XenLab, kept: keep.Kept) -> bool:
    """Let the hosts go on from where they were saved; false if QEMU cannot, say another version of it."""
    lab.note_hosts(kept)
    try:
        start_hosts(lab, SNAPSHOT)
    except LabError as error:
        if all(host.alive for host in lab.hosts.values()):
            raise
        lab.say(f"saved hosts: QEMU does not go on from there ({str(error).splitlines()[0]}); making them anew")
        for host in lab.hosts.values():
            host.kill()
        return False
    return True


def make_hosts(lab: XenLab, kept: keep.Kept, host_image: Image, router_image: Image) -> None:
    """Make, boot and save the hosts, with the routers running in them and everything in sync."""
    kept.begin(lab.paths.pki)
    create_hosts(lab, kept, host_image, router_image)
    lab.note_hosts(kept)
    start_hosts(lab, "")
    start_routers(lab)
    if lab.with_xenflow:
        lab.say("waiting until everything is in sync")
        lab.wait_settled()
    lab.say("saving the hosts, for the next start")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda host: host.save(SNAPSHOT), lab.hosts.values()))
    kept.finish()


def make_fabric(lab: XenLab) -> None:
    """Make all cables: as in a lab of namespaces, but that a node's ends lead to QEMU's taps."""
    plan, paths = lab.cabled, lab.paths
    run(["ip", "-batch", "-"], stdin=fabric.links(plan, paths))
    sides = fabric.switch_side(plan)
    for machine in plan.of_kind(Kind.NODE):
        sides[machine.name] = wires.node_links(plan, machine.name)
    run_all((["ip", "-n", paths.namespace(who), "-batch", "-"], batch) for who, batch in sides.items())
    filters = {machine.name: wires.node_filters(plan, machine.name) for machine in plan.of_kind(Kind.NODE)}
    for who, batch in {WIRES: fabric.wire_filters(plan), **filters}.items():
        run(["tc", "-n", paths.namespace(who), "-batch", "-"], stdin=batch)
    namespaces.plug_guests(lab)


def create_hosts(lab: XenLab, kept: keep.Kept, host_image: Image, router_image: Image) -> None:
    """Make the hosts' machines, each with what its Dom0 has of its own."""
    keys = _ssh_keys(kept.directory)
    plan = lab.built
    kernel = images.kernel_version(router_image)
    entrance = guest.entrance(*keys)
    guests: own.Files = {}
    for router in plan.of_kind(Kind.ROUTER):
        disk = vms.disk(plan, lab.paths, router, with_client=lab.with_xenflow, more=entrance)
        initrd = guest.initrd(router_image.initrd.read_bytes(), disk)
        guests[f"srv/xenflow-lab/{router.name}.initrd"] = own.File(initrd)
        guests[f"etc/xen/{router.name}.cfg"] = own.text(
            guest.configuration(plan, router, kernel, with_xenflow=lab.with_xenflow)
        )
    for machine in plan.of_kind(Kind.NODE):
        files = node.files(plan, machine, lab.routers.hypervisor(machine.name), _certificates(lab, machine.name), keys)
        initrd_path = kept.directory / f"{machine.name}.initrd"
        initrd_path.write_bytes(host_image.initrd.read_bytes() + own.pack({**files, **guests}))
        Emulated.create(
            node.machine(plan, machine.name, host_image, router_image, initrd_path), kept.host(machine.name)
        )


def start_hosts(lab: XenLab, snapshot: str) -> None:
    """Start all hosts, each in the namespace of its node, and wait until systemd has started everything."""
    lab.say("hosts: going on from where they were saved" if snapshot else "hosts: booting Xen and Dom0")
    began = time.monotonic()
    for name, host in lab.hosts.items():
        host.start(snapshot, NICENESS, ["nsenter", f"--net={lab.paths.namespace_file(name)}", "--"])
    for name, host in lab.hosts.items():
        state = host.wait_booted(BOOT_TIMEOUT_S)
        if state != "running":
            failed = host.run(["systemctl", "--failed", "--no-legend", "--plain"]).out.strip()
            raise LabError(f"{name}: systemd says {state}: {failed}")
        lab.say(f"  {name}: up after {time.monotonic() - began:.0f} s")


def start_routers(lab: XenLab) -> None:
    """Create the routers' machines, those of different hosts at the same time."""
    lab.say("routers: creating their machines")

    def create(host: Machine) -> None:
        for router in lab.built.of_kind(Kind.ROUTER):
            if router.node == host.name:
                lab.hosts[host.name].check(["xl", "create", f"/etc/xen/{router.name}.cfg"], timeout_s=CREATE_TIMEOUT_S)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, lab.built.of_kind(Kind.NODE)))


def _certificates(lab: XenLab, node: str) -> dict[str, bytes]:
    if not lab.with_xenflow:
        return {}
    files = programs.certificates(lab.paths, Identity(Role.NODE, node))
    return {f"{key}.pem": Path(path).read_bytes() for key, path in files.items()}


def _ssh_keys(directory: Path) -> tuple[str, str]:
    """Return a new private and public key for root of all machines of this lab."""
    path = directory / "id_ed25519"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "xenflow-lab", "-f", path])
    return path.read_text(encoding="ascii"), Path(f"{path}.pub").read_text(encoding="ascii")

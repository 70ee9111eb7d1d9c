"""What is kept of a Xen lab when it goes down: its hosts, saved while they ran, so that the next `up` takes seconds.

In the cache, xen/NAME-KEY/: a machine's directory for each host, the lab's authority, `ready` when all are saved. The
key is of all that the hosts are made of: another topology, package, setting or option of QEMU makes them anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from xenflow_lab import programs
from xenflow_lab.command import run
from xenflow_lab.machines import image, qemu
from xenflow_lab.machines.image import Image
from xenflow_lab.paths import lab_names
from xenflow_lab.plan import Kind
from xenflow_lab.vms import guest as vms
from xenflow_lab.xen import guest, images, node

if TYPE_CHECKING:
    from xenflow_lab.xen.lab import XenLab

MOST_AGE_S: Final = 30 * 86400.0
"""Their clocks go on from where they were saved; certificates and logs should not be months off."""
_FORMAT: Final = 1
"""Counts the ways in which hosts were started and saved; another one makes all of them anew."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The directory of a lab's hosts; only the lab that is up under this name uses it."""

    directory: Path

    @property
    def ready(self) -> bool:
        """Whether all hosts were saved, and not too long ago."""
        return not self.why_anew()

    def why_anew(self) -> str:
        """Return why the hosts have to be made; empty if they can go on from where they were saved."""
        if not self.directory.exists():
            return "there are none of these packages and this topology"
        try:
            age_s = time.time() - (self.directory / "ready").stat().st_mtime
        except FileNotFoundError:
            return "an earlier start has not come to its end"
        return f"the saved ones are {age_s / 86400:.0f} days old" if age_s > MOST_AGE_S else ""

    @property
    def pki(self) -> Path:
        """The authority whose certificates the hosts have."""
        return self.directory / "pki"

    def host(self, name: str) -> Path:
        """Directory of a host's machine."""
        return self.directory / name

    def begin(self, pki: Path) -> None:
        """Empty the directory, and keep the authority there."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True, mode=0o700)
        if pki.exists():
            shutil.copytree(pki, self.pki)
        else:
            self.pki.mkdir()

    def finish(self) -> None:
        """Say that the hosts can go on from here."""
        (self.directory / "ready").touch()


def find(lab: XenLab, host: Image, router: Image) -> Kept:
    """Return where this lab's hosts are kept, or will be; what an earlier topology or build has left goes."""
    directory = image.cache() / "xen" / f"{lab.name}-{key(lab, host, router)}"
    forget(directory, lab.say, lab_names())
    if directory.exists():
        os.utime(directory)
    return Kept(directory)


def forget(wanted: Path, say: Callable[[str], None], up: list[str]) -> None:
    """Remove other hosts of the same lab, and those of labs that nobody used for a week; `up`: labs that are up."""
    oldest = time.time() - image.UNUSED_S
    for other in wanted.parent.glob("*-????????"):
        name = other.name.rpartition("-")[0]
        if other == wanted or (name != wanted.name.rpartition("-")[0] and name in up):
            continue
        if name == wanted.name.rpartition("-")[0]:
            say("saved hosts: made of other packages, settings or another topology; they go")
        elif other.stat().st_mtime >= oldest:
            continue
        run(["rm", "-rf", "--one-file-system", other], timeout_s=300)


def key(lab: XenLab, host: Image, router: Image) -> str:
    """Return the name of what the hosts are made of."""
    digest = hashlib.sha256(f"{_FORMAT}".encode())
    for part in _parts(lab, host, router):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:8]


def _parts(lab: XenLab, host: Image, router: Image) -> Iterator[bytes]:
    """Yield all that the hosts are made of, but for keys and certificates."""
    plan = lab.built
    for one in (host, router):  # built anew, an image is another one: hosts' disks are what differs from it
        yield f"{one.directory} {one.disk.stat().st_mtime_ns}".encode()
    yield msgspec.json.encode([plan.topology, lab.with_xenflow])
    tls = dict.fromkeys(node.TLS, b"") if lab.with_xenflow else {}
    for machine in plan.of_kind(Kind.NODE):
        made_of = node.machine(plan, machine.name, host, router, Path("initrd"))
        yield msgspec.json.encode(qemu.argv(made_of, Path("/")))
        files = node.files(plan, machine, lab.routers.hypervisor(machine.name), tls, ("", ""))
        for path, file in sorted(files.items()):
            yield f"{path} {file.kind} {file.mode} ".encode() + file.content
    kernel = images.kernel_version(router)
    for machine in plan.of_kind(Kind.ROUTER):
        yield guest.configuration(plan, machine, kernel, with_xenflow=lab.with_xenflow).encode()
        yield vms.disk(plan, lab.paths, machine, with_client=False)
        yield msgspec.json.encode(programs.client_settings(lab.paths, machine))

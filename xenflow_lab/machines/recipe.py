"""What an image is made of; its digest names it in the cache, so that it is built once. Pure but for reading.

An image has two layers: the root (debootstrap and Debian's packages; minutes) and what is put on it (our packages and
files; seconds). A new build of ours makes the second one anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from xenflow_lab.machines.initrd import INIT

SUITE: Final = "bookworm"
MIRROR: Final = "http://deb.debian.org/debian"
ROOT_VERSION: Final = 1
"""Counts the ways in which `image` has built roots; another one makes all of them anew."""
VERSION: Final = 2
"""The same for what is put on them: initial RAM disk, file system."""
BASIC: Final = (
    *("systemd-sysv", "udev", "dbus", "kmod", "busybox-static", "python3"),
    *("iproute2", "iputils-ping", "ethtool", "procps", "ca-certificates"),
)
"""Packages of every image; a kernel comes with `kernel`."""
GUEST: Final = Path(__file__).parent / "guest"
AGENT: Final = Path("/usr/local/lib/xenflow-lab/agent.py")
AGENT_UNIT: Final = Path("/etc/systemd/system/xenflow-agent.service")


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image to be: `name` is for people, everything else decides what is in it."""

    name: str
    packages: tuple[str, ...] = ()
    """Debian packages beside the basic ones."""
    debs: tuple[Path, ...] = ()
    """Packages of ours; what they depend on should be among `packages`, else each new build asks the mirror."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path in the image -> content; a file under a bin directory is executable."""
    commands: tuple[str, ...] = ()
    """Lines of shell that are run in the image at the end (chroot: no daemon runs there)."""
    kernel: str = "linux-image-amd64"
    """Debian's package of the kernel."""
    modules: tuple[str, ...] = ("virtio_pci", "virtio_blk", "ext4")
    """What the initial RAM disk loads."""
    size_mib: int = 3072
    """Of the file system; what is not written takes no room on the disk."""

    def all_packages(self) -> tuple[str, ...]:
        """Return Debian's packages of the root, sorted."""
        return tuple(sorted({*BASIC, *self.packages, self.kernel}))

    def root_digest(self) -> str:
        """Return the name of the root layer."""
        return _digest([ROOT_VERSION, SUITE, MIRROR, self.all_packages()])

    def digest(self) -> str:
        """Return the name of the image: the root's, and what is put on it. Reads packages and agent."""
        read = [*sorted(self.debs, key=lambda path: path.name), *sorted(GUEST.glob("[!_]*"))]
        contents = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in read if path.is_file()]
        files = sorted(self.files.items())
        return _digest([VERSION, self.root_digest(), contents, files, self.commands, self.modules, self.size_mib, INIT])


def _digest(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

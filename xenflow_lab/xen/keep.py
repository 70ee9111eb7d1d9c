"""What is kept of a Xen lab when it goes down: its hosts, saved while they ran, so that the next `up` takes seconds.

In the cache, xen/NAME-DIGEST/: a machine's directory for each host, the lab's authority, `ready` when all are saved.
The digest is of all that decides what is in the hosts: another topology, image or build of ours makes them anew.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from xenflow_lab.command import run
from xenflow_lab.machines import image
from xenflow_lab.machines.image import Image

if TYPE_CHECKING:
    from xenflow_lab.xen.lab import XenLab

_SOURCES: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Kept:
    """The directory of a lab's hosts; only the lab that is up under this name uses it."""

    directory: Path

    @property
    def ready(self) -> bool:
        """Whether all hosts were saved."""
        return (self.directory / "ready").exists()

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


def find(lab: XenLab, of: Sequence[Image]) -> Kept:
    """Return where this lab's hosts are kept, or will be; what an earlier topology or build has left goes."""
    digest = hashlib.sha256(msgspec.json.encode([str(one.directory) for one in of]))
    digest.update(msgspec.json.encode([lab.built.topology, lab.with_xenflow]))
    for source in sorted(_SOURCES.glob("*.py")):
        digest.update(source.read_bytes())
    directory = image.cache() / "xen" / f"{lab.name}-{digest.hexdigest()[:8]}"
    if directory.parent.exists():
        for other in directory.parent.glob(f"{lab.name}-????????"):
            if other != directory:
                run(["rm", "-rf", "--one-file-system", other], timeout_s=300)
    return Kept(directory)

"""What a host has of its own: an archive behind the initial RAM disk, laid over its disk at the first start."""

from __future__ import annotations

import gzip
import stat
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from xenflow_lab.machines.initrd import DISK, HOOK, Entry, archive

_MARK: Final = f"{DISK}/var/lib/xenflow-lab/own"
_SCRIPT: Final = f"""\
if ! [ -e {_MARK} ]; then
    /bin/busybox cp -a /own/. {DISK}/
    /bin/busybox mkdir -p {_MARK}
fi
"""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a machine, or with `kind` S_IFLNK a symbolic link to what `content` says."""

    content: bytes
    mode: int = 0o644
    kind: int = stat.S_IFREG


Files = dict[str, File]
"""By paths without the leading slash."""


def text(content: str, mode: int = 0o644) -> File:
    """Return a file with this text."""
    return File(content.encode(), mode)


def link(target: str) -> File:
    """Return a symbolic link."""
    return File(target.encode(), 0o777, stat.S_IFLNK)


def pack(files: Files) -> bytes:
    """Return the second archive; root owns everything."""
    directories = {str(parent) for path in files for parent in PurePosixPath("own", path).parents} - {"."}
    entries = [Entry(path, stat.S_IFDIR | _directory_mode(path)) for path in sorted(directories)]
    entries += [Entry(f"own/{path}", file.kind | file.mode, file.content) for path, file in sorted(files.items())]
    return gzip.compress(
        archive([Entry(HOOK.strip("/"), stat.S_IFREG | 0o755, _SCRIPT.encode()), *entries]), 1, mtime=0
    )


def _directory_mode(path: str) -> int:
    return 0o700 if PurePosixPath(path).name == ".ssh" else 0o755

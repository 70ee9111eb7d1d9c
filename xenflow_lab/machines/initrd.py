"""A small initial RAM disk: busybox, a few kernel modules in the order of their needs, a script. Pure but for reading.

It mounts the disk and hands over to its init: systemd. A distribution's own takes minutes to make under emulation.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

PROBE: Final = "xenflow.probe"
"""Word of the kernel's command line: say `ALIVE` and switch off."""
ALIVE: Final = "xenflow-initrd: alive"
DISK: Final = "/disk"
"""Where the disk is mounted."""
HOOK: Final = "/hook"
"""Of a second archive behind this one, if it has such a file: run when the disk is mounted."""
ALSO: Final = {"ext4": ("crc32c_generic",)}
"""What a module asks the kernel for when it works, and modules.dep does not know of."""
INIT: Final = f"""\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev {DISK}
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
if /bin/busybox grep -qw {PROBE} /proc/cmdline; then
    echo "{ALIVE}" > /dev/console
    /bin/busybox poweroff -f
fi
while read -r module; do /bin/busybox insmod "/modules/$module"; done < /modules/order
root=$(/bin/busybox sed -n 's/.*\\broot=\\([^ ]*\\).*/\\1/p' /proc/cmdline)
n=0
until [ -b "$root" ] || [ $n -gt 600 ]; do /bin/busybox sleep 0.1; n=$((n + 1)); done
/bin/busybox mount -t ext4 -o rw "$root" {DISK} || echo "xenflow-initrd: cannot mount $root" > /dev/console
if [ -f {HOOK} ]; then . {HOOK}; fi
/bin/busybox umount /proc /sys
/bin/busybox mount --move /dev {DISK}/dev
exec /bin/busybox switch_root {DISK} /sbin/init
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory or device of the archive; `device` is (major, minor)."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def archive(entries: Iterable[Entry]) -> bytes:
    """Return a cpio archive ("newc", Linux's initramfs buffer format); the same entries give the same bytes."""
    parts = []
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        parts += [_padded(header), _padded(entry.data)]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def dependencies(modules_dep: str) -> dict[str, tuple[str, ...]]:
    """Return module's file -> files it needs, as depmod(8) writes them into modules.dep."""
    pairs = (line.partition(":") for line in modules_dep.splitlines())
    return {name: tuple(needs.split()) for name, _, needs in pairs}


def load_order(wanted: Iterable[str], needs: Mapping[str, tuple[str, ...]], builtin: Iterable[str] = ()) -> list[str]:
    """Return the files of the `wanted` modules and of all that they need, each after what it needs.

    Those in the kernel itself (`builtin`: files) are left out. Raises KeyError for a module that there is not.
    """
    files = {_module(file): file for file in needs}
    within = {_module(file) for file in builtin}
    order: list[str] = []

    def add(file: str) -> None:
        for needed in needs[file]:
            add(needed)
        if file not in order:
            order.append(file)

    for module in (each for name in wanted for each in (*ALSO.get(name, ()), name)):
        if module.replace("-", "_") not in within:
            add(files[module.replace("-", "_")])
    return order


def _module(file: str) -> str:
    return PurePosixPath(file).name.partition(".ko")[0].replace("-", "_")


def build(root: Path, modules: Iterable[str]) -> bytes:
    """Return the RAM disk for the only kernel in the Debian at `root`, compressed."""
    (library,) = (root / "lib/modules").iterdir()
    needs = dependencies((library / "modules.dep").read_text())
    order = load_order(modules, needs, (library / "modules.builtin").read_text().split())
    directories = [Entry(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev", "modules")]
    files = [Entry(f"modules/{Path(file).name}", stat.S_IFREG | 0o644, (library / file).read_bytes()) for file in order]
    entries = [
        *directories,
        Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        Entry("bin/busybox", stat.S_IFREG | 0o755, (root / "bin/busybox").read_bytes()),
        Entry("init", stat.S_IFREG | 0o755, INIT.encode()),
        Entry("modules/order", stat.S_IFREG | 0o644, "".join(f"{Path(file).name}\n" for file in order).encode()),
        *files,
    ]
    return gzip.compress(archive(entries), 6, mtime=0)

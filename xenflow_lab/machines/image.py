"""Builds images: a Debian root by debootstrap and apt, packages of ours on it, an ext4 file system without a mount.

In the cache ($XDG_CACHE_HOME/xenflow-lab), each finished by one rename; what nobody used for a week goes.
    roots/DIGEST.tar                             the root layer
    images/DIGEST/disk.ext4, vmlinuz, initrd     an image; `kernel` is its version
Two builders of one thing: the second waits for the first (a lock beside it) and takes what it made.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xenflow.errors import ConfigError
from xenflow_lab.command import environment, run
from xenflow_lab.machines import initrd
from xenflow_lab.machines.recipe import AGENT, AGENT_UNIT, GUEST, MIRROR, SUITE, Recipe

TOOLS: Final = {"debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs", "tar": "tar", "unshare": "util-linux"}
UNUSED_S: Final = 7 * 86400.0
BUILD_TIMEOUT_S: Final = 1800.0
SOURCES: Final = f"deb {MIRROR} {SUITE} main\n"
POLICY: Final = Path("usr/sbin/policy-rc.d")
APT: Final = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends"


@dataclass(frozen=True, slots=True)
class Image:
    """A finished image in the cache."""

    directory: Path

    @property
    def disk(self) -> Path:
        """The ext4 file system; never written to: machines have overlays of it."""
        return self.directory / "disk.ext4"

    @property
    def kernel(self) -> Path:
        """Its kernel, as QEMU loads it."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The RAM disk that goes with the kernel."""
        return self.directory / "initrd"

    def file(self, name: str) -> Path:
        """Return another file that was taken out of the image's /boot, such as `xen.gz`."""
        return self.directory / "boot" / name


def cache() -> Path:
    """Return the directory of the cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "xenflow-lab"


def say(text: str) -> None:
    """Show progress."""
    print(f"image: {text}", file=sys.stderr, flush=True)


def build(recipe: Recipe) -> Image:
    """Return the image of `recipe`, from the cache or new. Raises ConfigError (rights, tools), LabError (a step)."""
    if os.geteuid() != 0:
        raise ConfigError(["an image is built by root: run it with sudo"])
    found = [tool for tool in TOOLS if shutil.which(tool, path=environment()["PATH"]) is None]
    if found:
        raise ConfigError([f"{tool} is missing: apt-get install {TOOLS[tool]}" for tool in found])
    directory = cache() / "images" / recipe.digest()
    _once(directory, f"image {recipe.name}", lambda to: _image(recipe, to))
    return Image(directory)


def _once(target: Path, what: str, make: Callable[[Path], None]) -> None:
    """Have `target` be there: `make` it under another name and rename it, unless somebody has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(f"{target.name}.lock"), what):
        if not target.exists():
            began = time.monotonic()
            say(f"{what}: building {target}")
            unfinished = target.with_name(f"{target.name}.new")
            _remove(unfinished)
            make(unfinished)
            unfinished.rename(target)
            say(f"{what}: done after {time.monotonic() - began:.0f} s")
        os.utime(target)
        _forget_unused(target.parent)


@contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{what}: somebody else is building it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_unused(directory: Path) -> None:
    oldest = time.time() - UNUSED_S
    for path in directory.iterdir():
        if path.suffix != ".lock" and path.stat().st_mtime < oldest:
            say(f"removing {path}, which nobody used for a week")
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        run(["rm", "-rf", "--one-file-system", path], timeout_s=300)
    else:
        path.unlink(missing_ok=True)


def _root(recipe: Recipe, target: Path) -> None:
    """Make the root layer: a tar file."""
    root = target.with_suffix(".root")
    _remove(root)
    say(f"  debootstrap of {SUITE} from {MIRROR}")
    run(["debootstrap", "--variant=minbase", SUITE, root, MIRROR], timeout_s=BUILD_TIMEOUT_S)
    (root / POLICY).write_text("#!/bin/sh\nexit 101\n")
    (root / POLICY).chmod(0o755)
    (root / "etc/apt/sources.list").write_text(SOURCES)
    packages = recipe.all_packages()
    say(f"  apt: {' '.join(packages)}")
    _inside(root, f"apt-get -qq update && INITRD=No {APT} install {shlex.join(packages)}; {_CLEAN}")
    run(["tar", "-C", root, "--sparse", "-cf", target, "."], timeout_s=BUILD_TIMEOUT_S)
    _remove(root)


_CLEAN: Final = "code=$?; rm -f /var/cache/apt/archives/*.deb; exit $code"


def _image(recipe: Recipe, target: Path) -> None:
    """Make the directory of an image."""
    layer = cache() / "roots" / f"{recipe.root_digest()}.tar"
    _once(layer, f"root of {recipe.name}", lambda to: _root(recipe, to))
    target.mkdir()
    root = target / "root"
    root.mkdir()
    say("  unpacking the root")
    run(["tar", "-C", root, "-xf", layer], timeout_s=BUILD_TIMEOUT_S)
    _install(recipe.debs, root)
    _settle(recipe, root)
    say("  kernel, RAM disk, file system")
    boot = target / "boot"
    shutil.copytree(root / "boot", boot)
    (kernel,) = boot.glob("vmlinuz-*")
    kernel.rename(target / "vmlinuz")
    (target / "initrd").write_bytes(initrd.build(root, recipe.modules))
    disk = target / "disk.ext4"
    run(["truncate", "-s", f"{recipe.size_mib}M", disk])
    run(["mkfs.ext4", "-q", "-F", "-m", "0", "-d", root, disk], timeout_s=BUILD_TIMEOUT_S)
    _remove(root)


def _install(debs: Sequence[Path], root: Path) -> None:
    if not debs:
        return
    say(f"  our packages: {' '.join(deb.name for deb in debs)}")
    for deb in debs:
        shutil.copy(deb, root / "root")
    paths = " ".join(f"/root/{shlex.quote(deb.name)}" for deb in debs)
    _inside(root, f"{APT} install {paths}; code=$?; rm -f {paths}; {_CLEAN.replace('$?', '$code')}")


def _settle(recipe: Recipe, root: Path) -> None:
    """Put agent, files and what a first boot needs into place."""
    for name, place in ((AGENT.name, AGENT), (AGENT_UNIT.name, AGENT_UNIT)):
        _write(root, str(place), (GUEST / name).read_text())
    _write(root, "/etc/fstab", "/dev/root / ext4 defaults 0 0\n")
    _write(root, "/etc/hostname", f"{recipe.name}\n")
    for path, text in recipe.files.items():
        _write(root, path, text)
    (root / POLICY).unlink()
    (root / "etc/machine-id").write_text("")
    _inside(root, "\n".join(["set -e", f"systemctl enable {AGENT_UNIT.stem}", "passwd -qd root", *recipe.commands]))


def _write(root: Path, path: str, text: str) -> None:
    target = root / path.strip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(0o755 if target.parent.name in ("bin", "sbin") else 0o644)


def _inside(root: Path, script: str) -> None:
    """Run a line of shell in the Debian at `root`; what it mounts and starts ends with it."""
    enter = 'mount -t proc proc "$0/proc"; mount -t sysfs sysfs "$0/sys"; exec chroot "$0" sh -c "$1"'
    clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root"]
    spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    run([*clean, *spaces, "sh", "-c", enter, root, script], timeout_s=BUILD_TIMEOUT_S)

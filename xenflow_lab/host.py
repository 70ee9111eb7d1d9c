"""What a lab needs of the machine that it runs on: programs and rights (checked first), and a few kernel settings.

The userspace datapath sends and receives through sockets with the default buffers, and all namespaces share one
neighbor table, so some host-wide settings are raised: said, shared between labs, put back when the last one goes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import msgspec

from xenflow.errors import ConfigError
from xenflow_lab.command import environment
from xenflow_lab.openvswitch import SCHEMA
from xenflow_lab.paths import ROOT, lab_names
from xenflow_lab.topology import Controller, Datapath, Routing, Topology

MIB: Final = 1 << 20
SETTINGS: Final = {
    "net.core.wmem_default": 64 * MIB,
    "net.core.wmem_max": 64 * MIB,
    "net.core.rmem_default": 8 * MIB,
    "net.core.rmem_max": 64 * MIB,
    "net.ipv4.neigh.default.gc_thresh1": 8192,
    "net.ipv4.neigh.default.gc_thresh2": 16384,
    "net.ipv4.neigh.default.gc_thresh3": 32768,
    "net.ipv6.neigh.default.gc_thresh1": 8192,
    "net.ipv6.neigh.default.gc_thresh2": 16384,
    "net.ipv6.neigh.default.gc_thresh3": 32768,
}
"""Wanted minimum of each host-wide setting."""

FRR_DIRECTORY: Final = Path("/usr/lib/frr")
_TOOLS: Final = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "ethtool": "ethtool",
    "ovsdb-server": "openvswitch-switch",
    "ovs-vswitchd": "openvswitch-switch",
    "ovs-vsctl": "openvswitch-common",
    "ovsdb-tool": "openvswitch-common",
}


class _Shared(msgspec.Struct):
    """Which labs need the settings, and what they were before."""

    before: dict[str, int]
    labs: list[str]


def problems(topology: Topology) -> list[str]:
    """Return why a lab of this topology cannot be built on this machine; empty if it can."""
    if os.geteuid() != 0:
        return ["a lab needs root (namespaces and interfaces): run it with sudo"]
    found = [_missing(tool, package) for tool, package in _TOOLS.items() if not _which(tool)]
    if not SCHEMA.is_file():
        found.append(f"{SCHEMA} is missing: apt-get install openvswitch-switch")
    wanted = {table.routing for table in (*topology.router, *topology.outside)}
    if Routing.FRR in wanted and not ((FRR_DIRECTORY / "zebra").exists() and _which("vtysh")):
        found.append("FRR is missing, but the topology wants it: apt-get install frr")
    if Routing.BIRD in wanted and not _which("bird"):
        found.append("BIRD is missing, but the topology wants it: apt-get install bird2")
    if topology.lab.controller is Controller.POX:
        found += _pox_problems()
    if topology.lab.datapath is Datapath.KERNEL and not _has_kernel_datapath():
        found.append('datapath = "system" needs the kernel\'s module openvswitch, which this kernel does not have')
    if topology.lab.datapath is Datapath.KERNEL and not _which("nft"):
        found.append(_missing("nft", "nftables"))
    if not found:
        found += _namespace_problems()
    return found


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=environment()["PATH"])


def _missing(tool: str, package: str) -> str:
    return f"{tool} is missing: apt-get install {package}"


def _has_kernel_datapath() -> bool:
    if not Path("/sys/module/openvswitch").exists() and (modprobe := _which("modprobe")):
        subprocess.run([modprobe, "-q", "openvswitch"], check=False)
    return Path("/sys/module/openvswitch").exists()


def _pox_problems() -> list[str]:
    home = os.environ.get("POX_HOME", "")
    way_out = "git clone -b halosaur https://github.com/noxrepo/pox, then set POX_HOME to that directory"
    if not home:
        return [f'controller = "pox" needs the environment variable POX_HOME: {way_out}']
    core = Path(home) / "pox" / "core.py"
    if not (Path(home) / "pox.py").is_file() or not core.is_file():
        return [f"POX_HOME={home}: there is no pox.py: {way_out}"]
    if "halosaur" not in core.read_text(encoding="utf-8", errors="replace"):
        return [f"POX_HOME={home}: is not the branch halosaur, and others do not load xenflow.app: {way_out}"]
    return []


def _namespace_problems() -> list[str]:
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "true"], capture_output=True, text=True, env=environment()
    )
    if tried.returncode:
        return [
            f"namespaces are not allowed here ({tried.stderr.strip()}):"
            " a container needs --privileged, or the capabilities SYS_ADMIN and NET_ADMIN"
        ]
    if not Path("/dev/net/tun").exists():
        return ["/dev/net/tun is missing (the switch needs it): modprobe tun, or --device /dev/net/tun in a container"]
    return []


@contextmanager
def _shared_state() -> Iterator[Path]:
    with _locked(ROOT / ".lock"):
        yield ROOT / ".host.json"


def _locked(path: Path) -> IO[str]:
    """Return the locked file; closing it unlocks. The last lab that goes removes it, whoever waits for it then."""
    while True:
        ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            lock = open(path, "w", encoding="ascii")  # noqa: SIM115 - the caller closes it
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                    return lock
            lock.close()


def _read(path: Path) -> _Shared:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Shared)
    except FileNotFoundError:
        return _Shared({}, [])
    except msgspec.DecodeError as error:
        raise ConfigError([f"{path}: damaged ({error}); remove it, host-wide settings stay as they are"]) from error


def _write(path: Path, shared: _Shared) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(shared))
    temporary.replace(path)


def _setting(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")


def raise_settings(lab: str, say: Callable[[str], None]) -> None:
    """Raise the host-wide settings that are too low, on behalf of `lab`; what is changed is said."""
    with _shared_state() as path:
        shared = _read(path)
        low = {
            name: value
            for name, wanted in SETTINGS.items()
            if _setting(name).exists() and (value := int(_setting(name).read_text())) < wanted
        }
        shared.before = {**low, **shared.before}
        shared.labs = [*(name for name in shared.labs if name != lab), lab]
        _write(path, shared)
        for name in low:
            _setting(name).write_text(str(SETTINGS[name]))
    if low:
        changes = ", ".join(f"{name} {value} -> {SETTINGS[name]}" for name, value in low.items())
        say(f"host-wide settings raised until the last lab is down: {changes}")


def restore_settings(lab: str, say: Callable[[str], None]) -> None:
    """Say that `lab` needs them no longer; if no other lab does, put back the host-wide settings.

    One that was changed by somebody else meanwhile is left as it is.
    """
    with _shared_state() as path:
        shared = _read(path)
        present = set(lab_names())
        shared.labs = [name for name in shared.labs if name != lab and name in present]
        if shared.labs:
            _write(path, shared)
            return
        restored = []
        for name, value in shared.before.items():
            if _setting(name).exists() and int(_setting(name).read_text()) == SETTINGS.get(name):
                _setting(name).write_text(str(value))
                restored.append(name)
        path.unlink(missing_ok=True)
    if restored:
        say(f"host-wide settings restored: {', '.join(restored)}")


def make_state(directory: Path) -> None:
    """Make the state directory of a lab. Raises FileExistsError."""
    with _shared_state():  # so that nobody removes the directory of all labs at this moment
        directory.mkdir(mode=0o755)


def forget_root() -> None:
    """Remove the directory of all labs if there is none left."""
    if lab_names() or not ROOT.is_dir():
        return
    with _shared_state() as path:
        if not path.exists() and not lab_names():
            (ROOT / ".lock").unlink(missing_ok=True)
            with suppress(OSError):  # somebody else's file is in it
                ROOT.rmdir()

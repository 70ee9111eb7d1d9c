"""Machines as namespaces: a network namespace, and a process that holds private mounts and a host name for it.

Inside a machine /run, /var/tmp and /etc/frr are its own, so that `vtysh`, `birdc`, `ovs-vsctl` and `xenflow` find their
sockets without options, and no daemon of the lab can meet one of the host. Nothing is mounted outside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from xenflow_lab.command import LabError, environment, run
from xenflow_lab.paths import ROOT, Paths
from xenflow_lab.plan import Kind, Machine

HOLDER = "holder"

_GUEST = {
    "net/ipv4/conf/{}/rp_filter": 0,
    "net/ipv4/conf/{}/accept_redirects": 0,
    "net/ipv6/conf/{}/accept_redirects": 0,
    "net/ipv6/conf/{}/accept_dad": 0,
    "net/ipv6/conf/{}/accept_ra": 0,
    "net/ipv6/conf/{}/router_solicitations": 0,
    "net/ipv6/conf/{}/keep_addr_on_down": 1,
}
_ROUTER = {
    "net/ipv4/conf/{}/forwarding": 1,
    "net/ipv6/conf/{}/forwarding": 1,
    "net/ipv4/conf/{}/send_redirects": 0,
    "net/ipv4/conf/{}/arp_ignore": 1,
    "net/ipv4/conf/{}/arp_announce": 2,
    "net/ipv4/icmp_ratelimit": 0,
    "net/ipv6/icmp/ratelimit": 0,
}
_STATION = {"net/ipv4/ip_forward": 0}
_NODE = {
    # The kernel sees what arrives at a port as well as the datapath does: it must never answer.
    "net/ipv4/ip_forward": 0,
    "net/ipv6/conf/{}/disable_ipv6": 1,
    "net/ipv6/conf/{}/accept_dad": 0,
    "net/ipv4/conf/default/rp_filter": 1,
    "net/ipv4/conf/default/arp_ignore": 8,
}
_WIRES = {"net/ipv4/ip_forward": 0, "net/ipv6/conf/{}/disable_ipv6": 1}


def kernel_settings(machine: Machine) -> dict[str, int]:
    """Return the settings under /proc/sys of a machine's network namespace."""
    wanted = {
        Kind.NODE: _NODE,
        Kind.WIRES: _WIRES,
        Kind.CONTROLLER: _WIRES,
    }.get(machine.kind, _GUEST | (_ROUTER if machine.forwards else _STATION))
    return {
        path: value
        for pattern, value in wanted.items()
        for path in ([pattern.format(scope) for scope in ("all", "default")] if "{}" in pattern else [pattern])
    }


def prepare(paths: Paths, machine: Machine) -> None:
    """Make the machine's private directories."""
    directory = paths.machine(machine.name)
    for name in ("run/openvswitch", "run/xenflow", "run/xenflow-lab", "run/frr", "run/bird", "etc-frr", "xenflow"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "var-tmp").mkdir(exist_ok=True)
    (directory / "var-tmp").chmod(0o1777)
    if shutil.which("vtysh"):
        for name in ("run/frr", "etc-frr"):
            shutil.chown(directory / name, "frr", "frr")


def add_namespaces(paths: Paths, machines: Iterable[Machine]) -> None:
    """Add the network namespaces of `machines`."""
    run(["ip", "-batch", "-"], stdin="".join(f"netns add {paths.namespace(machine.name)}\n" for machine in machines))


def holder_argv(paths: Paths, machine: Machine) -> list[str]:
    """Return the command that makes a machine's mounts, writes one line, and stays."""
    directory = paths.machine(machine.name)
    script = [
        "set -e",
        f"mount --rbind {ROOT} {directory}/run/xenflow-lab",
        f"mount --rbind {directory}/run /run",
        f"mount --bind {directory}/var-tmp /var/tmp",
        f"if [ -d /etc/frr ]; then mount --bind {directory}/etc-frr /etc/frr; fi",
        "mount -t sysfs sysfs /sys",
        f"hostname {machine.name}",
        *(f"echo {value} > /proc/sys/{path}" for path, value in kernel_settings(machine).items()),
        "ip link set lo up",
        "echo ready",
        "exec sleep infinity <&- >&- 2>&-",
    ]
    return [
        *("nsenter", f"--net={paths.namespace_file(machine.name)}", "--"),
        *("unshare", "--mount", "--uts", "--propagation", "private", "--", "sh", "-c", "\n".join(script)),
    ]


def start_holder(paths: Paths, machine: Machine) -> subprocess.Popen[str]:
    """Start a machine's holder; `await_holder` waits until the machine can be used."""
    return subprocess.Popen(
        holder_argv(paths, machine),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd="/",
        env=environment(),
    )


def await_holder(machine: Machine, holder: subprocess.Popen[str]) -> None:
    """Return once the machine is ready. Raises LabError with what went wrong."""
    assert holder.stdout is not None  # both are pipes, see start_holder
    assert holder.stderr is not None
    ready = holder.stdout.readline()
    if ready != "ready\n":
        _, errors = holder.communicate()
        raise LabError(f"{machine.name}: the namespace cannot be prepared: {errors.strip()}")
    holder.stdout.close()
    holder.stderr.close()


def enter_argv(holder_pid: int, argv: Sequence[str | Path], directory: str = "") -> list[str]:
    """Return the command that runs `argv` inside a machine: it becomes that program, in the same process.

    `directory` is the working directory there (default: the root).
    """
    where = [f"--wdns={directory}"] if directory and os.path.isdir(directory) else []
    return [
        # The root is named for the sake of a chroot: joining mounts alone would leave it.
        *("nsenter", f"--target={holder_pid}", "--net", "--mount", "--uts", "--root", *where, "--"),
        *(str(word) for word in argv),
    ]

"""VLAN interfaces of outside machines, without a kernel that has them: two tiny BPF programs at the end of a cable.

A guest's frames get the tag on their way in, and lose it on their way out; frames of other VLANs are dropped. Kernels
without 802.1q support (as in many containers) can do this, and the others as well, so there is one way only.

This is the only file of the lab that imports pyroute2.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from xenflow_lab.command import LabError, run

_SYSCALL: Final = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD: Final = 5
_SCHED_CLS: Final = 3
_CLSACT: Final = 0xFFFFFFF1
_CLSACT_INGRESS: Final = 0xFFFFFFF2
_CLSACT_EGRESS: Final = 0xFFFFFFF3
_ALL_PROTOCOLS: Final = 0x0003  # ETH_P_ALL

_VLAN_PRESENT: Final = 20  # offsets in struct __sk_buff of linux/bpf.h
_VLAN_TCI: Final = 24
_VLAN_PUSH: Final = 18  # numbers of bpf-helpers(7)
_VLAN_POP: Final = 19
_OK: Final = 0
_DROP: Final = 2


def _insn(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """Return one instruction of eBPF (linux/bpf.h, struct bpf_insn)."""
    return struct.pack("=BBhi", code, src << 4 | dst, offset, immediate)


def _load(register: int, offset: int) -> bytes:
    return _insn(0x61, register, 1, offset)


def _set(register: int, value: int) -> bytes:
    return _insn(0xB7, register, immediate=value)


def _call(helper: int) -> bytes:
    return _insn(0x85, immediate=helper)


_EXIT: Final = _insn(0x95)


def push_program(vid: int) -> bytes:
    """Return the program that tags untagged frames with `vid` and drops the others."""
    network_order = struct.unpack("=H", struct.pack("!H", 0x8100))[0]
    body = [_set(2, network_order), _set(3, vid), _call(_VLAN_PUSH), _set(0, _OK), _EXIT]
    return b"".join([_load(2, _VLAN_PRESENT), _insn(0x55, 2, offset=len(body)), *body, _set(0, _DROP), _EXIT])


def pop_program(vid: int) -> bytes:
    """Return the program that takes the tag off the frames of `vid` and drops the others; 0 lets untagged ones pass."""
    if not vid:
        return b"".join([_load(2, _VLAN_PRESENT), _set(0, _OK), _insn(0x15, 2, offset=1), _set(0, _DROP), _EXIT])
    body = [_call(_VLAN_POP), _set(0, _OK), _EXIT]
    match = [_load(2, _VLAN_TCI), _insn(0x57, 2, immediate=0xFFF), _insn(0x55, 2, offset=len(body), immediate=vid)]
    present = [_load(2, _VLAN_PRESENT), _insn(0x15, 2, offset=len(match) + len(body))]
    return b"".join([*present, *match, *body, _set(0, _DROP), _EXIT])


def load_program(program: bytes) -> int:
    """Load a traffic control program into the kernel and return its descriptor. Raises LabError."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise LabError(f"VLANs of outside machines: no BPF system call known for {platform.machine()}")
    code = ctypes.create_string_buffer(program, len(program))
    license_text = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQI", _SCHED_CLS, len(program) // 8, ctypes.addressof(code), ctypes.addressof(license_text), 0, 0, 0, 0
    )
    attributes = attributes.ljust(128, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.syscall(number, _PROG_LOAD, attributes, len(attributes)))
    if descriptor < 0:
        raise LabError(f"VLANs of outside machines: the kernel refused the program: {os.strerror(ctypes.get_errno())}")
    return descriptor


def attach(namespace: str, vlans: dict[str, int]) -> None:
    """Make the interfaces named in `vlans` ends of their VLAN (0: untagged only). Raises LabError.

    Done by a process of its own that runs in the namespace: one that forked from here would inherit our handlers.
    """
    if vlans:
        wanted = [f"{name}={vid}" for name, vid in vlans.items()]
        run(["ip", "netns", "exec", namespace, sys.executable, "-m", "xenflow_lab.vlan", *wanted])


def main(wanted: list[str]) -> int:
    """Attach the programs to interfaces of this process's namespace: NAME=VID; return the exit code."""
    try:
        with IPRoute() as net:
            for name, _, vid in (item.rpartition("=") for item in wanted):
                index = net.link_lookup(ifname=name)[0]
                net.tc("add", "clsact", index)
                _filter(net, index, _CLSACT_EGRESS, pop_program(int(vid)))
                if int(vid):
                    _filter(net, index, _CLSACT_INGRESS, push_program(int(vid)))
    except (LabError, NetlinkError) as error:
        print(f"VLANs of outside machines: {error}", file=sys.stderr)
        return 1
    return 0


def _filter(net: IPRoute, index: int, parent: int, program: bytes) -> None:
    descriptor = load_program(program)
    try:
        net.tc(
            "add-filter",
            "bpf",
            index,
            fd=descriptor,
            name="xenflow-lab-vlan",
            parent=parent,
            flags=1,  # direct action: what the program returns is what happens
            protocol=_ALL_PROTOCOLS,
            prio=1,
        )
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

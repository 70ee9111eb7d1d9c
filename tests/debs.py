"""Packages of ours in a machine that the lab emulates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xenflow_lab.machines.machine import Machine

INSTALL_S = 1200.0
"""For unpacking and configuring some packages on an emulated machine that shares its processors."""
_THERE = "/var/tmp/debs"
_OPTIONS = "-y -q --no-install-recommends -o Dpkg::Use-Pty=0"


def install(machine: Machine, debs: Sequence[Path], timeout_s: float = INSTALL_S) -> None:
    """Install packages by apt, as an operator does."""
    for deb in debs:
        machine.agent.put(f"{_THERE}/{deb.name}", deb.read_bytes())
    names = " ".join(f"{_THERE}/{deb.name}" for deb in debs)
    _apt(machine, f"install {names}", timeout_s)


def remove(machine: Machine, name: str, timeout_s: float = INSTALL_S) -> None:
    """Remove a package by apt, as an operator does; what it was configured with stays."""
    _apt(machine, f"remove {name}", timeout_s)


def _apt(machine: Machine, what: str, timeout_s: float) -> None:
    machine.shell(f"DEBIAN_FRONTEND=noninteractive apt-get {_OPTIONS} {what} </dev/null", timeout_s=timeout_s)

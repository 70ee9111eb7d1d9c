"""Packages of ours in a machine that the lab emulates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xenflow_lab.machines.machine import Machine

_THERE = "/var/tmp/debs"


def install(machine: Machine, debs: Sequence[Path], timeout_s: float) -> None:
    """Install packages by apt, as an operator does."""
    for deb in debs:
        machine.agent.put(f"{_THERE}/{deb.name}", deb.read_bytes())
    names = " ".join(f"{_THERE}/{deb.name}" for deb in debs)
    options = "-y -q --no-install-recommends -o Dpkg::Use-Pty=0"
    machine.shell(f"DEBIAN_FRONTEND=noninteractive apt-get {options} install {names} </dev/null", timeout_s=timeout_s)

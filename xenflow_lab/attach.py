"""Finds a lab that is up, whatever its nodes are."""

from __future__ import annotations

from xenflow_lab import record as records
from xenflow_lab.lab import Lab, Say, silent
from xenflow_lab.paths import Paths
from xenflow_lab.xen.lab import XenLab


def attach(name: str, *, say: Say = silent) -> Lab:
    """Return the lab `name` that is up, built by another process. Raises ConfigError if there is none."""
    made_of = XenLab if records.read(Paths(name).record).hosts else Lab
    return made_of.attach(name, say=say)

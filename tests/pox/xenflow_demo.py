"""The small core of the tests as a POX component: `pox.py xenflow_demo --config=FILE [--branch=0.7.0]`.

POX has a package `tests` of its own, so this one is found by its directory.
"""

from __future__ import annotations


def launch(config: str, branch: str = "") -> None:
    """Start it; `branch` makes POX look like another version."""
    from demo_core import DemoCore
    from pox.core import core

    from xenflow_app.pox_host import launch as launch_host

    if branch:
        core.version = tuple(map(int, branch.split(".")))
    launch_host(config, DemoCore)

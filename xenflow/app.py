"""The POX entry point: `pox.py xenflow.app [--config=FILE]`. The one module of this package that imports a program."""

from __future__ import annotations


def launch(config: str = "/etc/xenflow/app.toml") -> None:
    """Start XenFlow's controller inside POX (branch halosaur), with the settings in the file `config`."""
    from xenflow_app.pox_host import launch as launch_host

    launch_host(config)

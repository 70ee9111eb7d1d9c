"""The controller without VLAN tags: the paper's "non-isolated" variant, for figure 4(a) on one node.

All actions that push, set or strip a tag are left out; all else is the program as it is. Stand-alone:
``python -m bench.untagged --config FILE``; under POX: ``pox.py bench.untagged --config=FILE``.
"""

from __future__ import annotations

from xenflow_app.openflow import actions


def _without_tags() -> None:
    actions.set_vlan_vid = lambda _vid: b""
    actions.strip_vlan = lambda: b""


def launch(config: str) -> None:
    """Start under POX."""
    _without_tags()
    from xenflow_app.pox_host import launch as launch_host

    launch_host(config)


if __name__ == "__main__":
    _without_tags()
    from xenflow_app.standalone import main

    main()

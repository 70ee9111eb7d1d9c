"""What a kernel goes on doing while its machine is frozen, kept from doing harm.

A frozen machine's clock stands still; the namespace's does not. A neighbor entry in use at the moment of the freeze
would be asked for in vain and be given up after seconds, which no machine that was only moved ever does. So for the
time of a move the kernel may ask as often as it likes, and gives up as always when it has been heard again.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from xenflow_lab.command import LabError, run, wait_until
from xenflow_lab.places import Side

if TYPE_CHECKING:
    from xenflow_lab.lab import Lab

PATIENT: Final = 100_000
"""Questions before a neighbor is given up: more than a second each, so more than any freeze is long."""
USUAL: Final = 3
"""The kernel's own default of these settings, for both families (arp(7), ip-sysctl)."""
_COUNTS: Final = ("ucast_solicit", "mcast_solicit")
ANSWER_TIMEOUT_S: Final = 1.5
"""A neighbor in doubt is asked once a second: by then each has been asked on the new wires."""


def keep_neighbors(lab: Lab, side: Side) -> None:
    """Keep a machine from giving up neighbors until `forget_neighbors`."""
    _write(lab, side, PATIENT)


def forget_neighbors(lab: Lab, side: Side) -> None:
    """Put back the settings, once no neighbor is in doubt, or after a bounded time."""
    argv = lab.enter_argv(side.machine, ["ip", "neighbor", "show", "nud", "probe"])
    with contextlib.suppress(LabError):  # one that does not answer now either is given up by the kernel
        wait_until(lambda: not run(argv).strip(), ANSWER_TIMEOUT_S, "answers of neighbors", 0.1)
    _write(lab, side, USUAL)


def _write(lab: Lab, side: Side, value: int) -> None:
    devices = " ".join(vif.interface.device for vif in side.vifs)
    script = (
        f"set -e; for family in ipv4 ipv6; do for count in {' '.join(_COUNTS)}; do for device in {devices}; do\n"
        f"echo {value} > /proc/sys/net/$family/neigh/$device/$count\n"
        "done; done; done"
    )
    run(lab.enter_argv(side.machine, ["sh", "-c", script]))

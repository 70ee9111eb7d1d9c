"""What emulated hosts have logged: the journal and Xen's logs, beside the console in the directory of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from xenflow_lab.command import LabError
from xenflow_lab.machines.machine import Machine

NAME: Final = "journal.log"
TIMEOUT_S: Final = 300.0
_SCRIPT: Final = "journalctl -b --no-pager -o short-monotonic; tail -v -n 200 /var/log/xen/*.log /var/log/xen/console/*"


def write(host: Machine) -> Path:
    """Write the journal of a host, or why there is none, and return the file."""
    path = host.directory / NAME
    try:
        text = host.run(["sh", "-c", _SCRIPT], timeout_s=TIMEOUT_S).out
    except LabError as error:
        text = f"{error}\n"
    path.write_text(text, encoding="utf-8")
    return path

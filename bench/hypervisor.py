"""The lab's hypervisor as a server starts it, with a freeze of the bench; it notes when the machine stood still.

``hypervisor.py LAB FREEZE FILE MACHINE NODE``: progress on standard output, then a line of JSON more in FILE.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from xenflow_lab.lab import Lab


def command(lab: str, freeze_s: float, notes: Path) -> list[str]:
    """Return the command for a server's settings, which appends machine and node."""
    return [sys.executable, "-P", str(Path(__file__).resolve()), lab, str(freeze_s), str(notes)]


def main(lab: str, freeze_s: str, notes: str, machine: str, node: str) -> None:
    """Move a machine."""
    moved = Lab.attach(lab).move(machine, node, float(freeze_s), lambda percent: print(f"{percent}%", flush=True))
    with open(notes, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(moved)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

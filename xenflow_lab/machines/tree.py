"""A disk with this source tree and its virtual environment, to be mounted in a machine at the same place as here.

So a machine runs what is here, uncommitted changes included, with the same interpreter (Debian's) and dependencies.
What only checks, plots or builds is left out.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from xenflow_lab.command import run
from xenflow_lab.machines.machine import Machine

ROOT: Final = Path(__file__).parents[2]
ENVIRONMENT: Final = ROOT / ".venv"
HEAVY: Final = (
    *("scipy*", "numpy*", "matplotlib*", "mpl_toolkits", "pillow*", "PIL", "kiwisolver*", "fonttools*", "fontTools"),
    *("contourpy*", "mypy*", "*mypyc*", "grimp*", "pip*", "ruff*", "libvirt*", "libcst*"),
)
LEFT_OUT: Final = (".git", "dist", "build", "bench/out", "*.egg-info", ".*_cache", ".hypothesis")
SIZE_MIB: Final = 1024


def make_disk(path: Path) -> None:
    """Write the file system. Raises LabError if there is no room, or no virtual environment."""
    stage = path.with_suffix(".stage")
    run(["rm", "-rf", stage])
    stage.mkdir(parents=True)
    words = [f"--exclude={word}" for word in (*(f"./{name}" for name in LEFT_OUT), *_heavy())]
    pipe = f"tar -C {shlex.quote(str(ROOT))} {shlex.join(words)} -cf - . | tar -C {shlex.quote(str(stage))} -xf -"
    run(["bash", "-o", "pipefail", "-c", pipe], timeout_s=600)
    run(["truncate", "-s", f"{SIZE_MIB}M", path])
    run(["mkfs.ext4", "-q", "-F", "-m", "0", "-d", stage, path], timeout_s=600)
    run(["rm", "-rf", stage], timeout_s=300)


def _heavy() -> list[str]:
    packages = "./.venv/lib/python*/site-packages"
    return [f"{packages}/{name}" for name in HEAVY] + ["./.venv/bin/ruff", "./.venv/bin/pip*"]


def mount(machine: Machine, device: str) -> None:
    """Mount the disk in a machine that is up."""
    where = shlex.quote(str(ROOT))
    machine.shell(f"mkdir -p {where}; mountpoint -q {where} || mount {shlex.quote(device)} {where}")

"""Which accelerator works here: KVM if it really runs this kernel, else software emulation.

/dev/kvm may be there and still not carry a stock kernel (nested virtualization, containers), so it is tried: a machine
that says a word and switches off. What was found counts until the host boots again.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from xenflow_lab.command import environment
from xenflow_lab.machines.image import Image, cache
from xenflow_lab.machines.initrd import ALIVE, PROBE

TRIAL_S: Final = 15.0
KVM: Final = Path("/dev/kvm")


def best(image: Image) -> str:
    """Return `kvm` or `tcg`, whichever runs the kernel of `image`."""
    if not os.access(KVM, os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = cache() / f"accelerator.{boot}"
    try:
        return known.read_text()
    except FileNotFoundError:
        found = "kvm" if _says_its_word(image) else "tcg"
        known.write_text(found)
        return found


def _says_its_word(image: Image) -> bool:
    words = ["qemu-system-x86_64", "-machine", "pc", "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults"]
    words += ["-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", str(image.kernel)]
    words += ["-initrd", str(image.initrd), "-append", f"console=ttyS0 quiet panic=-1 {PROBE}"]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_S, check=False, env=environment()
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ALIVE.encode() in done.stdout

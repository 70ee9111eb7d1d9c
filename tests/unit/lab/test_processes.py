"""Processes of a lab, told by their pid and start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.private_ovs import wait_until
from xenflow_lab.processes import start_ticks

WITHOUT_ITS_FIRST_THREAD = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_runs_as_long_as_one_of_its_threads() -> None:
    process = subprocess.Popen([sys.executable, "-c", WITHOUT_ITS_FIRST_THREAD], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        state = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z", "the end of its first thread")
        assert start_ticks(process.pid) is not None
    finally:
        process.kill()
    wait_until(lambda: start_ticks(process.pid) is None, "its end")  # nobody has asked how: it is a zombie
    process.communicate()

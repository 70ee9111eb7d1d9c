from __future__ import annotations

import os
import subprocess
import sys


def test_print_ends_when_its_reader_has_gone() -> None:
    """As in ``xenflow-client --print --follow | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, "-m", "xenflow_client.main", "--print", "--follow"]
    done = subprocess.run(program, stdout=writing, stderr=subprocess.PIPE, timeout=20, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")

"""The niceness of a command that begins a session."""

from __future__ import annotations

import subprocess
from pathlib import Path

from xenflow_lab import priority

SHOW = ["sh", "-c", 'nice; cat /proc/self/autogroup 2> /dev/null; echo "$@"', "sh", "two words", "*"]


def test_the_command_and_its_session_have_it() -> None:
    done = subprocess.run(priority.argv(5, SHOW), start_new_session=True, capture_output=True, text=True, check=True)
    niceness, *group, words = done.stdout.splitlines()
    assert (niceness, words, done.stderr) == ("5", "two words *", "")
    assert [line.split()[1:] for line in group] == [["nice", "5"]] * Path("/proc/self/autogroup").exists()

"""Whose turn comes first when processors are scarce: the niceness of a command, and of its session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_SCRIPT: Final = """\
{ echo "$0" > /proc/self/autogroup; } 2> /dev/null
exec nice -n "$0" "$@"
"""


def argv(niceness: int, command: Sequence[str]) -> list[str]:
    """Return the command that becomes `command` at a niceness, -20 (first) to 19; it is to begin a session.

    Where the kernel groups processes by session, niceness counts within a session only, and the group has one of its
    own (sched(7), "The autogroup feature").
    """
    return ["sh", "-c", _SCRIPT, str(niceness), *command]

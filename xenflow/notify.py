"""What a daemon tells systemd, as sd_notify(3) has it: that it is ready, that it stops, and that its loop still turns.

Each daemon takes one `Notifier` from its environment and calls `ready` when it serves, which also starts the pulse:
WATCHDOG=1 from the event loop, three times in the watchdog's time, so that a loop that hangs is noticed. Started by
anything but systemd, a Notifier says nothing. The variables are removed: what a daemon starts is not to speak for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Final

_log = logging.getLogger(__name__)

SEND_S: Final = 0.1
"""A daemon does not wait longer than this for systemd to read."""
PULSES: Final = 3
"""Pings in the time after which systemd gives a daemon up."""


class Notifier:
    """Speaks to the socket at `path` ("" for nobody); `watchdog_s` is the watchdog's time, 0 without one."""

    def __init__(self, path: str = "", watchdog_s: float = 0.0) -> None:
        self.watchdog_s = watchdog_s
        self._pulsing = False
        self._path = "\0" + path[1:] if path.startswith("@") else path

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """Return the notifier that NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID ask for, and remove these."""
        path = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        whose = environment.pop("WATCHDOG_PID", str(os.getpid()))
        mine = microseconds.isdecimal() and whose == str(os.getpid())
        return cls(path, int(microseconds) / 1e6 if mine else 0.0)

    def ready(self, status: str) -> None:
        """Say that the daemon serves, and `status` in one line; the running loop then keeps the watchdog quiet.

        It may be said again, with another status.
        """
        self._send(f"READY=1\nSTATUS={status}")
        if self._path and self.watchdog_s and not self._pulsing:
            self._pulsing = True
            self._pulse()

    def stopping(self) -> None:
        """Say that the daemon was asked to end."""
        self._send("STOPPING=1")

    def _pulse(self) -> None:
        self._send("WATCHDOG=1")
        asyncio.get_running_loop().call_later(self.watchdog_s / PULSES, self._pulse)

    def _send(self, state: str) -> None:
        """Send one datagram; one that is lost is logged, and no reason to end."""
        if not self._path:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
                speaker.settimeout(SEND_S)
                speaker.sendto(state.encode(), self._path)
        except OSError as error:
            _log.warning("systemd did not take %s: %s", state.partition("\n")[0], error.strerror or error)

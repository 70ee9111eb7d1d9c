"""Where an announcement takes its time: what client, wires, switch and controller say of one, put on one clock (pure).

    client's log, departures, controller's log, the switch's sockets -> *Trace* -> a line for people

All of them tell the time of day. `tell` says what it means: frames that left late waited in the machine; what left at
once and was heard late waited in the vif's socket (see how full the switch's sockets are), in the switch or behind it;
many frames before the first one is heard mean that some were lost.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass

_SENDS, _HEARD = "announcing epoch", "announcement heard"
_PORT = re.compile(r"\bport=(\S+)")
_SOCKET = re.compile(r"\*:(\S+)\s.*skmem:\(r(\d+),.*?,d(\d+)\)")


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits in a switch's socket of an interface, and how many frames it has dropped so far."""

    interface: str
    waiting_bytes: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Trace:
    """An announcement; times in ms since the client began, `left` by interface of the machine, `heard` by port."""

    left: dict[str, list[float]]
    heard: dict[str, float]
    backlog: Backlog | None

    def tell(self) -> str:
        """Return what a person wants to read."""
        left = [f"{name} {len(at)} frames at {_few(at)}" for name, at in sorted(self.left.items())]
        heard = [f"{port} at {at:.0f}" for port, at in sorted(self.heard.items())]
        found = f"left: {', '.join(left) or 'nothing'}; heard: {', '.join(heard) or 'nothing'} (ms)"
        if self.backlog is None:
            return found
        waiting = f"{self.backlog.waiting_bytes >> 10} KiB in the switch's socket of {self.backlog.interface}"
        return f"{found}; after the move {waiting}, the fullest, which has dropped {self.backlog.dropped}"


def time_of(line: str) -> dt.datetime:
    """Return the time of a line in a log."""
    return dt.datetime.fromisoformat(line[:23].replace(",", "."))


def trace(client: Iterable[str], controller: Iterable[str], departures: Iterable[str], sockets: str) -> Trace:
    """Return the last announcement in the logs; `departures` are its frames, `sockets` what ``ss -0 -m`` printed."""
    began = [time_of(line) for line in client if _SENDS in line][-1]
    left: dict[str, list[float]] = {}
    for interface, at_ns in (line.split() for line in departures):
        left.setdefault(interface, []).append(_ms(dt.datetime.fromtimestamp(int(at_ns) / 1e9), began))
    heard = {
        match[1]: _ms(time_of(line), began)
        for line in controller
        if _HEARD in line and (match := _PORT.search(line)) and time_of(line) >= began
    }
    return Trace(left, heard, max(backlogs(sockets), key=lambda one: one.waiting_bytes, default=None))


def backlogs(sockets: str) -> list[Backlog]:
    """Return what waits in packet sockets, by what ``ss -0 -m`` printed."""
    return [Backlog(name, int(waiting), int(dropped)) for name, waiting, dropped in _SOCKET.findall(sockets)]


def _ms(at: dt.datetime, since: dt.datetime) -> float:
    return (at - since) / dt.timedelta(milliseconds=1)


def _few(at: list[float]) -> str:
    shown = [f"{one:.0f}" for one in at[:4]]
    return " ".join(shown) + (f" ... {at[-1]:.0f}" if len(at) > len(shown) else "")

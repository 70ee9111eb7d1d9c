"""A TCP transfer between two machines of a lab, by iperf3, and for how long its receiver got nothing.

iperf3 itself tells what came in each tenth of a second; how much its server has read is looked at more often, so that a
stall is known to a few milliseconds.
"""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import subprocess

    from xenflow_lab.lab import Lab

LOOK_S: Final = 0.005
PORT: Final = 5201
_END_S: Final = 20.0
_MANY_S: Final = "3600"
"""Longer than any transfer: it is ended."""


@dataclass(slots=True)
class Transfer:
    """What became of a transfer, known once it has ended.

    `stall_s` is the longest time in which its receiver's program read nothing, `blind_s` the longest in which nobody
    looked: a stall may seem longer by that. `whole`: one connection, that lasted until it was asked to end.
    """

    rate_bps: float = 0.0
    retransmits: int = 0
    stall_s: float = 0.0
    blind_s: float = 0.0
    whole: bool = False
    error: str = ""


@contextmanager
def transfer(lab: Lab, source: str, to: str, address: str, *words: str) -> Iterator[Transfer]:
    """Send from a machine to the `address` of another while the block runs, as fast as it goes.

    What became of it is known after the block. `words` are further arguments for iperf3's client. Raises LabError if it
    cannot begin.
    """
    found = Transfer()
    with ExitStack() as stack:
        server = stack.enter_context(_ended(lab.popen(to, ["iperf3", "-s", "-1", "-J", "-i", "0.1"])))
        lab.wait_until(lambda: f":{PORT}" in lab.run(to, ["ss", "-Hltn"]).stdout, 10, "iperf3's server")
        argv = ["iperf3", "-c", address, "-t", _MANY_S, "-J", "-i", "0.1", *words]
        client = stack.enter_context(_ended(lab.popen(source, argv)))
        watch = _Watch(Path(f"/proc/{server.pid}/io"))
        lab.wait_until(lambda: watch.read() > 1 << 16, 20, "the first bytes of a transfer")
        with watch:
            yield found
        client.send_signal(signal.SIGTERM)
        _take(found, _report(client), _report(server))
        found.stall_s, found.blind_s = watch.stall_s, watch.blind_s


def _take(found: Transfer, client: dict[str, Any], server: dict[str, Any]) -> None:
    sums = [interval["sum"] for interval in server["intervals"]]
    found.rate_bps = sum(item["bytes"] for item in sums) * 8 / sum(item["seconds"] for item in sums)
    found.retransmits = sum(interval["sum"]["retransmits"] for interval in client["intervals"])
    found.error = client.get("error", "")
    found.whole = "interrupt" in found.error and len(client["start"]["connected"]) == 1


def _report(process: subprocess.Popen[str]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(process.communicate(timeout=_END_S)[0])
    return report


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@dataclass(slots=True)
class _Watch:
    """Looks how much a process has read, again and again while the block runs."""

    path: Path
    stall_s: float = 0.0
    blind_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> _Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def read(self) -> int:
        """Return how many bytes the process has read (proc(5), rchar)."""
        found = re.search(r"rchar: (\d+)", self.path.read_text(encoding="ascii"))
        return int(found[1]) if found else 0

    def _look(self) -> None:
        count = self.read()
        news_s = looked_s = time.monotonic()
        while not self._stop.wait(LOOK_S):
            now, now_s = self.read(), time.monotonic()
            self.blind_s = max(self.blind_s, now_s - looked_s)
            self.stall_s = max(self.stall_s, now_s - news_s)
            if now != count:
                count, news_s = now, now_s
            looked_s = now_s

"""Adapter: processor and memory of one machine by Xen's own tool -> `granting`.

    xl list ID                   memory, vcpus
    xl sched-credit2 -d ID       weight, cap; sched-credit if `xl info` says that this is the host's scheduler

Rules: as in `xl`. An id is Xen's own number of a machine that runs, so it is looked up for every question.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from xenflow.errors import DataplaneError, RemoteProtocolError
from xenflow.resources import Resources
from xenflow_server.xl import ANSWER_S, parse_list

_ROW = re.compile(r"\s(\d+)\s+(\d+)\s+(\d+)\s+[a-z-]+\s+[\d.]+$")
"""`xl list`: id, memory in MiB and processors, before state and time; the name before may have spaces."""
_SHARE = re.compile(r"\s(\d+)\s+(\d+)\s+(\d+)$")
"""`xl sched-credit2`, `xl sched-credit`: id, weight and cap."""
_SCHEDULER = re.compile(rb"^xen_scheduler\s*:\s*(\w+)\s*$", re.MULTILINE)


def parse_row(text: str, domid: int) -> tuple[int, int]:
    """Return memory in MiB and processors from what `xl list` prints. Raises RemoteProtocolError."""
    for line in text.splitlines():
        found = _ROW.search(line.rstrip())
        if found is not None and int(found[1]) == domid:
            return int(found[2]), int(found[3])
    raise RemoteProtocolError(f"xl list: shows no machine {domid}")


def parse_share(text: str, domid: int) -> tuple[int, int]:
    """Return weight and cap from what `xl sched-credit2` prints. Raises RemoteProtocolError."""
    for line in text.splitlines():
        found = _SHARE.search(line.rstrip())
        if found is not None and int(found[1]) == domid:
            return int(found[2]), int(found[3])
    raise RemoteProtocolError(f"xl: shows no weight and cap of machine {domid}")


def scheduler_of(text: bytes) -> str:
    """Return the host's scheduler from what `xl info` prints. Raises DataplaneError."""
    found = _SCHEDULER.search(text)
    if found is None:
        raise DataplaneError("xl info: does not say xen_scheduler")
    return found[1].decode()


class XlMachines:
    """Finds machines of this Xen host. `tool` stands for the program in tests."""

    def __init__(self, tool: Sequence[str] = ("xl",)) -> None:
        self._tool = tuple(tool)
        self._scheduler = ""

    def find(self, uuid: str) -> XlMachine:
        """Return the machine that has a uuid. Raises DataplaneError."""
        try:
            domains = parse_list(_output([*self._tool, "list", "-l"]))
        except RemoteProtocolError as error:
            raise DataplaneError(str(error)) from error
        for domid, domain in domains.items():
            if domain.uuid == uuid:
                self._scheduler = self._scheduler or scheduler_of(_output([*self._tool, "info"]))
                return XlMachine(domid, self._scheduler, self._tool)
        raise DataplaneError(f"xl: no machine with uuid {uuid} runs here")


class XlMachine:
    """See `granting.Adjustable`."""

    def __init__(self, domid: int, scheduler: str, tool: Sequence[str] = ("xl",)) -> None:
        """`scheduler` is the host's, such as credit2."""
        self._domid, self._scheduler, self._tool = domid, scheduler, tuple(tool)

    def read(self) -> Resources:
        """Return what it has; without weight and cap if the host's scheduler has none."""
        try:
            memory_mib, vcpus = parse_row(self._ask("list", str(self._domid)), self._domid)
        except RemoteProtocolError as error:
            raise DataplaneError(str(error)) from error
        try:
            weight, cap = parse_share(self._ask(self._share(), "-d", str(self._domid)), self._domid)
        except (DataplaneError, RemoteProtocolError):
            return Resources(memory_mib, vcpus)
        return Resources(memory_mib, vcpus, weight, cap)

    def change(self, key: str, value: int) -> None:
        """Give it so much of one resource. Raises DataplaneError."""
        domid = str(self._domid)
        if key == "memory_mib":
            self._ask("mem-set", domid, f"{value}m")
        elif key == "vcpus":
            self._ask("vcpu-set", domid, str(value))
        else:
            self._ask(self._share(), "-d", domid, "-w" if key == "cpu_weight" else "-c", str(value))

    def nearest(self, key: str, value: int) -> int:
        """Return the value: the words are Xen's."""
        return value

    def _share(self) -> str:
        """Return xl's command for weight and cap."""
        if self._scheduler not in ("credit", "credit2"):
            raise DataplaneError(f"the host's scheduler {self._scheduler!r} has no weight and cap")
        return f"sched-{self._scheduler}"

    def _ask(self, *arguments: str) -> str:
        return _output([*self._tool, *arguments]).decode(errors="replace")


def _output(argv: Sequence[str]) -> bytes:
    """Return what a program prints. Raises DataplaneError with what it complains of."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataplaneError(f"{' '.join(argv)}: {error}") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DataplaneError(f"{' '.join(argv)}: {last[0] if last else f'exit code {done.returncode}'}")
    return done.stdout

"""The host's side of the agent in a machine (see guest/agent.py): commands and files over a virtio-serial socket.

QEMU serves one connection at each socket, so whoever asks takes a free one (a lock beside it) for one request.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import msgspec

from xenflow_lab.command import PATIENCE, LabError
from xenflow_lab.machines.qemu import AGENT_PORTS, agent_socket

CHUNK_BYTES: Final = 256 << 10
MARGIN_S: Final = 60.0
"""Beyond the time that a command may take: emulation is slow."""
PING_S: Final = 2.0
RETRY_S: Final = 0.1


class NoAnswer(LabError):
    """The machine has not answered, or has ended; what it was asked to do may have been done."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended: -9 if it took too long."""

    code: int
    out: str
    err: str


class Answer(msgspec.Struct):
    """What the agent says to a request."""

    id: str | None = None
    error: str = ""
    code: int = 0
    out: bytes = b""
    err: bytes = b""
    data: bytes = b""


class Agent:
    """Asks the agent of the machine whose files are in `directory`; any number of threads and processes may."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def ping(self, timeout_s: float = PING_S) -> bool:
        """Return whether it answers in time."""
        try:
            self._ask({"op": "ping"}, timeout_s)
        except LabError:
            return False
        return True

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60, environment: Mapping[str, str] = {}
    ) -> Done:
        """Run a command as root, in /root, to its end. Raises LabError if the machine does not answer."""
        timeout_s *= PATIENCE
        request: dict[str, object] = {"op": "run", "argv": list(argv), "timeout_s": timeout_s}
        request |= {"input": base64.b64encode(stdin).decode(), "environment": dict(environment)}
        answer = self._ask(request, timeout_s + MARGIN_S * PATIENCE)
        return Done(answer.code, answer.out.decode(errors="replace"), answer.err.decode(errors="replace"))

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file in the machine, with the directories above it."""
        for offset in range(0, max(len(content), 1), CHUNK_BYTES):
            data = base64.b64encode(content[offset : offset + CHUNK_BYTES]).decode()
            self._ask({"op": "put", "path": path, "offset": offset, "data": data, "mode": mode}, MARGIN_S * PATIENCE)

    def get(self, path: str) -> bytes:
        """Return what a file in the machine holds."""
        found = b""
        while True:
            request = {"op": "get", "path": path, "offset": len(found), "bytes": CHUNK_BYTES}
            part = self._ask(request, MARGIN_S * PATIENCE).data
            found += part
            if len(part) < CHUNK_BYTES:
                return found

    def _ask(self, request: Mapping[str, object], timeout_s: float) -> Answer:
        deadline = time.monotonic() + timeout_s
        self._count += 1
        name = f"{os.getpid()}.{id(self)}.{self._count}.{time.monotonic_ns()}"
        line = b"\n" + msgspec.json.encode({"id": name, **request}) + b"\n"
        with self._connection(deadline) as link:
            try:
                link.settimeout(timeout_s)
                link.sendall(line)
                answer = _answer(link, name, deadline)
            except OSError as error:
                raise NoAnswer(f"{self._directory.name}: its agent does not answer ({error})") from error
        if answer.error:
            raise LabError(f"{self._directory.name}: {request['op']}: {answer.error}")
        return answer

    @contextlib.contextmanager
    def _connection(self, deadline: float) -> Iterator[socket.socket]:
        with self._free_port(deadline) as number, socket.socket(socket.AF_UNIX) as link:
            try:
                link.connect(str(agent_socket(self._directory, number)))
            except OSError as error:
                raise LabError(f"{self._directory.name} does not run ({error})") from error
            yield link

    @contextlib.contextmanager
    def _free_port(self, deadline: float) -> Iterator[int]:
        while True:
            for number in range(AGENT_PORTS):
                with agent_socket(self._directory, number).with_suffix(".lock").open("w") as lock:
                    if _take(lock):
                        yield number
                        return
            if time.monotonic() > deadline:
                raise LabError(f"{self._directory.name}: all {AGENT_PORTS} ports of its agent are in use")
            time.sleep(RETRY_S)


def _take(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answer(link: socket.socket, name: str, deadline: float) -> Answer:
    """Return the answer to the request `name`; what is left of earlier ones is passed over."""
    rest = bytearray()
    while True:
        link.settimeout(max(deadline - time.monotonic(), 0.001))
        data = link.recv(1 << 16)
        if not data:
            raise NoAnswer("the machine has ended meanwhile")
        rest += data
        if b"\n" not in data:
            continue
        *lines, rest = rest.split(b"\n")
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):
                answer = msgspec.json.decode(line, type=Answer)
                if answer.id == name:
                    return answer

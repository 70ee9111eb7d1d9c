"""The lab's hands inside a machine: runs commands and moves files, asked over virtio-serial ports.

One request a line, JSON; one answer a line, with the request's id. A line that is no request is passed over, so that a
connection that was cut anywhere is usable again. Each port serves one user on the host at a time.

    {"id": "a1", "op": "run", "argv": [...], "input": base64, "timeout_s": 60} -> {"id", "code", "out", "err"}
    {"id": "a2", "op": "put", "path": ..., "offset": 0, "data": base64, "mode": 420} -> {"id"}
    {"id": "a3", "op": "get", "path": ..., "offset": 0, "bytes": 65536} -> {"id", "data"}
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
from typing import Any

PREFIX = "xenflow."
PORTS = pathlib.Path("/sys/class/virtio-ports")
RETRY_S = 0.2
IDLE_S = 10.0
"""So long a port waits at most that nobody is connected to; the kernel says by SIGIO when somebody is."""
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C"}


class Port:
    """One serial port; answers of several requests may be written at the same time."""

    def __init__(self, device: str) -> None:
        self.descriptor = os.open(device, os.O_RDWR)
        self.changed = threading.Event()
        """Set when somebody may have connected."""
        self._writing = threading.Lock()
        fcntl.fcntl(self.descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, fcntl.fcntl(self.descriptor, fcntl.F_GETFL) | os.O_ASYNC)

    def serve(self) -> None:
        """Answer requests for ever; each in a thread, so that a slow one keeps nobody waiting."""
        rest = b""
        while True:
            data = os.read(self.descriptor, 1 << 16)
            if not data:  # nobody is connected
                rest = b""
                self.changed.wait(IDLE_S)
                self.changed.clear()
                continue
            *lines, rest = (rest + data).split(b"\n")
            for line in filter(None, lines):
                threading.Thread(target=self._answer, args=(line,), daemon=True).start()

    def _answer(self, line: bytes) -> None:
        try:
            request = json.loads(line)
            operation = OPERATIONS[request["op"]]
        except (ValueError, KeyError, TypeError):
            return
        try:
            answer = operation(request)
        except (OSError, ValueError, KeyError, TypeError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        data = b"\n" + json.dumps({"id": request.get("id"), **answer}).encode() + b"\n"
        with self._writing:
            while data:
                data = data[os.write(self.descriptor, data[: 1 << 15]) :]


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run a command to its end. One that exceeds its time is killed with its children: code -9."""
    process = subprocess.Popen(
        request["argv"],
        stdin=subprocess.PIPE if request.get("input") else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | request.get("environment", {}),
        cwd=request.get("directory", "/root"),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(base64.b64decode(request.get("input", "")) or None, request["timeout_s"])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        err += f"no end after {request['timeout_s']:g} s\n".encode()
    return {"code": process.returncode, "out": base64.b64encode(out).decode(), "err": base64.b64encode(err).decode()}


def put(request: dict[str, Any]) -> dict[str, Any]:
    """Write a part of a file; the part at 0 makes it anew."""
    path = pathlib.Path(request["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb" if request["offset"] == 0 else "r+b") as file:
        file.seek(request["offset"])
        file.write(base64.b64decode(request["data"]))
    path.chmod(request["mode"])
    return {}


def get(request: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a file; less than asked for: it ends there."""
    with open(request["path"], "rb") as file:
        file.seek(request["offset"])
        return {"data": base64.b64encode(file.read(request["bytes"])).decode()}


def ping(_: dict[str, Any]) -> dict[str, Any]:
    """Say that the agent is there."""
    return {}


OPERATIONS = {"run": run, "put": put, "get": get, "ping": ping}


def ports() -> dict[str, str]:
    """Return the names of our ports that there are -> their devices."""
    names = {path: (path / "name").read_text().strip() for path in PORTS.glob("*") if (path / "name").exists()}
    return {name: f"/dev/{path.name}" for path, name in names.items() if name.startswith(PREFIX)}


def main() -> None:
    """Serve all ports, also those that come later."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    served: dict[str, Port] = {}
    while True:
        for name, device in ports().items():
            if name not in served and os.path.exists(device):
                served[name] = Port(device)
                threading.Thread(target=served[name].serve, daemon=True).start()
        if not served:
            time.sleep(RETRY_S)
        elif signal.sigtimedwait({signal.SIGIO}, IDLE_S):
            for port in served.values():
                port.changed.set()


if __name__ == "__main__":
    main()

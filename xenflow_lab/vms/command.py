"""`python -m xenflow_lab.vms.command LAB ROUTER -- COMMAND …`: runs a command inside a router's machine.

It asks the guest agent by way of libvirt, so it works wherever the machine is, and goes on asking while it moves. What
the command has printed comes at its end; SIGTERM ends it too. With `--stdin`, its input is all of this one's.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Final

from xenflow_lab.command import LabError
from xenflow_lab.lab import Lab
from xenflow_lab.vms.machines import Machines

POLL_S: Final = (0.05, 1.0)
"""How often to ask whether a command has ended: each time is a process here; more and more seldom."""
MOVING_S: Final = 60.0
"""How long a machine may be unable to answer, because it moves or its libvirtd is away."""
RETRY_S: Final = 0.2
ASK_S: Final = 30
PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FAILED: Final = 125


class Ended(Exception):
    """SIGTERM came."""


class Guest:
    """The agent of one router's machine."""

    def __init__(self, machines: Machines, router: str) -> None:
        self._machines = machines
        self._router = router

    def run(self, argv: Sequence[str], stdin: bytes | None = None) -> tuple[int, bytes, bytes]:
        """Return exit code, output and errors of a command. Raises LabError, ConfigError."""
        arguments: dict[str, object] = {"path": "/usr/bin/env", "arg": [PATH, *argv], "capture-output": True}
        if stdin is not None:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        pid = int(self._ask("guest-exec", arguments, patience_s=0)["pid"])
        pause_s = POLL_S[0]
        try:
            while not (found := self._ask("guest-exec-status", {"pid": pid}))["exited"]:
                time.sleep(pause_s)
                pause_s = min(1.5 * pause_s, POLL_S[1])
        except (Ended, KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.run(["kill", str(pid)])
            raise
        code = int(found["exitcode"]) if "exitcode" in found else 128 + int(found.get("signal", 0))
        return code, _decoded(found, "out-data"), _decoded(found, "err-data")

    def _ask(self, command: str, arguments: dict[str, object], patience_s: float = MOVING_S) -> dict[str, str]:
        text = json.dumps({"execute": command, "arguments": arguments})
        deadline = time.monotonic() + patience_s
        while True:
            try:
                node = self._machines.node_of(self._router)
                words = ["qemu-agent-command", self._router, text, "--timeout", str(ASK_S)]
                found: dict[str, str] = json.loads(self._machines.virsh(node, *words))["return"]
            except LabError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)
            else:
                return found


def _decoded(found: dict[str, str], key: str) -> bytes:
    return base64.b64decode(found.get(key, ""))


def _end(_number: int, _frame: FrameType | None) -> None:
    raise Ended


def main() -> None:
    """Run one command; ends the process with its exit code."""
    signal.signal(signal.SIGTERM, _end)
    words = sys.argv[1:]
    stdin = sys.stdin.buffer.read() if "--stdin" in words[:1] else None
    lab, router, _, *argv = words[1:] if stdin is not None else words
    try:
        code, output, errors = Guest(Machines(Lab.attach(lab)), router).run(argv, stdin)
    except (Ended, KeyboardInterrupt):
        sys.exit(128 + signal.SIGTERM)
    except LabError as error:
        print(f"{router}: {error}", file=sys.stderr)
        sys.exit(FAILED)
    sys.stdout.buffer.write(output)
    sys.stderr.buffer.write(errors)
    sys.exit(code)


if __name__ == "__main__":
    main()

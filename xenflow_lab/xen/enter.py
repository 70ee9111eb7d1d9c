"""`python -m xenflow_lab.xen.enter`: runs a command in Dom0 of an emulated host, or by ssh in the router that it has.

    enter DIRECTORY... -- COMMAND                        in Dom0 of the (only) host, whose machine's directory it is
    enter --router NAME ADDRESS DIRECTORY... -- COMMAND  in the router, on whichever of the hosts it runs

Standard input goes first, its output comes when it has ended. The exit code is the command's; 2: it could not be run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from xenflow_lab.command import LabError
from xenflow_lab.machines.agent import Done
from xenflow_lab.machines.machine import Machine

TIMEOUT_S = 3600.0
_SSH = ("ssh", "-o", "ConnectTimeout=60", "-o", "BatchMode=yes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="xenflow_lab.xen.enter", description="run a command in an emulated host")
    parser.add_argument("--router", nargs=2, metavar=("NAME", "ADDRESS"), help="its name, and where Dom0 reaches it")
    parser.add_argument("directories", nargs="+", type=Path)
    given = list(sys.argv[1:] if arguments is None else arguments)
    at = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:at])
    stdin = "" if sys.stdin.isatty() else sys.stdin.read()
    try:
        hosts = [Machine(directory) for directory in options.directories]
        done = _run(hosts, options.router, given[at + 1 :], stdin)
    except LabError as error:
        print(f"xenflow: {error}", file=sys.stderr)
        return 2
    sys.stdout.write(done.out)
    sys.stderr.write(done.err)
    return done.code


def _run(hosts: Sequence[Machine], router: Sequence[str] | None, words: Sequence[str], stdin: str) -> Done:
    if not router:
        return hosts[0].run(words, stdin=stdin, timeout_s=TIMEOUT_S)
    name, address = router
    for host in (host for host in hosts if host.alive):
        if host.run(["xl", "domid", name]).code == 0:
            return host.run([*_SSH, f"root@{address}", shlex.join(words)], stdin=stdin, timeout_s=TIMEOUT_S)
    raise LabError(f"{name} runs on no host")


if __name__ == "__main__":
    sys.exit(main())

"""``python -m xenflow_lab.demo [--controller pox]``: exit code 0 if all of it is right, 1 if not, 2 if it cannot be."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from xenflow.errors import ConfigError
from xenflow_lab import host, teardown
from xenflow_lab.command import LabError
from xenflow_lab.demo import convergence, isolation, moving, path, reach
from xenflow_lab.demo.page import Page
from xenflow_lab.lab import Lab, Overrides
from xenflow_lab.paths import lab_names
from xenflow_lab.topology import Controller
from xenflow_lab.traffic.launch import ToolError

TOPOLOGY: Final = Path(__file__).parents[2] / "deploy" / "lab" / "demo.toml"
PREFIX: Final = "demo-"
PICTURE: Final = """\
      n1 ---- n2
     / |      |        each tenant:  h1 --lan1-- r1 --core-- r2 --lan2-- h2, h3
   sw  |      |        red           r1 on n1, r2 on n2, h1 and h2 on n3, h3 on n2
     \\ |      |        blue          r1 on n3, r2 on n1, h1 on n1, h2 and h3 on n2
      n3 -----'        both use      10.0.1.0/24, 10.0.2.0/24, fd00:0:0:1::/64, fd00:0:0:2::/64
                       r1 and r2     FRR with OSPFv2 and OSPFv3"""
CLOSING: Final = "Look around in the same network: . .venv/bin/activate; xenflow lab up deploy/lab/demo.toml"
ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
AGAIN_S: Final = 0.01
EXIT_NO: Final = 1
EXIT_TROUBLE: Final = 2
EXIT_INTERRUPTED: Final = 130


def show(page: Page, lab: Lab) -> bool:
    """Play all scenes; return whether everything was right."""
    page.title("XenFlow", "virtual routers: routing daemons in virtual machines, packets in Open vSwitch")
    page.text("")
    page.text(PICTURE)
    controller = "POX" if lab.plan.topology.lab.controller is Controller.POX else "stand-alone"
    page.text(f"controller: {controller}", "dim")
    try:
        convergence.build(page, lab)
        convergence.converge(page, lab)
        reach.matrix(page, lab)
        reach.traceroute(page, lab)
        isolation.isolate(page, lab)
        path.data_path(page, lab)
        path.why(page, lab)
        path.first_packets(page, lab)
        moving.move(page, lab)
    finally:
        with _undisturbed(), page.step("taking everything down", quiet=True):
            lab.down()
    return page.verdict(CLOSING)


def remove_left_over() -> None:
    """Take down labs of demos that were killed."""
    for name in lab_names():
        pid = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and pid.isdecimal() and not _is_demo(int(pid)):
            teardown.down(name, lambda _line: None)


def _is_demo(pid: int) -> bool:
    try:
        return b"xenflow_lab.demo" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _terminated(number: int, frame: FrameType | None) -> None:
    """End the demo; a moment later if it is in what the interpreter calls by itself, where nothing can be raised."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename == weakref.__file__:
            signal.signal(signal.SIGALRM, lambda _alarm, later: _terminated(number, later))
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
            return
        frame = frame.f_back
    raise SystemExit(128 + number)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let nothing interrupt the block."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGALRM, *ENDING)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(prog="demo", description="the main job of XenFlow on one machine")
    parser.add_argument("--controller", type=Controller, choices=list(Controller), help="instead of the topology's")
    wanted = parser.parse_args(arguments)
    for number in ENDING:
        signal.signal(number, _terminated)
    try:
        if os.geteuid() == 0:
            remove_left_over()
        lab = Lab(TOPOLOGY, f"{PREFIX}{os.getpid()}", overrides=Overrides(wanted.controller))
        if problems := host.problems(lab.plan.topology):
            raise ConfigError(problems)
        return 0 if show(Page(), lab) else EXIT_NO
    except KeyboardInterrupt:
        print("demo: interrupted; everything was taken down", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ConfigError as error:
        print("\n".join(f"demo: {problem}" for problem in error.problems), file=sys.stderr)
        return EXIT_TROUBLE
    except (LabError, ToolError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_NO


if __name__ == "__main__":
    sys.exit(main())

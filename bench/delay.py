"""The paper's figure 4(a): round-trip time of packets 1 to 20 of a new flow.

Isolated: the pipeline as it is. Non-isolated: the same controller without VLAN tags (`bench.untagged`). Open vSwitch:
the same bridge as a learning switch (NORMAL). Each in reactive mode, as in the paper, and in proactive mode; under the
stand-alone host and, where POX_HOME is set, under POX. A round is a flow that was not there before, on a cold cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import network
from bench.agent import Agent
from bench.network import RIGHT_ADDRESS, Paths
from xenflow_lab.lab import Lab
from xenflow_lab.plan import CONTROLLER
from xenflow_lab.topology import Controller, Topology

PACKETS = 20
INTERVAL_S = 0.05
IDLE_TIMEOUT_S = 5
"""Shorter than it takes until a DSCP, which tells the flows of rounds apart, comes again."""
NODE = "n1"
ISOLATED, NON_ISOLATED, SWITCH = "isolated", "non-isolated", "Open vSwitch"
PAPER_FIRST_MS = {ISOLATED: 30.0, NON_ISOLATED: 20.0}
"""Section III, of packet 1; "routing the following packets introduces the same delay for all three approaches"."""
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Series:
    """Round-trip times in ms, by round and packet, of one variant; `host` and `mode` are those of the controller."""

    host: str
    mode: str
    variant: str
    rounds: list[list[float]]


def controllers() -> list[Controller]:
    """Return the hosts that can be measured here."""
    return [Controller.STANDALONE, *([Controller.POX] if os.environ.get("POX_HOME") else [])]


def measure(rounds: int) -> list[Series]:
    """Return all series."""
    found = []
    for controller in controllers():
        for mode in ("reactive", "proactive"):
            print(f"  figure 4(a): {controller}, {mode} …", flush=True)
            with network.one_node(_topology(controller, mode)) as lab, network.hosts(lab) as (left, _right):
                paths = Paths(lab)
                paths.pipeline()
                found.append(Series(controller, mode, ISOLATED, _rounds(lab, left, rounds)))
                with _untagged(lab):
                    found.append(Series(controller, mode, NON_ISOLATED, _rounds(lab, left, rounds)))
                paths.static("NORMAL")
                found.append(Series(controller, mode, SWITCH, _rounds(lab, left, rounds)))
    return found


def _topology(controller: Controller, mode: str) -> Topology:
    base = network.topology()
    lab = msgspec.structs.replace(base.lab, controller=controller, mode=mode)
    return msgspec.structs.replace(base, lab=lab, app={"reactive": {"idle_timeout_s": IDLE_TIMEOUT_S}})


def _rounds(lab: Lab, left: Agent, rounds: int) -> list[list[float]]:
    left.ask("ping", to=RIGHT_ADDRESS, count=3)
    found = []
    for number in range(rounds):
        lab.appctl(NODE, "revalidator/purge")
        trips = left.ask("ping", to=RIGHT_ADDRESS, count=PACKETS, interval_s=INTERVAL_S, dscp=1 + number % 63)
        if None in trips:
            raise RuntimeError(f"packet {trips.index(None) + 1} of round {number + 1} was lost")
        found.append([trip / 1e6 for trip in trips])
    return found


@contextmanager
def _untagged(lab: Lab) -> Iterator[None]:
    """Replace the controller by the one without tags; inside the block its flows are installed, and no others."""
    replaced = lab.process("controller")
    replaced.kill(15)
    lab.ofctl(NODE, "del-flows")
    argv = list(replaced.command.argv)
    if "xenflow.app" in argv:
        argv[argv.index("xenflow.app")] = "bench.untagged"
    else:
        argv[:1] = [sys.executable, "-m", "bench.untagged"]
    env = {**os.environ, "PYTHONPATH": str(_ROOT)}
    process = lab.popen(CONTROLLER, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        network.await_traffic(lab)
        if "vlan_vid:" in lab.ofctl(NODE, "dump-flows"):
            raise RuntimeError("the variant without tags has set one")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

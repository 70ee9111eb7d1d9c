"""Figure 3(c) with real live migrations: a router that is a virtual machine (QEMU, libvirt) moves while packets flow.

`XENFLOW` is the product as it is: an operator orders the migration, xenflow-server has libvirt do it. `NATIVE` is the
same machine on plain VLAN switches: it forwards itself, `virsh migrate` moves it, and QEMU and the guest's kernel speak
up when it goes on. Networks are those of deploy/lab/vms.toml; red-h1 -> red-r1 -> red-r2 -> red-h2 flows, red-r1 moves.

`python -m bench.interruption_vms` measures both and draws the figure; `make test-vms` does so too.
"""

from __future__ import annotations

import csv
import itertools
import re
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import plots
from xenflow.answers import MigrationStatus
from xenflow_lab import operator, stations
from xenflow_lab.command import LabError, wait_until
from xenflow_lab.lab import Lab
from xenflow_lab.plan import Kind
from xenflow_lab.topology import load
from xenflow_lab.vms.machines import Machines

XENFLOW, NATIVE = "XenFlow", "planes not separated"
TOPOLOGY = Path(__file__).parents[1] / "deploy" / "lab" / "vms.toml"
OUT = Path(__file__).parent / "out"
ROUTER, NODES = "red-r1", ("n1", "n2")
SENDER, RECEIVER, ADDRESS, GATEWAY = "red-h1", "red-h2", "10.0.2.10", "10.0.1.1"
PORT = 5000
RATES_PPS = {XENFLOW: 10_000, NATIVE: 510}
"""What the paper sends, where every packet passes the emulated machine: it cannot take much more."""
SIZES_BYTES = {XENFLOW: 100, NATIVE: 1472}
MOVES = 5
INTERVAL_S = 0.5
BEFORE_S = 3.0
MOVE_S = 240.0
PING_S, POLL_S = 0.05, 0.2
_ANSWER = re.compile(r"^\[(\d+\.\d+)\] \d+ bytes from", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Move:
    """One live migration: when it was ordered and done (s after the first packet), and how long the machine was away.

    `stopped_s` is what QEMU says; `silent_s` the longest time between two answers to pings of the machine itself.
    """

    begun_s: float
    done_s: float
    stopped_s: float
    silent_s: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A flow through the router, and its moves meanwhile. `received_pps` is that of each interval."""

    variant: str
    rate_pps: int
    sent: int
    lost: int
    doubled: int
    gap_s: float
    received_pps: list[float]
    moves: list[Move]

    def words(self) -> str:
        """Return it in words."""
        away = ", ".join(f"{move.stopped_s:.2f}/{move.silent_s:.2f}" for move in self.moves)
        return (
            f"{self.variant}: {len(self.moves)} live migrations under {self.rate_pps} packets/s: {self.lost} of "
            f"{self.sent} lost, {self.doubled} doubled, longest gap {self.gap_s * 1e3:.0f} ms; the machine was "
            f"stopped/silent for {away} s"
        )


@contextmanager
def lab(variant: str, name: str) -> Iterator[Lab]:
    """Bring up the lab of a variant; inside the block red-h1 reaches red-h2."""
    with Lab(load(TOPOLOGY), name, with_xenflow=variant == XENFLOW, vms=True, say=print) as found:
        if variant == NATIVE:
            switch_plainly(found)
        await_traffic(found)
        yield found


def switch_plainly(lab: Lab) -> None:
    """Make the nodes plain VLAN switches; libvirt gives the routers' ports their tags."""
    vids = {network.name: network.vid for network in lab.plan.topology.network}
    for node in lab.plan.of_kind(Kind.NODE):
        lab.ofctl(node.name, "add-flow", "actions=NORMAL")
    for vif in lab.cabled.vifs:
        lab.vsctl(vif.node, "set", "Port", vif.port, f"tag={vids[vif.network]}")


def await_traffic(lab: Lab, timeout_s: float = 180) -> None:
    """Return once red-h1 reaches red-h2, all routes known and installed."""
    if lab.with_xenflow:
        lab.wait_settled(timeout_s)
    lab.wait_until(lambda: all(stations.answers(lab, SENDER, [ADDRESS]).values()), timeout_s, "traffic through routers")


def measure(lab: Lab, variant: str, moves: int = MOVES) -> Trial:
    """Send, move the router to and fro, and count."""
    sending = ["--to", f"{ADDRESS}:{PORT}", "--rate-pps", f"{RATES_PPS[variant]}", "--size", f"{SIZES_BYTES[variant]}"]
    receiving = ["--port", f"{PORT}", "--flows", "1", "--interval", f"{INTERVAL_S}"]
    with (
        pinged(lab, SENDER, GATEWAY, PING_S) as answers,
        stations.start(lab, RECEIVER, "receive", *receiving) as receiver,
    ):
        with stations.begin(lab, SENDER, "send", *sending, "--duration", "3600") as sender:
            began = time.time()
            time.sleep(BEFORE_S)
            seen = [_move(lab, variant, began) for _ in range(moves)]
            time.sleep(BEFORE_S)
            sent = sender.stop()["sent"]
        report = receiver.end(10)
    return _trial(variant, sent, report, [with_silence(move, answers, began) for move in seen])


@contextmanager
def pinged(lab: Lab, who: str, address: str, interval_s: float) -> Iterator[list[float]]:
    """Ping while the block runs; the list has the times of all answers (of time.time()) after it."""
    found: list[float] = []
    with tempfile.TemporaryFile("w+", encoding="ascii", errors="replace") as log:  # more than a pipe holds
        pings = lab.popen(who, ["ping", "-D", "-n", f"-i{interval_s}", address], stdout=log, stderr=log)
        try:
            yield found
        finally:
            pings.send_signal(signal.SIGINT)
            try:
                pings.wait(30)
            finally:
                pings.kill()
        log.seek(0)
        found += answered(log.read())


def _trial(variant: str, sent: int, report: dict[str, Any], moves: list[Move]) -> Trial:
    (flow,) = report["flows"]
    size = SIZES_BYTES[variant]
    return Trial(
        variant,
        RATES_PPS[variant],
        sent,
        sent - report["received"],
        report["duplicated"],
        report["longest_gap_ns"] / 1e9,
        [rate / 8 / size for rate in flow["rates_bps"]],
        moves,
    )


def _move(lab: Lab, variant: str, began: float) -> Move:
    """Move the router to its other node."""
    here = lab.plan.machines[ROUTER].node
    target = next(node for node in NODES if node != here)
    begun = time.time() - began
    if variant == XENFLOW:
        _order(lab, target)
    else:
        lab.move(ROUTER, target)
    assert isinstance(lab.routers, Machines)
    return Move(begun, time.time() - began, lab.routers.downtime_s(target, ROUTER), 0.0)


def _order(lab: Lab, target: str) -> None:
    """Have the controller migrate the router. Raises LabError if it ends otherwise."""
    answer = operator.ask(lab.app_socket, "migrate", {"router": ROUTER, "to": target})
    found = msgspec.json.decode(answer, type=MigrationStatus)

    def ended() -> bool:
        nonlocal found
        answer = operator.ask(lab.app_socket, "migrations", {"number": str(found.number)})
        (found,) = msgspec.json.decode(answer, type=list[MigrationStatus])
        return found.ended

    wait_until(ended, MOVE_S, f"the end of the migration to {target}", POLL_S)
    if found.state != "done":
        raise LabError(f"migration of {ROUTER} to {target} has {found.state}: {found.error}")


def answered(text: str) -> list[float]:
    """Return when answers came, by what `ping -D` has printed."""
    return [float(at) for at in _ANSWER.findall(text)]


def with_silence(move: Move, answers: Sequence[float], began: float) -> Move:
    """Return the move with the longest gap between two answers, of those that reach into it; `began`: its time 0."""
    pairs = itertools.pairwise(at - began for at in answers)
    gaps = [after - before for before, after in pairs if after > move.begun_s and before < move.done_s]
    return Move(move.begun_s, move.done_s, move.stopped_s, max(gaps, default=move.done_s - move.begun_s))


def draw(trials: Sequence[Trial], out: Path = OUT) -> None:
    """Draw each trial in a panel of its own, and write its samples beside."""
    title = "Figure 3(c), native: a router in a QEMU machine is live-migrated by libvirt"
    plots.draw_moves(trials, title, out / "figure3c_native", INTERVAL_S)
    write(trials, out / "figure3c_native.csv")


def write(trials: Sequence[Trial], path: Path) -> None:
    """Write one line for each move."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["variant", "rate_pps", "move", "ordered_s", "done_s", "stopped_s", "silent_s", "sent", "lost", "doubled"]
        )
        for trial in trials:
            for number, move in enumerate(trial.moves, start=1):
                times = (move.begun_s, move.done_s, move.stopped_s, move.silent_s)
                counts = (trial.sent, trial.lost, trial.doubled)
                writer.writerow([trial.variant, trial.rate_pps, number, *(f"{value:.3f}" for value in times), *counts])


def main() -> None:
    """Measure both variants, one lab after the other, and draw."""
    trials = []
    for variant, suffix in ((XENFLOW, "x"), (NATIVE, "n")):
        with lab(variant, f"figure3c-{suffix}") as found:
            trials.append(measure(found, variant))
            print(trials[-1].words(), flush=True)
    draw(trials)


if __name__ == "__main__":
    main()

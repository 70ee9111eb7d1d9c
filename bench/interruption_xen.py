"""Figure 3(c) on Xen: a router that is a PVH guest of an emulated Xen host is live-migrated by xl while packets flow.

`XENFLOW` is the product as it is: an operator orders the migration, xenflow-server has xl do it. `NATIVE` is the same
guest on the same hosts with plain VLAN switches: it forwards itself, somebody types `xl migrate`, and its kernel speaks
up when it goes on. The network is that of deploy/lab/xen.toml: sender -> r1 -> receiver, r1 moves.

`python -m bench.interruption_xen` measures both and draws the figure; `make test-xen` does so too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from bench import plots
from bench.interruption_vms import NATIVE, OUT, XENFLOW, Move, Trial, pinged, with_silence, write
from xenflow.answers import MigrationStatus
from xenflow_lab.command import LabError, wait_until
from xenflow_lab.plan import BRIDGE
from xenflow_lab.xen import drops, guest, trial
from xenflow_lab.xen.lab import XenLab

TOPOLOGY: Final = Path(__file__).parents[1] / "deploy" / "lab" / "xen.toml"
ROUTER: Final = "r1"
NODES: Final = ("n1", "n2")
SENDER, GATEWAY = "sender", "10.0.1.1"
PING_S: Final = 0.2
MOVE_S: Final = 3600.0
POLL_S: Final = 1.0
CREATE_S: Final = 600.0


def order(lab: XenLab, target: str) -> MigrationStatus:
    """Have the controller migrate the router, and return how that has ended. Raises LabError if it does not end."""
    answer = lab.ask("migrate", {"router": ROUTER, "to": target})
    found = msgspec.json.decode(answer, type=MigrationStatus)
    question = {"number": str(found.number)}

    def ended() -> bool:
        nonlocal found
        try:
            (found,) = msgspec.json.decode(lab.ask("migrations", question), type=list[MigrationStatus])
        except LabError:
            return False  # it is asked again: who copies memory answers late
        return found.ended

    wait_until(ended, MOVE_S, f"the end of the migration to {target}", POLL_S)
    return found


def ordered(lab: XenLab, target: str) -> MigrationStatus:
    """Have the controller migrate the router. Raises LabError unless that is done."""
    found = order(lab, target)
    if found.state != "done":
        raise LabError(f"migration of {ROUTER} to {target} has {found.state}: {found.error}")
    return found


def measure(lab: XenLab, variant: str, act: Callable[[], object], rate_pps: float) -> Trial:
    """Send, move the router by `act`, and count; if packets were lost, it is said where they were dropped."""
    begun: list[float] = []

    def timed() -> None:
        begun.append(time.time())
        act()

    with pinged(lab, SENDER, GATEWAY, PING_S) as answers:
        before = drops.read(lab)
        counted = trial.count(lab, timed, trial.Flow(rate_pps=rate_pps))
    if dropped := trial.dropped(lab, before, counted):
        lab.say(f"{variant}, {rate_pps:g} packets/s: {counted}{dropped}")
    move = Move(trial.AROUND_S, trial.AROUND_S + counted.took_s, 0.0, 0.0)
    return of(variant, rate_pps, counted, with_silence(move, answers, begun[0] - trial.AROUND_S))


@dataclass(frozen=True, slots=True)
class Try:
    """A migration by XenFlow under packets, and how the controller says that it has ended."""

    trial: Trial
    status: MigrationStatus


def migrate(lab: XenLab, most_pps: float) -> list[Try]:
    """Have XenFlow migrate the router, at `most_pps`, a half of it … to and fro until no packet is lost; all tries.

    Hosts that carry a rate at rest may not carry it while Xen copies memory: both have the one processor.
    """
    tries: list[Try] = []
    for rate_pps in trial.halves(most_pps):
        trial.await_traffic(lab)
        tries.append(_try(lab, rate_pps))
        lab.say(words(tries[-1].trial))
        if not tries[-1].trial.lost or tries[-1].status.state != "done":
            break
    return tries


def _try(lab: XenLab, rate_pps: float) -> Try:
    target = next(node for node in NODES if node != lab.plan.machines[ROUTER].node)
    ended: list[MigrationStatus] = []
    found = measure(lab, XENFLOW, lambda: ended.append(order(lab, target)), rate_pps)
    return Try(found, ended[0])


def of(variant: str, rate_pps: float, counted: trial.Count, move: Move) -> Trial:
    """Return a count as the trial that it was."""
    received = [rate / 8 / trial.SIZE_BYTES for rate in counted.rates_bps]
    counts = (counted.sent, counted.lost, counted.doubled)
    return Trial(variant, round(rate_pps), *counts, counted.longest_gap_s, received, [move])


def words(found: Trial) -> str:
    """Return a trial with one move in words."""
    (move,) = found.moves
    took_s = move.done_s - move.begun_s
    return (
        f"{found.variant}: {found.rate_pps} packets/s of {trial.SIZE_BYTES} bytes: {found.lost} of {found.sent} lost, "
        f"{found.doubled} doubled, longest gap {found.gap_s:.2f} s; the migration took {took_s:.0f} s, "
        f"the machine was silent for {move.silent_s:.1f} s"
    )


def switch_plainly(lab: XenLab, node: str) -> None:
    """Make the hosts plain VLAN switches, and r1 a guest of Xen's own scripts on `node`. There is no way back."""
    vids = {network.name: network.vid for network in lab.built.topology.network}
    before = lab.hosts[lab.plan.machines[ROUTER].node]
    for host in lab.hosts.values():
        host.check(["systemctl", "stop", "xenflow-server"], timeout_s=CREATE_S)
    before.check(["xl", "destroy", ROUTER], timeout_s=CREATE_S)
    for access in lab.built.accesses:
        lab.vsctl(access.table.node, "set", "Port", access.port, f"tag={vids[access.table.network]}")
    for name in lab.hosts:
        lab.vsctl(name, "del-controller", BRIDGE)
        lab.ofctl(name, "del-flows")
        lab.ofctl(name, "add-flow", "actions=NORMAL")
    path = f"/etc/xen/{ROUTER}.cfg"
    text = plain(lab, lab.hosts[node].agent.get(path).decode())
    lab.hosts[node].agent.put(f"{path}.plain", text.encode())
    lab.hosts[node].check(["xl", "create", f"{path}.plain"], timeout_s=CREATE_S)
    lab.with_xenflow = False


def plain(lab: XenLab, configuration: str) -> str:
    """Return a guest's configuration with Xen's own scripts instead of ours."""
    kernel = re.search(r"/vmlinuz-(\S+)\"", configuration)
    if kernel is None:
        raise LabError(f"the configuration of {ROUTER} names no kernel")
    return guest.configuration(lab.built, lab.built.machines[ROUTER], kernel[1], with_xenflow=False)


def native(lab: XenLab, rate_pps: float = trial.LEAST_PPS) -> tuple[Trial, trial.Rest]:
    """Take XenFlow out of the hosts, and have xl move the router from the first to the second one under packets.

    At `rate_pps`, or what of it the guest forwards without loss while nothing moves. If it loses some even at the
    least rate, the figure says how many: what is lost then is not all lost by the migration.
    """
    here, target = NODES
    switch_plainly(lab, here)
    rest = trial.at_rest(lab, rate_pps)
    share = "" if rest.count.is_whole else f" ({rest.count.lost_share:.1%} lost at rest)"
    act = partial(lab.routers.migrate, ROUTER, here, target)
    return measure(lab, f"{NATIVE}{share}", act, rest.flow.rate_pps), rest


def draw(trials: Sequence[Trial], out: Path = OUT) -> None:
    """Draw each trial in a panel of its own, and write its figures beside."""
    title = "Figure 3(c) on Xen: a router in a PVH guest is live-migrated by xl between emulated hosts"
    plots.draw_moves(trials, title, out / "figure3c_xen", trial.INTERVAL_S)
    write(trials, out / "figure3c_xen.csv")


def main() -> None:
    """Measure both variants on the same hosts, and draw."""
    with XenLab(TOPOLOGY, "figure3c-xen", say=lambda line: print(line, flush=True)) as lab:
        lab.wait_settled()
        tries = migrate(lab, trial.lossless(lab).rate_pps)
        if tries[-1].status.state != "done":
            raise LabError(f"migration of {ROUTER}: {tries[-1].status.error}")
        trials = [one.trial for one in tries]
        trials.append(native(lab, trials[-1].rate_pps)[0])
        print(words(trials[-1]), flush=True)
    draw(trials)


if __name__ == "__main__":
    main()

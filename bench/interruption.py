"""The paper's figure 3(c): a flow of 6 Mb/s through a virtual router that is moved in the middle of a run.

`XENFLOW` is the product as it is; an operator orders the migration. `NATIVE` is the same router on plain learning
switches (NORMAL): it forwards itself, its hypervisor moves it, and it speaks up (gratuitous ARP) when it goes on. The
machine stands still equally long in both. Learning switches need a network without loops, so one trunk is unplugged
there. Both run side by side: a flow is 510 packets/s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from bench import hypervisor, network
from bench.agent import Agent
from bench.moving import migrate
from xenflow_lab import stations
from xenflow_lab.lab import Lab
from xenflow_lab.move import RESUMED

XENFLOW, NATIVE = "XenFlow", "planes not separated"
VARIANTS = (XENFLOW, NATIVE)
RATE_BPS, SIZE_BYTES, PORT = 6e6, 1472, 5000
INTERVAL_S = 0.5
SECONDS = 60.0
FREEZE_S = 1.0
BETWEEN = ("source", "target")
ROUTER, NEIGHBOR = "r1", "r2"
RECEIVER = "10.0.2.10"
_INTERFACES = {"eth0": "10.0.1.1", "eth1": "10.0.2.1"}
_UNPLUGGED = ("target", "receiver")
LOST, GAP_S = "packets lost", "longest gap between two packets (s)"
FROZEN_S = "machine stood still (s)"
SYNCED_S = "freeze to the client's tables followed again (s)"
HEARD_S = "freeze to the neighbor's next OSPF hello (s)"
TIMES = (GAP_S, FROZEN_S, SYNCED_S, HEARD_S)
PAPER = {(XENFLOW, LOST): "0", (NATIVE, GAP_S): "about 50"}
"""What the paper's section IV says; its conclusion says up to 30 s."""


@dataclass(frozen=True, slots=True)
class Round:
    """One run. Times are in s, counted from when the machine stood still, but for the gap between two packets.

    `synced_s`: until the client's tables are complete and followed (XenFlow only); `heard_s`: until the neighbor has
    heard an OSPF hello again.
    """

    variant: str
    target: str
    rates_mbps: list[float]
    sent: int
    lost: int
    doubled: int
    gap_s: float
    frozen_s: float
    synced_s: float | None
    heard_s: float

    @property
    def times(self) -> dict[str, float | None]:
        """The times by their names."""
        return dict(zip(TIMES, (self.gap_s, self.frozen_s, self.synced_s, self.heard_s), strict=True))


@dataclass(frozen=True, slots=True)
class Timeline:
    """How long a run lasts; the migration begins in the middle."""

    seconds: float = SECONDS
    freeze_s: float = FREEZE_S


@dataclass(frozen=True, slots=True)
class _Agents:
    neighbor: Agent
    router: Agent
    receiver: Agent


@dataclass(frozen=True, slots=True)
class _Moved:
    cut_at_s: float
    joined_at_s: float
    synced_at_s: float | None = None


def measure(rounds: int, timeline: Timeline) -> list[Round]:
    """Return all rounds of both variants."""
    minutes = rounds * (timeline.seconds + 3) / 60
    print(f"  figure 3(c): {rounds} rounds of {timeline.seconds:g} s, both variants side by side: {minutes:.0f} min")
    print(f"  the machine stands still for {timeline.freeze_s:g} s (the paper's native Xen: about 50 s)", flush=True)
    with ExitStack() as stack:
        labs = {variant: stack.enter_context(_network(variant, timeline)) for variant in VARIANTS}
        with ThreadPoolExecutor(len(labs)) as pool:
            found = pool.map(lambda variant: list(_rounds(variant, labs[variant], rounds, timeline)), VARIANTS)
            return [one for several in found for one in several]


def figures(rounds: Sequence[Round]) -> dict[str, list[float]]:
    """Return the samples of each figure that all these rounds have."""
    found: dict[str, list[float]] = {LOST: [float(one.lost) for one in rounds]}
    for name in TIMES:
        samples = [time_s for one in rounds if (time_s := one.times[name]) is not None]
        if samples:
            found[name] = samples
    return found


@contextmanager
def _network(variant: str, timeline: Timeline) -> Iterator[Lab]:
    wanted = network.topology("figure3c")
    name = f"{network.lab_of(wanted).name}{'x' if variant == XENFLOW else 'n'}"
    notes = Lab(wanted, name).paths.state / "moved.jsonl"
    command = hypervisor.command(name, timeline.freeze_s, notes)
    wanted = msgspec.structs.replace(wanted, server={"hypervisor": {"move": command}})
    with Lab(wanted, name, with_xenflow=variant == XENFLOW) as lab:
        if variant == NATIVE:
            for node in ("generator", "receiver", *BETWEEN):
                lab.ofctl(node, "add-flow", "actions=NORMAL")
            here, far = _UNPLUGGED
            lab.vsctl(here, "del-port", next(end.port for end in lab.plan.trunk_ends(here) if far in end.port))
        _await(lab)
        yield lab


def _await(lab: Lab) -> None:
    """Return once the sender reaches the receiver and the routers are adjacent."""
    if lab.with_xenflow:
        lab.wait_settled()
    lab.wait_until(lambda: all(stations.answers(lab, "h1", [RECEIVER]).values()), 60, "traffic from h1 to h2")
    words = ["vtysh", "-c", "show ip ospf neighbor"]
    lab.wait_until(lambda: "Full" in lab.run(NEIGHBOR, words).stdout, 60, "the adjacency of r1 and r2")


def _rounds(variant: str, lab: Lab, rounds: int, timeline: Timeline) -> Iterator[Round]:
    with Agent(lab, NEIGHBOR) as neighbor, Agent(lab, ROUTER) as router, Agent(lab, "h2") as counter:
        agents = _Agents(neighbor, router, counter)
        for number in range(rounds):
            _await(lab)
            yield _round(variant, lab, agents, BETWEEN[1 - number % 2], timeline)


def _round(variant: str, lab: Lab, agents: _Agents, target: str, timeline: Timeline) -> Round:
    words = ["--to", f"{RECEIVER}:{PORT}", "--rate-bps", f"{RATE_BPS}", "--size", f"{SIZE_BYTES}"]
    receiving = ["--port", f"{PORT}", "--flows", "1", "--interval", f"{INTERVAL_S}"]
    agents.neighbor.tell("hellos", source=_INTERFACES["eth1"], seconds=timeline.seconds)
    with stations.start(lab, "h2", "receive", *receiving) as receiver:
        with stations.begin(lab, "h1", "send", *words, "--duration", f"{timeline.seconds}") as sender:
            _await_flow(lab, agents.receiver)
            time.sleep(timeline.seconds / 2)
            moved = _planned(lab, target) if variant == XENFLOW else _by_hand(lab, agents.router, target, timeline)
            sent = sender.result(timeline.seconds + 10)["sent"]
        report = receiver.end(10)
    return Round(
        variant,
        target,
        _rates(report, timeline),
        sent,
        sent - report["received"],
        report["duplicated"],
        report["longest_gap_ns"] / 1e9,
        moved.joined_at_s - moved.cut_at_s,
        None if moved.synced_at_s is None else moved.synced_at_s - moved.cut_at_s,
        _heard(agents.neighbor.answer(), moved),
    )


def _await_flow(lab: Lab, receiver: Agent) -> None:
    """Return when the first packets have come."""
    _, before = receiver.ask("received")
    lab.wait_until(lambda: receiver.ask("received")[1] > before + 5 * SIZE_BYTES, 10, "the flow")


def _planned(lab: Lab, target: str) -> _Moved:
    """Have the controller migrate the router."""
    done = migrate(lab, ROUTER, target)
    notes = (lab.paths.state / "moved.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(notes[-1])
    return _Moved(last["cut_at_s"], last["joined_at_s"], last["joined_at_s"] + done.sync_ms / 1e3)


def _by_hand(lab: Lab, router: Agent, target: str, timeline: Timeline) -> _Moved:
    """Have the hypervisor move the router."""

    def speak(percent: int) -> None:
        if percent == RESUMED:
            router.ask("speak_up", interfaces=_INTERFACES)

    moved = lab.move(ROUTER, target, timeline.freeze_s, speak)
    return _Moved(moved.cut_at_s, moved.joined_at_s)


def _heard(hellos_ns: list[int], moved: _Moved) -> float:
    """Return from the freeze to the first hello after it. Raises RuntimeError if there was none."""
    after = [at / 1e9 for at in hellos_ns if at / 1e9 > moved.joined_at_s]
    if not after:
        raise RuntimeError("the neighbor has heard no hello again")
    return after[0] - moved.cut_at_s


def _rates(report: dict[str, Any], timeline: Timeline) -> list[float]:
    """Return Mb/s of payload in each interval of the run; what was lost at its end is 0."""
    (flow,) = report["flows"]
    wanted = round(timeline.seconds / INTERVAL_S)
    rates = [rate / 1e6 for rate in flow["rates_bps"][:wanted]]
    return rates + [0.0] * (wanted - len(rates))

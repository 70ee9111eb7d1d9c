"""Processors: what a router whose VM spins costs the others, and what Dom0 spends for a router by its ceiling.

    h1 ---- r1 ---- h2 (network.py)  beside a VM that spins on all its processors (spinner.py), by turns:
                                     QUIET it rests; EQUAL all VMs together weigh as much as one process of the host;
                                     FIRST the host's weigh ten times as much; CAPPED the VM has a cpu_cap as well

Section II-D of the paper: the hypervisor's scheduler keeps routers' processors apart; what Dom0 spends for a router
depends on the rate that it forwards, and so on its ceiling.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench import network
from bench.agent import Agent
from bench.figure import Figure, figure, percentile
from bench.network import LEFT, RIGHT_ADDRESS
from bench.routes import NODE, ROUTER, SMALL, Bench
from bench.spinner import Spinner, spinner
from bench.tenants import Tenants, rate, target, tenants
from bench.watch import ObservedRouter
from xenflow.resources import Resources
from xenflow_lab.lab import Lab

ROUNDS = 10
PINGS, PING_S, CHANGES = 400, 0.005, 60
CAP_PERCENT = 100
"""Of one processor, for a VM with two."""
QUIET, EQUAL, FIRST = "the VM rests", "it spins, Dom0 is not preferred", "it spins, Dom0 first"
CAPPED = f"it spins, Dom0 first, cpu_cap = {CAP_PERCENT}"
STATES = {QUIET: (1, 0), EQUAL: (1, 0), FIRST: (10, 0), CAPPED: (10, CAP_PERCENT)}
"""What a process of the host weighs to all VMs together, and the VM's cap."""
CEILINGS_MBPS = (5, 10, 20, 40)
HIRED_MBPS, LINK_MBPS, GREEDY_MBPS, MORE = 4, 100, 80, 1.2
TCP, LIMITED, GREEDY = "TCP", f"UDP, {MORE} x the ceiling enters", f"UDP, {GREEDY_MBPS} Mb/s enter"
CEILING_ROUNDS = 3
SETTLE_S, WINDOW_S = 1.5, 3.0


@dataclass(frozen=True, slots=True)
class Beside:
    """One round in one of STATES: round trips and times from a route to its flow (ms), processors the VM had."""

    state: str
    trips_ms: list[float]
    changes_ms: list[float]
    vm_processors: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What ovs-vswitchd spent (part of a processor, above idle) while a router's link carried so much, by ceiling."""

    traffic: str
    ceiling_mbps: float
    processors: float
    carried_mbps: float


def run() -> list[Figure]:
    """Return the figures; the samples are ratios of neighboring rounds."""
    found = beside_a_spinner(ROUNDS)
    figures = []
    for what in ("delay", "route"):
        figures.append(figure(f"vm_{what}_ratio", ratios(found, FIRST, what), over_all(found, FIRST, what)))
        shown = {state: over_all(found, state, what) for state in STATES}
        print(f"    {what}: " + ", ".join(f"{state}: {value:.2f}" for state, value in shown.items()))
    spent = by_ceiling(CEILING_ROUNDS)
    for one in spent:
        print(f"    {one.traffic}, ceiling {one.ceiling_mbps}: {one.processors:.1%} for {one.carried_mbps:.1f} Mb/s")
    return [*figures, figure("dom0_ceiling_ratio", ceiling_ratios(spent, LIMITED))]


def beside_a_spinner(rounds: int) -> list[Beside]:
    """Measure a router's forwarding and its changes in each of STATES, by turns."""
    found = []
    with (
        spinner() as vm,
        network.one_node() as lab,
        Agent(lab, LEFT) as left,
        Agent(lab, ROUTER) as agent,
        ObservedRouter(lab, ROUTER) as client,
    ):
        bench = Bench(lab, agent, client)
        bench.fill(SMALL)
        for number in range(rounds):
            order = list(STATES) if number % 2 == 0 else list(STATES)[::-1]
            found += [_round(vm, left, bench, state) for state in order]
    return found


def _round(vm: Spinner, left: Agent, bench: Bench, state: str) -> Beside:
    times, cap = STATES[state]
    vm.prefer_host(times)
    vm.give(Resources(cpu_cap=cap))
    with nullcontext() if state == QUIET else vm.spinning():
        began, busy_s = time.monotonic(), vm.busy_s()
        trips = left.ask("ping", to=RIGHT_ADDRESS, count=PINGS, interval_s=PING_S)
        changes = bench.change_ms(CHANGES)
        processors = (vm.busy_s() - busy_s) / (time.monotonic() - began)
    if None in trips:
        raise RuntimeError(f"packets were lost ({state})")
    return Beside(state, [trip / 1e6 for trip in trips], changes, processors)


def ratios(found: Sequence[Beside], state: str, what: str) -> list[float]:
    """Return `value_of` each round in `state` to that of the same round at rest."""
    mine, rest = ([value_of([one], what) for one in found if one.state == each] for each in (state, QUIET))
    return [own / other for own, other in zip(mine, rest, strict=True)]


def over_all(found: Sequence[Beside], state: str, what: str) -> float:
    """Return `value_of` all rounds in `state` to that of all at rest."""
    mine, rest = (value_of([one for one in found if one.state == each], what) for each in (state, QUIET))
    return mine / rest


def value_of(rounds: Sequence[Beside], what: str) -> float:
    """Return the p99 of round trips (`delay`), or the median from a route to its flow (`route`), in ms."""
    if what == "delay":
        return percentile([trip for one in rounds for trip in one.trips_ms], 0.99)
    return statistics.median(change for one in rounds for change in one.changes_ms)


# -- Dom0 by ceiling ---------------------------------------------------------------------------------------------------


def by_ceiling(rounds: int) -> list[Spent]:
    """Measure what Dom0 spends for one router at each ceiling: TCP slows down, UDP does not."""
    found = []
    with tenants(f"bench{os.getpid()}", [HIRED_MBPS], LINK_MBPS, {}) as made:
        queues = made.queues()[1]
        for _ in range(rounds):
            idle = _spent(made, queues)[0]
            for ceiling in CEILINGS_MBPS:
                _limit(made, ceiling)
                for traffic in (TCP, LIMITED, GREEDY):
                    offered = GREEDY_MBPS if traffic == GREEDY else MORE * ceiling
                    with _tcp(made) if traffic == TCP else made.sending({1: offered}):
                        made.let_flow(SETTLE_S)
                        processors, carried = _spent(made, queues)
                    found.append(Spent(traffic, ceiling, max(processors - idle, 0), carried))
    return found


def ceiling_ratios(found: Sequence[Spent], traffic: str) -> list[float]:
    """Return what Dom0 spends at the lowest ceiling to what it spends at the highest, round by round."""
    low, high = (
        [one.processors for one in found if (one.traffic, one.ceiling_mbps) == (traffic, ceiling)]
        for ceiling in (CEILINGS_MBPS[0], CEILINGS_MBPS[-1])
    )
    return [one / other for one, other in zip(low, high, strict=True)]


def _spent(made: Tenants, queues: list[int]) -> tuple[float, float]:
    """Return the processors that ovs-vswitchd has now, and what the router's queues carry (Mb/s)."""
    pid = made.lab.process("vswitchd", NODE).pid
    before, began = _busy_s(pid or 0), time.monotonic()
    carried = made.watch(WINDOW_S, WINDOW_S / 2).mean(queues)
    return (_busy_s(pid or 0) - before) / (time.monotonic() - began), carried


def _busy_s(pid: int) -> float:
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def _limit(made: Tenants, ceiling_mbps: float) -> None:
    """Give the router another ceiling, as its owner does; return when its queue has it."""
    path = made.lab.paths.machine(NODE) / "xenflow" / "definitions.d" / "lab.toml"
    text = re.sub(r'(?m)^ceiling = ".*"\n', "", path.read_text())
    path.write_text(re.sub(r'(?m)^(rate = ".*"\n)', rf'\1ceiling = "{rate(ceiling_mbps)}"\n', text))
    made.lab.process("server", NODE).signal(signal.SIGHUP)
    wanted = round(ceiling_mbps * 1e6)
    made.lab.wait_until(lambda: made.ceilings_bps().get(1) == wanted, 20, f"a ceiling of {ceiling_mbps} Mb/s")


@contextmanager
def _tcp(made: Tenants) -> Iterator[None]:
    """Inside the block the tenant sends by one TCP connection."""
    lab: Lab = made.lab
    with lab.popen("d1", ["iperf3", "-s", "--forceflush"]) as server:
        try:
            while server.stdout is not None and "listening" not in (line := server.stdout.readline()):
                if not line:
                    raise RuntimeError("iperf3 does not listen")
            with lab.popen("s1", ["iperf3", "-c", target(1), "-t", "60"]) as client:
                try:
                    yield
                finally:
                    client.terminate()
                    client.communicate()
        finally:
            server.kill()
            server.communicate()

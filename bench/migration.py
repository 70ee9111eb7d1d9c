"""Migrations to and fro without a pause, under numbered packets: what is lost, doubled, late, and what the steps take.

The router that moves has ten neighbors and 1,000 routes; its packets pass another router as well, and three trunks. The
loads are taken one after the other; each has two baselines in the same lab, at the very same rate: nothing moves, and
ports come and go at the switches as often as in the migrations. A rate that the machine does not carry without loss
while nothing moves is halved, and that is said.

For the last load each packet goes to the next of 1,000 addresses, in 21 flows of different TTL, so that the datapath of
whichever switch routes holds 21,000 flows; its baseline empties those, as a migration meets a switch that has none yet.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bench import network, ports
from bench.agent import Agent
from bench.figure import Figure, figure
from bench.moving import Steps, migrate, to_and_fro
from xenflow_lab import stations
from xenflow_lab.command import LabError
from xenflow_lab.lab import Lab
from xenflow_lab.plan import Kind

MOVES = int(os.environ.get("MOVES", "20"))
SYNC_MOVES = min(MOVES, 6)
BASELINE_S = 10.0
ROUTER, BETWEEN, NEXT_HOP = "r1", ("n1", "n2"), "10.0.255.2"
ROUTES, MORE_ROUTES = 1_000, 10_000
RECEIVER = "10.0.2.10"
PORT = 5000
HALVINGS = 4


@dataclass(frozen=True, slots=True)
class Load:
    """Numbered packets of UDP; to the receiver's address, or to `destinations` addresses behind it by turns."""

    name: str
    size_bytes: int
    rate_pps: float
    flows: int = 8
    destinations: int = 0

    def halved(self) -> Load:
        """Return the load at half its rate."""
        return replace(self, rate_pps=self.rate_pps / 2)

    @property
    def words(self) -> list[str]:
        """What the sending tool is told."""
        to = ["--to", f"{RECEIVER}:{PORT}"]
        if self.destinations:
            last = _address(self.destinations - 1)
            to = ["--to", f"{_address(0)}-{last}:{PORT}", "--spread", "--ttls", str(self.flows)]
        return [*to, "--ports", str(self.flows), "--rate-pps", f"{self.rate_pps}", "--size", str(self.size_bytes)]


LOADS = (
    Load("64 B, 10,000/s", 64, 10_000),
    Load("1472 B, 100 Mb/s", 1472, 100e6 / (1472 * 8)),
)
MANY = Load("64 B, 10,000/s, 21 x 1,000 flows", 64, 10_000, 21, ROUTES)
"""Numbers without a common divisor: each flow goes to each destination."""


@dataclass(frozen=True, slots=True)
class Run:
    """The receiver's reports of a load while nothing moves, while ports come and go, and in migrations; their steps."""

    load: Load
    baseline: dict[str, Any]
    ports: dict[str, Any]
    report: dict[str, Any]
    steps: list[Steps]

    @property
    def late_ms(self) -> float:
        """By how much p99.99 of the gaps within a flow is longer than without migrations."""
        return (_p9999(self.report) - _p9999(self.baseline)) / 1e6

    @property
    def ports_ratio(self) -> float:
        """How p99.99 of the gaps compares with that when nothing but ports comes and goes."""
        return float(_p9999(self.report) / _p9999(self.ports))

    @property
    def windows(self) -> float:
        """Stretches of reordering in a flow for each migration, in the flow that has most."""
        return max(flow["reorder_windows"] for flow in self.report["flows"]) / len(self.steps)

    @property
    def reordered_ms(self) -> float:
        """By how much the latest packet was late, in time: later ones of its flow that came before it."""
        extent = max(flow["reorder_extent_max"] for flow in self.report["flows"])
        return float(extent * self.load.flows / self.load.rate_pps * 1e3)


def run() -> list[Figure]:
    """Return all figures of migrations."""
    with network.lab_of(network.topology("migration")) as lab, Agent(lab, ROUTER) as agent:
        _prepare(lab)
        _fill(lab, agent, 0, ROUTES)
        moves = {ROUTER: BETWEEN}
        runs = [measure(lab, load, to_and_fro(lab, moves, MOVES)) for load in (*LOADS, MANY)]
        _fill(lab, agent, ROUTES, MORE_ROUTES)
        more = [migrate(lab, router, to) for router, to in to_and_fro(lab, moves, SYNC_MOVES)]
    few, many = [step for one in runs[:-1] for step in one.steps], runs[-1].steps
    return [
        *of_packets(runs),
        _highest("mig_sync_ms", [step.sync_ms for step in few]),
        _highest("mig_sync_10k_ms", [step.sync_ms for step in more]),
        _highest("mig_repoint_ms", [step.repoint_ms for step in few]),
        _highest("mig_repoint_20k_ms", [step.repoint_ms for step in many]),
    ]


def of_packets(runs: list[Run], prefix: str = "mig") -> list[Figure]:
    """Return the figures that have a sample for each load.

    With many destinations a flow of the tools is many flows of the network: gaps and order within it mean nothing.
    """
    lost, doubled = ([float(one.report[what]) for one in runs] for what in ("lost", "duplicated"))
    runs = [one for one in runs if not one.load.destinations]
    return [
        figure(f"{prefix}_lost", lost, sum(lost)),
        figure(f"{prefix}_doubled", doubled, sum(doubled)),
        _highest(f"{prefix}_gap_ms", [one.report["longest_gap_ns"] / 1e6 for one in runs]),
        _highest(f"{prefix}_gap_p9999_ms", [one.late_ms for one in runs]),
        _highest(f"{prefix}_gap_ports_ratio", [one.ports_ratio for one in runs]),
        _highest(f"{prefix}_reorder_windows", [one.windows for one in runs]),
        _highest(f"{prefix}_reorder_ms", [one.reordered_ms for one in runs]),
    ]


def _highest(name: str, samples: list[float]) -> Figure:
    return figure(name, samples, max(samples))


def _prepare(lab: Lab) -> None:
    """Return once traffic passes both routers, the receiver has all addresses, and the router all its neighbors."""
    for prefix in ("16.0.0.0/4", "32.0.0.0/3", "64.0.0.0/2"):
        lab.run("h2", ["ip", "route", "add", "local", prefix, "dev", "lo"], check=True)
    lab.wait_settled()
    far = [RECEIVER, _address(0)]
    lab.wait_until(lambda: all(stations.answers(lab, "h1", far[:1]).values()), 60, "traffic from h1 to h2")
    neighbors = stations.addresses(lab, "h3")
    lab.wait_until(lambda: all(stations.answers(lab, ROUTER, neighbors).values()), 30, "the neighbors")


def _fill(lab: Lab, agent: Agent, there: int, count: int) -> None:
    """Give the router `count` routes to single addresses, of which it has some; return when the switches have them."""
    agent.ask("put_routes", count=count - there, via=NEXT_HOP, first=there, length=32)

    def known() -> bool:
        return any(item.name == ROUTER and item.routes >= count for item in lab.app_status().routers)

    lab.wait_until(known, 60, f"{count} routes")
    lab.wait_settled()


def measure(lab: Lab, load: Load, orders: Iterable[tuple[str, str]]) -> Run:
    """Return a load's baseline at the highest rate that is carried, and what it is like under these migrations.

    Each is ordered as soon as the last one is done. Raises LabError.
    """
    for _ in range(HALVINGS):
        with _traffic(lab, load) as baseline:
            _let_flow(lab, load)
        print(f"    {load.name}: nothing moves: {_shown(baseline)}", flush=True)
        if baseline["lost"] == baseline["dropped_by_socket"] == 0:
            break
        load = load.halved()
        print(f"    the machine does not carry that; {load.rate_pps:,.0f}/s are tried", flush=True)
    else:
        raise LabError(f"{load.name}: packets are lost at {load.rate_pps * 2:,.0f}/s while nothing moves")
    orders = list(orders)
    changing = {} if load.destinations else _ports(lab, load, len(orders))
    steps, cached = [], []
    with _traffic(lab, load) as report:
        for router, target in orders:
            cached.append(_cached(lab, lab.plan.machines[router].node))
            steps.append(migrate(lab, router, target))
    one = Run(load, baseline, changing, report, steps)
    print(f"    {load.name}: {len(steps)} migrations: {_shown(report)}")
    print(f"        in sync {_spread([step.sync_ms for step in steps])} ms, ", end="")
    print(f"re-pointed {_spread([step.repoint_ms for step in steps])} ms; ", end="")
    print(f"flows in the source's datapath when ordered: {_spread(cached)}", flush=True)
    return one


def _ports(lab: Lab, load: Load, times: int) -> dict[str, Any]:
    """Return the report of a load while as many ports as the router has come and go."""
    vifs = sum(vif.machine == ROUTER for vif in lab.plan.vifs)
    with _traffic(lab, load) as report:
        ports.come_and_go(lab, BETWEEN, vifs, times)
    print(f"    {load.name}: {vifs} ports come and go {times} times: {_shown(report)}", flush=True)
    return report


@contextmanager
def _traffic(lab: Lab, load: Load) -> Iterator[dict[str, Any]]:
    """Send while the block runs; the receiver's report is in the dictionary after it."""
    report: dict[str, Any] = {}
    before = _overflowed(lab)
    with stations.start(lab, "h2", "receive", "--port", str(PORT), "--flows", str(load.flows)) as receiver:
        with stations.begin(lab, "h1", "send", *load.words) as sender:
            network.wait(lab, 1.0)
            yield report
            network.wait(lab, 0.5)
            sent = sender.stop()
        report |= receiver.end(10)
    report["late_ns"] = sent["late_ns"]
    report["lost"] = sent["sent"] - report["received"]
    report["overflowed"] = _overflowed(lab) - before


def _let_flow(lab: Lab, load: Load) -> None:
    """Let packets flow for a while; with many destinations the datapaths are emptied as in a migration."""
    if not load.destinations:
        network.wait(lab, BASELINE_S)
        return
    for _ in range(5):
        for node in BETWEEN:
            lab.appctl(node, "revalidator/purge")
        network.wait(lab, BASELINE_S / 5)


def _cached(lab: Lab, node: str) -> int:
    """Return how many flows a node's datapath holds now."""
    found = re.search(r"current (\d+)", lab.appctl(node, "upcall/show"))
    return int(found[1]) if found else 0


def _overflowed(lab: Lab) -> int:
    """Return how many frames the full sockets of trunks and hosts' ports have cost: a switch did not get to run."""
    found = 0
    routers = {item.name for item in lab.plan.of_kind(Kind.ROUTER)}
    of_routers = [vif.port for vif in lab.plan.vifs if vif.machine in routers]
    for node in lab.plan.of_kind(Kind.NODE):
        for line in lab.run(node.name, ["ss", "-0", "-n", "-m"], check=True).stdout.splitlines():
            dropped = re.search(r",d(\d+)\)", line)
            if dropped and not any(port in line for port in of_routers):  # those go and come with it
                found += int(dropped[1])
    return found


def _address(index: int) -> str:
    """Return the address of the route with this number (see bench.rtnetlink.prefixes)."""
    return f"20.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"


def _p9999(report: dict[str, Any]) -> float:
    return float(report["gap_ns"]["p99.99"] or 0)


def _shown(report: dict[str, Any]) -> str:
    windows = sum(flow["reorder_windows"] for flow in report["flows"])
    return (
        f"{report['received']:,} packets, lost {report['lost']} (by full sockets of switches {report['overflowed']},"
        f" of the receiver {report['dropped_by_socket']}), doubled {report['duplicated']},"
        f" reordered {report['reordered']} in {windows} windows, longest gap {report['longest_gap_ns'] / 1e6:.1f} ms,"
        f" p99.99 {_p9999(report) / 1e6:.1f} ms (sender late {(report['late_ns']['max'] or 0) / 1e6:.1f} ms)"
    )


def _spread(samples: Sequence[float]) -> str:
    return f"{min(samples):,.0f} to {max(samples):,.0f}"

"""Who gets what of a trunk: the paper's scenario, idle tenants, all rows of the table, unlike traffic, tiny hires.

Rates are those of HTB's own counters. The link is 100 Mb/s of large packets; where small packets or TCP are measured,
and where only guarantees are read, it is smaller: a machine of two cores carries about 25,000 packets a second.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from bench.figure import Figure, figure, mean_and_interval
from bench.tenants import PORT, SMALL_BYTES, Tenants, target, tenants
from qos_controller.ideal import fill
from qos_controller.plan import FRAME_BYTES
from qos_controller.quanta import KERNEL_MAX

ROUNDS = int(os.environ.get("QOS_ROUNDS", "10"))
WINDOW_S = float(os.environ.get("QOS_WINDOW_S", "25"))
"""The paper's scenario: t = 35 to 60 s of a run."""
QUIET_S = float(os.environ.get("QOS_QUIET_S", "60"))
SHORT_S = 5.0
"""Window of the other scenarios."""
T_MED_S, K_MED = 1.0, 3
SETTLE_S = (K_MED + 2) * T_MED_S
LINK_MBPS = 100.0
HIRES = (20.0, 40.0)
OFFERED = (60.0, 90.0)
"""Without end: more than the share."""
TABLE = ((100, 100), (100, 0), (100, 10), (10, 100), (100, 30))
WAKES = 5
WAKE_INTERVAL_S = 0.02
WAKE_HOLD_S = 0.1
SMALL_LINK_MBPS, SMALL_HIRES = 10.0, (2.0, 4.0)
FIRST_PORT = 5201
TINY_HIRES = (0.5, 0.5, 40.0)


def run() -> list[Figure]:
    """Return all figures of this module."""
    return [*paper_scenario(), *two_tenants(), *mixed(), tiny()]


def paper_scenario() -> list[Figure]:
    """Return the lower end of the interval of the worst fitness, or of the link's use; plain Open vSwitch beside it."""
    found = {}
    for policy in ("static", "work-conserving"):
        with _lab(HIRES, LINK_MBPS, policy=policy) as made, _greedy(made, OFFERED):
            queues = made.queues()
            windows = [made.watch(WINDOW_S, WINDOW_S) for _ in range(ROUNDS)]
        rates = [[one.mean(queues[n]) for n in made.numbers] for one in windows]
        both = [made.fitness(one, _parts(HIRES, LINK_MBPS)) for one in rates]
        fitness = [min(one) for one in both]
        uses = [sum(one) / LINK_MBPS for one in rates]
        shown = ", ".join(f"{mean_and_interval(column)[0]:.2f}" for column in zip(*rates, strict=True))
        print(f"    {policy}: {shown} Mb/s; worse fitness {_interval(fitness)}, link use {_interval(uses)}", flush=True)
        found[policy] = fitness, uses, [sum(one) / len(one) for one in both]
    fitness, uses, _ = found["work-conserving"]
    static = found["static"][2]
    return [
        figure("qos_fitness_paper_scenario", fitness, min(_lower(fitness), _lower(uses))),
        figure("qos_fitness_open_vswitch", static, mean_and_interval(static)[0]),
    ]


def two_tenants() -> list[Figure]:
    """Return what one of two has of an idle link, how fast the other wakes, and the error of each row of the table."""
    with _lab(HIRES, LINK_MBPS) as made:
        queues = made.queues()
        uses = []
        for quiet_s in (0.0, QUIET_S):
            made.let_flow(quiet_s)
            with made.sending({1: 120}):
                made.let_flow(SETTLE_S)
                uses.append(made.watch(SHORT_S, SHORT_S).mean(queues[1]) / LINK_MBPS)
            print(f"    one alone, after {quiet_s:g} s of quiet: {uses[-1]:.3f} of the link", flush=True)
        wakes, fitness = zip(*(_wake(made, queues) for _ in range(WAKES)), strict=True)
        errors = [_row(made, queues, demands) for demands in TABLE]
    return [
        figure("qos_idle_use", uses, min(uses)),
        figure("qos_wake_ms", wakes, max(wakes)),
        figure("qos_wake_fitness", fitness, min(fitness)),
        figure("qos_table_error", errors, max(errors)),
    ]


def _wake(made: Tenants, queues: Mapping[int, Sequence[int]]) -> tuple[float, float]:
    """Return the ms from the idle one's first packet to the first interval in which it has its guarantee, and fitness.

    It has it if it goes on having it, in each interval of `WAKE_HOLD_S` on end: a burst is none. An interval of reading
    is 20 ms; what counts is the latest time that it can have been. Fitness is that of its share from `k_med` + 2 steps
    after that packet on.
    """
    with made.sending({1: 120}):
        made.let_flow(SETTLE_S)
        made.begin_watch(2 * SETTLE_S, WAKE_INTERVAL_S)
        with made.sending({2: OFFERED[1]}):
            series = made.watched()
    made.let_flow(SETTLE_S)
    rates = series.rates(queues[2])
    first, sure = woken(series.times_s, rates, HIRES[1] * 0.97)
    woke_ms = (series.times_s[sure + 1] - series.times_s[first]) * 1e3 if sure >= 0 else math.inf
    end_s = series.times_s[first] + SETTLE_S
    share = series.since(end_s).mean(queues[2])
    print(f"    woke: its guarantee after {woke_ms:.0f} ms, {share:.1f} Mb/s after (k_med + 2) t_med", flush=True)
    return woke_ms, made.fitness([share], _parts(HIRES, LINK_MBPS)[1:])[0]


def woken(times_s: Sequence[float], rates: Sequence[float], least: float) -> tuple[int, int]:
    """Return the first interval with a packet, and the first of those that have `least` for `WAKE_HOLD_S` on end or -1.

    Intervals lie between the times. Raises StopIteration if nothing was sent.
    """
    first = next(place for place, rate in enumerate(rates) if rate > 0)
    begin = first
    for place in range(first, len(rates)):
        if rates[place] < least:
            begin = place + 1
        elif times_s[place + 1] - times_s[begin] >= WAKE_HOLD_S * 0.999:
            return first, begin
    return first, -1


def _row(made: Tenants, queues: Mapping[int, Sequence[int]], demands: Sequence[float]) -> float:
    """Return by how much the rates of a row of the table differ from the ideal, as a part of it."""
    most = OFFERED[1] if min(demands) == LINK_MBPS else 1.2 * LINK_MBPS
    offered = {n: most if demand == LINK_MBPS else demand for n, demand in enumerate(demands, start=1) if demand}
    with made.sending(offered):
        made.let_flow(SETTLE_S)
        series = made.watch(SHORT_S, SHORT_S)
    ideal = fill(LINK_MBPS, HIRES, demands)
    rates = [series.mean(queues[n]) for n in made.numbers]
    error = max(abs(1 - got / wanted) for got, wanted in zip(rates, ideal, strict=True) if wanted)
    print(f"    demands {demands}: {_shown(rates)}, ideal {_shown(ideal)}: {error:.1%} off", flush=True)
    return error


def mixed() -> list[Figure]:
    """Return the worst fitness of unlike traffic: TCP and UDP, 1 and 20 TCP flows, 64 and 1472 bytes."""
    found = []
    with _lab(SMALL_HIRES, SMALL_LINK_MBPS) as made, ExitStack() as stack:
        for n in made.numbers:
            for port in range(FIRST_PORT, FIRST_PORT + len(_MIXES)):  # one each: a server learns late of a client's end
                server = stack.enter_context(made.lab.popen(f"d{n}", ["iperf3", "-s", "-p", str(port)]))
                stack.callback(server.terminate)
        for port, (name, traffic) in enumerate(_MIXES.items(), start=FIRST_PORT):
            with ExitStack() as senders:
                for n, what in traffic.items():
                    senders.enter_context(_traffic(made, n, what, port))
                made.let_flow(SETTLE_S + 2)
                queues = made.queues()
                series = made.watch(2 * SHORT_S, 2 * SHORT_S)
            rates = [series.mean(queues[n]) for n in made.numbers]
            fitness = made.fitness(rates, _parts(SMALL_HIRES, SMALL_LINK_MBPS - made.control_mbps))
            print(f"    {name}: {_shown(rates)}, fitness {_shown(fitness)}", flush=True)
            found += fitness
    return [figure("qos_fitness_mixed", found, min(found))]


_MIXES = {
    "TCP beside UDP": {1: "tcp 1", 2: "udp 1472"},
    "UDP beside TCP": {1: "udp 1472", 2: "tcp 1"},
    "20 TCP flows beside 1": {1: "tcp 20", 2: "tcp 1"},
    "1 TCP flow beside 20": {1: "tcp 1", 2: "tcp 20"},
    "64 bytes beside 1472": {1: "udp 64", 2: "udp 1472"},
    "1472 bytes beside 64": {1: "udp 1472", 2: "udp 64"},
}


@contextmanager
def _traffic(made: Tenants, n: int, what: str, port: int) -> Iterator[None]:
    kind, number = what.split()
    if kind == "tcp":
        argv = ["iperf3", "-c", target(n), "-p", str(port), "-P", number, "-t", "60"]
        with made.lab.popen(f"s{n}", argv) as client:
            yield
            client.terminate()
        return
    size = SMALL_BYTES if number == str(SMALL_BYTES) else int(number)
    with made.sender(n, SMALL_LINK_MBPS, size):
        yield


def tiny() -> Figure:
    """Return what the worst of three tenants has of what it hired, where two hired next to nothing."""
    before = _kernel_log()
    with _lab(TINY_HIRES, LINK_MBPS) as made, _greedy(made, (10, 10, 110)):
        queues = made.queues()
        series = made.watch(2 * SHORT_S, 2 * SHORT_S)
        text = made.lab.run("n1", ["tc", "-d", "class", "show", "dev", PORT], check=True).stdout
    after = _kernel_log()
    rates = [series.mean(queues[n]) for n in made.numbers]
    quanta = quanta_of(text)
    warnings = warnings_since(before, after)
    told = "its log cannot be read" if after is None else f"warned {len(warnings)} times {warnings[:3]}"
    print(f"    tiny hires: {_shown(rates)}, quanta {quanta[0]} to {quanta[-1]}, the kernel: {told}", flush=True)
    parts = [rate / hired for rate, hired in zip(rates, TINY_HIRES, strict=True)]
    return figure("qos_tiny", parts, 0.0 if warnings or not are_within_bounds(quanta) else min(parts))


def quanta_of(text: str) -> list[int]:
    """Return the quanta in what `tc -d class show` prints, the least first."""
    return sorted({int(found) for found in re.findall(r"quantum (\d+)", text)})


def are_within_bounds(quanta: Sequence[int]) -> bool:
    """Tell whether each holds a frame, and none is larger than what HTB takes for sensible."""
    return bool(quanta) and quanta[0] >= FRAME_BYTES and quanta[-1] <= KERNEL_MAX


def _kernel_log() -> str | None:
    """Return the kernel's log, in which HTB says of quanta what it does not like; None if it cannot be read."""
    done = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", check=False)
    return done.stdout if done.returncode == 0 else None


def warnings_since(before: str | None, after: str | None) -> list[str]:
    """Return what HTB has said of quanta in the kernel's log since; lines differ by their times."""
    seen = set((before or "").splitlines())
    return [line for line in (after or "").splitlines() if line not in seen and "quantum of class" in line]


@contextmanager
def _lab(hires: Sequence[float], mbps: float, **qos: object) -> Iterator[Tenants]:
    with tenants(f"bench{os.getpid()}", hires, mbps, {"t_med_s": T_MED_S, "k_med": K_MED} | qos) as made:
        yield made


@contextmanager
def _greedy(made: Tenants, offered: Sequence[float]) -> Iterator[None]:
    """Inside the block all send without end, and the shares have settled."""
    with made.sending(dict(zip(made.numbers, offered, strict=True))):
        made.let_flow(SETTLE_S + 1)
        yield


def _parts(hires: Sequence[float], mbps: float) -> list[float]:
    return [mbps * hired / sum(hires) for hired in hires]


def _lower(samples: Sequence[float]) -> float:
    mean, half = mean_and_interval(samples)
    return mean - (half or 0)


def _interval(samples: Sequence[float]) -> str:
    mean, half = mean_and_interval(samples)
    return f"{mean:.3f} ± {half or 0:.3f}"


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)

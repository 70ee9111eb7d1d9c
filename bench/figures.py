"""``python -m bench.figures [--rounds 10] [--only 3ab|policies|3c|4a|4bc|processor]``: the paper's figures 3 and 4.

For each: bench/out/figureX.csv (every round), figureX_summary.csv (mean, 95 % interval, the paper's value), and the
plot as PNG and SVG. `--seconds` says how long a run of figure 3 lasts, `--freeze` how long 3(c)'s machine stands still.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import delay, histories, interruption, isolation, plots, processor, processor_plots, sharing, spinner
from bench.figure import mean_and_interval
from xenflow.errors import XenflowError

MOST_HISTORIES = 3
"""Rounds of the table of policies: each takes six minutes."""
OUT = Path(__file__).parent / "out"


def main() -> int:
    """Measure, write and draw; exit code 2 if it cannot be run here."""
    parser = argparse.ArgumentParser(prog="bench.figures", description="the paper's figures")
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "10")))
    parser.add_argument("--only", choices=tuple(FIGURES))
    parser.add_argument("--seconds", type=float, default=interruption.SECONDS)
    parser.add_argument("--freeze", type=float, default=interruption.FREEZE_S)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2, for there is no confidence interval of one")
    if os.geteuid() != 0:
        print("bench: a lab needs root (namespaces and interfaces): run it with sudo", file=sys.stderr)
        return 2
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        for name, measure in FIGURES.items():
            if options.only in (None, name):
                measure(options)
    except XenflowError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(f"written: {OUT}/figure*.csv, .png, .svg")
    return 0


def figure_3c(options: argparse.Namespace) -> None:
    """Measure, write, draw and print figure 3(c)."""
    timeline = interruption.Timeline(options.seconds, options.freeze)
    found = interruption.measure(options.rounds, timeline)
    numbered = [
        (number, one)
        for variant in interruption.VARIANTS
        for number, one in enumerate((each for each in found if each.variant == variant), start=1)
    ]
    _write(
        "figure3c",
        ("variant", "round", "second", "mbps"),
        (
            (one.variant, number, f"{(place + 0.5) * interruption.INTERVAL_S:g}", f"{rate:.4f}")
            for number, one in numbered
            for place, rate in enumerate(one.rates_mbps)
        ),
    )
    head = ("variant", "round", "target", "sent", "lost", "doubled", *interruption.TIMES)
    _write(
        "figure3c_rounds",
        head,
        (
            (one.variant, number, one.target, one.sent, one.lost, one.doubled, *(one.times[name] for name in head[6:]))
            for number, one in numbered
        ),
    )
    _write("figure3c_summary", ("variant", "figure", "n", "mean", "ci95", "paper"), _interruption_rows(found))
    plots.draw_interruption(found, timeline, OUT)


def _interruption_rows(found: Sequence[interruption.Round]) -> Iterable[tuple[object, ...]]:
    """Return the rows of the summary, and print them."""
    rows: list[tuple[object, ...]] = []
    print(f"\n{'figure 3(c)':62}{'mean, 95 %':>18}{'paper':>12}")
    for variant in interruption.VARIANTS:
        chosen = [one for one in found if one.variant == variant]
        for name, samples in interruption.figures(chosen).items():
            mean, half = mean_and_interval(samples)
            paper = interruption.PAPER.get((variant, name), "")
            rows.append((variant, name, len(samples), f"{mean:.4f}", f"{half or 0:.4f}", paper))
            shown = f"{mean:.3f} ± {half or 0:.3f}"
            print(f"{f'{variant}, {name}':62}{shown:>18}{paper:>12}")
    return rows


def figure_3ab(options: argparse.Namespace) -> None:
    """Measure, write, draw and print figures 3(a) and 3(b)."""
    found = sharing.measure(options.rounds, options.seconds)
    _write(
        "figure3ab",
        ("policy", "round", "network", "second", "mbps"),
        (
            (policy, number, network, f"{(place + 0.5) * sharing.INTERVAL_S:g}", f"{rate:.4f}")
            for policy in sharing.POLICIES
            for number, one in enumerate((each for each in found if each.policy == policy), start=1)
            for network, rates in enumerate(one.rates_mbps, start=1)
            for place, rate in enumerate(rates)
        ),
    )
    rows: list[tuple[object, ...]] = []
    print(f"\n{'figures 3(a), 3(b)':50}{'mean, 95 %':>18}{'paper':>12}")
    for (policy, name), samples in sharing.summary(found).items():
        mean, half = mean_and_interval(samples)
        paper = sharing.PAPER_FITNESS.get(policy, "") if name.startswith("fitness, mean") else ""
        rows.append((policy, name, len(samples), f"{mean:.4f}", f"{half or 0:.4f}", paper))
        print(f"{f'{policy}, {name}':50}{f'{mean:.3f} ± {half or 0:.3f}':>18}{paper:>12}")
    _write("figure3ab_summary", ("policy", "figure", "n", "mean", "ci95", "paper"), rows)
    plots.draw_sharing(found, OUT)


def figure_policies(options: argparse.Namespace) -> None:
    """Measure, write and draw the table of policies."""
    found = histories.measure(min(options.rounds, MOST_HISTORIES))
    _write(
        "policies",
        ("policy", "past", "demand_1", "demand_2", "mbps_1", "mbps_2", "simulated_1", "simulated_2"),
        (
            (one.policy, one.past, *one.demands, *(f"{rate:.4f}" for rate in one.rates_mbps), *one.expected_mbps)
            for one in found
        ),
    )
    plots.draw_histories(found, OUT)


def figure_4a(options: argparse.Namespace) -> None:
    """Measure, write, draw and print figure 4(a)."""
    rounds = options.rounds
    if not os.environ.get("POX_HOME"):
        print("POX_HOME is not set: the stand-alone host only")
    found = delay.measure(rounds)
    head = ("host", "mode", "variant", "round", "packet", "rtt_ms")
    _write(
        "figure4a",
        head,
        (
            (one.host, one.mode, one.variant, number, packet, f"{trip:.4f}")
            for one in found
            for number, trips in enumerate(one.rounds, start=1)
            for packet, trip in enumerate(trips, start=1)
        ),
    )
    rows = [row for one in found for row in _delay_rows(one)]
    _write("figure4a_summary", ("host", "mode", "variant", "packet", "n", "mean_ms", "ci95_ms", "paper_ms"), rows)
    plots.draw_delay(found, OUT)
    print(f"\n{'figure 4(a), ms':44}{'packet 1':>18}{'packets 2 to 20':>18}{'paper, packet 1':>18}")
    for one in found:
        first, half = mean_and_interval([trips[0] for trips in one.rounds])
        later, later_half = mean_and_interval([sum(trips[1:]) / len(trips[1:]) for trips in one.rounds])
        paper = delay.PAPER_FIRST_MS.get(one.variant)
        shown = f"about {paper:g}" if paper and one.mode == "reactive" else ""
        print(
            f"{f'{one.host}, {one.mode}, {one.variant}':44}{f'{first:.2f} ± {half:.2f}':>18}"
            f"{f'{later:.2f} ± {later_half:.2f}':>18}{shown:>18}"
        )


def _delay_rows(one: delay.Series) -> Iterable[tuple[object, ...]]:
    for packet, trips in enumerate(zip(*one.rounds, strict=True), start=1):
        mean, half = mean_and_interval(trips)
        paper = delay.PAPER_FIRST_MS.get(one.variant, "") if packet == 1 and one.mode == "reactive" else ""
        yield one.host, one.mode, one.variant, packet, len(trips), f"{mean:.4f}", f"{half:.4f}", paper


def figure_4bc(options: argparse.Namespace) -> None:
    """Measure, write, draw and print figures 4(b) and 4(c)."""
    found = isolation.measure(options.rounds)
    head = ("case", "round", "series", "second", "mbps", "vn1_frames_left", "vn1_frames_arrived")
    _write(
        "figure4bc",
        head,
        (
            (one.case, number, series, second, f"{rate:.4f}", one.vn1_left, one.vn1_arrived)
            for case in (isolation.WITHOUT, isolation.WITH)
            for number, one in enumerate((each for each in found if each.case == case), start=1)
            for series, rates in one.rates_mbps.items()
            for second, rate in enumerate(rates, start=1)
        ),
    )
    rows = []
    print(f"\n{'figures 4(b), 4(c), Mb/s':44}{'mean, 95 %':>18}{'paper':>18}")
    for case in (isolation.WITHOUT, isolation.WITH):
        chosen = [one for one in found if one.case == case]
        for series in isolation.SERIES:
            mean, half = mean_and_interval([_mean(one.rates_mbps[series]) for one in chosen])
            paper = isolation.PAPER_MBPS[case][series]
            rows.append((case, series, len(chosen), f"{mean:.4f}", f"{half:.4f}", paper))
            print(f"{f'{case}, {series}':44}{f'{mean:.2f} ± {half:.2f}':>18}{paper:>18g}")
        left, arrived = sum(one.vn1_left for one in chosen), sum(one.vn1_arrived for one in chosen)
        print(f"{case}: {left} frames of VN 1 left their machine, {arrived} arrived at the machine of VN 2")
    _write("figure4bc_summary", ("case", "series", "n", "mean_mbps", "ci95_mbps", "paper_mbps"), rows)
    plots.draw_isolation(found, OUT)


def figure_processor(options: argparse.Namespace) -> None:
    """Measure, write and draw what a VM that spins costs the others, and what Dom0 spends by a router's ceiling."""
    if why := spinner.missing():
        print(f"processor is left out: {why}")
        return
    beside, spent = processor.beside_a_spinner(options.rounds), processor.by_ceiling(options.rounds)
    _write(
        "processor",
        ("state", "round", "what", "ms"),
        (
            (one.state, 1 + number // len(processor.STATES), what, f"{value:.4f}")
            for number, one in enumerate(beside)
            for what, values in (("round trip", one.trips_ms), ("route to flow", one.changes_ms))
            for value in values
        ),
    )
    _write(
        "processor_ceilings",
        ("traffic", "ceiling_mbps", "processors", "carried_mbps"),
        ((one.traffic, one.ceiling_mbps, f"{one.processors:.4f}", f"{one.carried_mbps:.3f}") for one in spent),
    )
    processor_plots.draw(beside, spent, OUT)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _write(stem: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with open(OUT / f"{stem}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


FIGURES = {
    "3ab": figure_3ab,
    "policies": figure_policies,
    "3c": figure_3c,
    "4a": figure_4a,
    "4bc": figure_4bc,
    "processor": figure_processor,
}


if __name__ == "__main__":
    sys.exit(main())

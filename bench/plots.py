"""The paper's figures as plots: mean with 95 % confidence intervals, and the paper's values beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench import delay, histories, interruption, isolation, sharing
from bench.figure import mean_and_interval

if TYPE_CHECKING:
    from bench.interruption_vms import Trial

_DELAY_LOOKS = {
    delay.ISOLATED: ("#1f5fa8", "o", "Isolated (XenFlow)"),
    delay.NON_ISOLATED: ("#d9730d", "s", "Non-isolated (no VLAN tag)"),
    delay.SWITCH: ("#3b8f3b", "^", "Open vSwitch as a switch"),
}
_RATE_LOOKS: dict[str, dict[str, Any]] = {
    "VN 1 sends": {"color": "#d9730d", "marker": "s", "markersize": 6},
    "VN 2 sends": {"color": "#3b8f3b", "marker": "^", "markersize": 13, "markerfacecolor": "none", "linewidth": 3},
    "VN 2 receives": {"color": "#1f5fa8", "marker": "o", "markersize": 5, "linewidth": 1.2},
}
"""What is sent is drawn larger: with isolation it is the same as what is received."""
_INTERRUPTION_LOOKS: dict[str, dict[str, Any]] = {
    interruption.NATIVE: {"color": "#d9730d", "marker": "s", "markersize": 3, "linewidth": 1.2},
    interruption.XENFLOW: {"color": "#1f5fa8", "marker": "o", "markersize": 3, "linewidth": 1.6},
}
_HOSTS = {"standalone": "stand-alone host", "pox": "POX"}
_MODES = {"reactive": "reactive, as in the paper", "proactive": "proactive, the default"}
_OFFSET = 0.18
"""Series beside each other, in packets: their error bars do not cover each other."""


def intervals(samples: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Return mean and half interval at each place of rounds that are equally long."""
    pairs = [mean_and_interval(column) for column in zip(*samples, strict=True)]
    return [mean for mean, _ in pairs], [half or 0.0 for _, half in pairs]


def draw_delay(found: Sequence[delay.Series], out: Path) -> None:
    """Draw figure 4(a): a row for each mode, a column for each host."""
    hosts = list(dict.fromkeys(one.host for one in found))
    size = (5.2 * len(hosts) + 0.8, 7.4)
    figure, grid = plt.subplots(len(_MODES), len(hosts), sharex=True, sharey=True, figsize=size, squeeze=False)
    for row, (mode, mode_text) in enumerate(_MODES.items()):
        for column, host in enumerate(hosts):
            axes = grid[row][column]
            chosen = [one for one in found if (one.host, one.mode) == (host, mode)]
            _delays(axes, chosen, with_paper=mode == "reactive")
            axes.set_title(f"{_HOSTS[host]}, {mode_text}", fontsize=11)
            if column == 0:
                axes.set_ylabel("round-trip time (ms, logarithmic)")
            if row == len(_MODES) - 1:
                axes.set_xlabel("packet of a new flow")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=len(hosts) + 1, frameon=False, fontsize=9)
    rounds = len(found[0].rounds)
    figure.suptitle(f"Figure 4(a): delay of packets 1 to {delay.PACKETS}\nmean of {rounds} rounds, 95 % intervals")
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    save(figure, out / "figure4a")


def _delays(axes: Axes, chosen: Sequence[delay.Series], *, with_paper: bool) -> None:
    for place, one in enumerate(chosen):
        color, marker, label = _DELAY_LOOKS[one.variant]
        means, halves = intervals(one.rounds)
        packets = [number + (place - 1) * _OFFSET for number in range(1, len(means) + 1)]
        style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1, "capsize": 2}
        axes.errorbar(packets, means, yerr=halves, label=label, **style)  # type: ignore[arg-type]
        paper = delay.PAPER_FIRST_MS.get(one.variant)
        if with_paper and paper:
            text = f"the paper's packet 1, {one.variant}: about {paper:g} ms"
            axes.plot([1], [paper], marker="*", markersize=13, color=color, linestyle="none", label=text)
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(0.1, 100)
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.grid(alpha=0.3, which="both", linewidth=0.5)


def draw_isolation(found: Sequence[isolation.Round], out: Path) -> None:
    """Draw figures 4(b) and 4(c) beside each other."""
    figure, grid = plt.subplots(1, 2, sharey=True, figsize=(11, 4.8), squeeze=False)
    for axes, letter, case in zip(grid[0], "bc", (isolation.WITHOUT, isolation.WITH), strict=True):
        rounds = [one for one in found if one.case == case]
        for series, look in _RATE_LOOKS.items():
            means, halves = intervals([one.rates_mbps[series] for one in rounds])
            seconds = [isolation.INTERVAL_S * (number + 0.5) for number in range(len(means))]
            axes.errorbar(seconds, means, yerr=halves, label=series, capsize=3, **look)
        paper = isolation.PAPER_MBPS[case]["VN 2 receives"]
        axes.axhline(paper, color="black", linestyle=":", linewidth=1.2, label="the paper: VN 2 receives")
        left = sum(one.vn1_left for one in rounds)
        arrived = sum(one.vn1_arrived for one in rounds)
        text = f"frames of VN 1: {left:,} left their machine,\n{arrived:,} arrived at the machine of VN 2"
        axes.text(0.5, 0.03, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=9)
        axes.set_title(f"({letter}) {case}", fontsize=11)
        axes.set_xlabel("time (s)")
        axes.set_ylim(0, 95)
        axes.grid(alpha=0.3, linewidth=0.5)
    grid[0][0].set_ylabel("rate of 1500-byte packets (Mb/s)")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, frameon=False, fontsize=9)
    count = len(found) // 2
    figure.suptitle(f"Figures 4(b) and 4(c): two virtual networks, one address space (mean of {count} rounds, 95 %)")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    save(figure, out / "figure4bc")


def draw_interruption(found: Sequence[interruption.Round], timeline: interruption.Timeline, out: Path) -> None:
    """Draw figure 3(c): the rate that is received, over time."""
    figure, axes = plt.subplots(figsize=(8.6, 4.8))
    begins = timeline.seconds / 2
    for variant, look in _INTERRUPTION_LOOKS.items():
        rounds = [one for one in found if one.variant == variant]
        means, halves = intervals([one.rates_mbps for one in rounds])
        seconds = [interruption.INTERVAL_S * (number + 0.5) for number in range(len(means))]
        lost = sum(one.lost for one in rounds)
        label = f"{variant}: {lost:,} of {sum(one.sent for one in rounds):,} packets lost"
        axes.errorbar(seconds, means, yerr=halves, label=label, capsize=2, elinewidth=0.8, **look)
    paper = {"color": "black", "linestyle": ":", "linewidth": 1.2, "label": "the paper's native Xen: 0 for about 50 s"}
    axes.plot([begins, begins, timeline.seconds], [interruption.RATE_BPS / 1e6, 0, 0], **paper)
    axes.axvline(begins, color="grey", linewidth=0.8)
    axes.text(begins, 7.2, " migration", ha="left", fontsize=9, color="grey")
    axes.set_xlabel("time (s)")
    axes.set_ylabel("received (Mb/s of UDP payload)")
    axes.set_ylim(-0.3, 8)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(loc="center left", frameon=False, fontsize=9)
    count, still = len(found) // 2, f"the machine stands still for {timeline.freeze_s:g} s"
    figure.suptitle(
        f"Figure 3(c): a router is moved while it forwards (mean of {count} rounds, 95 %; {still})", fontsize=11
    )
    figure.tight_layout()
    save(figure, out / "figure3c")


def draw_moves(trials: Sequence[Trial], title: str, stem: Path, interval_s: float) -> None:
    """Draw real live migrations of a router: the packets that are received, a panel for each trial."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure, grid = plt.subplots(len(trials), 1, figsize=(9, 3.1 * len(trials)), squeeze=False)
    for (axes,), trial in zip(grid, trials, strict=True):
        color = "#1f5fa8" if trial.variant == trials[0].variant else "#d9730d"
        seconds = [interval_s * (number + 0.5) for number in range(len(trial.received_pps))]
        axes.plot(seconds[:-1], trial.received_pps[:-1], color=color, linewidth=1.3)
        for move in trial.moves:
            axes.axvspan(move.begun_s, move.done_s, color="grey", alpha=0.2, linewidth=0)
        away = max(move.silent_s for move in trial.moves)
        count = len(trial.moves)
        axes.set_title(
            f"{trial.variant}, {trial.rate_pps:,}/s: {trial.lost:,} of {trial.sent:,} packets lost in {count} live "
            f"migration{'s' if count > 1 else ''}; the machine was away for up to {away:.1f} s",
            fontsize=9,
        )
        axes.set_ylabel("received (packets/s)")
        axes.set_ylim(bottom=0, top=trial.rate_pps * 1.25)
        axes.grid(alpha=0.3, linewidth=0.5)
    grid[-1][0].set_xlabel("time (s); grey: from the order of a migration to its end")
    figure.suptitle(title)
    figure.tight_layout()
    save(figure, stem)


def draw_sharing(found: Sequence[sharing.Round], out: Path) -> None:
    """Draw figure 3(a), a panel for each policy, and 3(b), the fitness of each."""
    figure, grid = plt.subplots(1, len(sharing.POLICIES) + 1, figsize=(17, 4.6), squeeze=False)
    for axes, policy in zip(grid[0], sharing.POLICIES, strict=False):
        _shares(axes, [one for one in found if one.policy == policy])
        axes.set_title(f"(a) {sharing.LABELS[policy]}", fontsize=11)
    grid[0][0].set_ylabel("received (Mb/s of frames)")
    _fitness(grid[0][-1], found)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, frameon=False, fontsize=9)
    count = len(found) // len(sharing.POLICIES)
    figure.suptitle(f"Figures 3(a) and 3(b): idle bandwidth goes by what was hired (mean of {count} rounds, 95 %)")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    save(figure, out / "figure3ab")


def _shares(axes: Axes, rounds: Sequence[sharing.Round]) -> None:
    looks = zip(sharing.MINIMUMS_MBPS, sharing.EXPECTED_MBPS, ("#1f5fa8", "#d9730d"), strict=True)
    for place, (minimum, expected, color) in enumerate(looks):
        means, halves = intervals([one.rates_mbps[place] for one in rounds])
        seconds = [sharing.INTERVAL_S * (number + 0.5) for number in range(len(means))]
        style = {"color": color, "marker": "o", "markersize": 3, "linewidth": 1.2, "capsize": 2, "elinewidth": 0.8}
        label = f"network {place + 1}, minimum {minimum:g}"
        axes.errorbar(seconds, means, yerr=halves, label=label, **style)  # type: ignore[arg-type]
        hired_s = rounds[0].hired_at * sharing.INTERVAL_S
        ideal = {"color": color, "linestyle": ":", "label": f"in proportion: {expected:.1f}"}
        axes.plot([hired_s, seconds[-1]], [expected, expected], **ideal)
        axes.axvline(hired_s, color="grey", linewidth=0.8)
    axes.set_xlabel("time (s)")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3, linewidth=0.5)


def _fitness(axes: Axes, found: Sequence[sharing.Round]) -> None:
    samples = sharing.summary(found)
    for place, policy in enumerate(sharing.POLICIES):
        mean, half = mean_and_interval(samples[policy, "fitness, mean of both"])
        axes.bar(place, mean, yerr=half or 0, width=0.6, capsize=4, color="#8fb3d9")
        axes.text(place, 0.72, f"{mean:.3f}", ha="center", fontsize=10)
        if policy in sharing.PAPER_FITNESS:
            value = sharing.PAPER_FITNESS[policy]
            axes.plot([place], [value], marker="*", markersize=14, color="black", linestyle="none")
    axes.plot([], [], marker="*", markersize=12, color="black", linestyle="none", label="the paper's value")
    axes.set_xticks(range(len(sharing.POLICIES)), ["Open vSwitch", "paper", "work-conserving"], fontsize=9)
    axes.set_ylim(0.7, 1.01)
    axes.set_title("(b) fitness, mean of both networks", fontsize=11)
    axes.grid(alpha=0.3, linewidth=0.5, axis="y")
    axes.legend(loc="upper left", frameon=False, fontsize=9)


def draw_histories(found: Sequence[histories.Cell], out: Path) -> None:
    """Draw the table of policies: for each row what each tenant got, and what simulation says."""
    cases = list(histories.EXPECTED)
    figure, grid = plt.subplots(1, len(histories.DEMANDS), figsize=(17, 4.8), sharey=True, squeeze=False)
    for axes, demands in zip(grid[0], histories.DEMANDS, strict=True):
        for place, (policy, past) in enumerate(cases):
            cells = [one for one in found if (one.policy, one.past, one.demands) == (policy, past, demands)]
            means, halves = intervals([one.rates_mbps for one in cells])
            below = 0.0
            for mean, half, wanted, color in zip(
                means, halves, cells[0].expected_mbps, ("#8fb3d9", "#f0b27a"), strict=True
            ):
                axes.bar(place, mean, bottom=below, yerr=half, width=0.7, color=color, capsize=3)
                axes.plot([place - 0.45, place + 0.45], [below + wanted] * 2, color="black", linewidth=1.4)
                below += mean
        axes.set_title(f"demands {demands[0]}, {demands[1]}", fontsize=11)
        labels = [f"{policy}{'' if past == histories.FRESH else ', quiet'}" for policy, past in cases]
        axes.set_xticks(range(len(cases)), labels, rotation=60, ha="right", fontsize=8)
        axes.grid(alpha=0.3, linewidth=0.5, axis="y")
    grid[0][0].set_ylabel("Mb/s of frames, one tenant upon the other")
    count = len(found) // (len(cases) * len(histories.DEMANDS))
    title = "Hires of 20 (blue) and 40 (orange) on a link of 100, by policy and past; black lines: simulated"
    figure.suptitle(f"{title} (mean of {count}, 95 %)", fontsize=11)
    figure.tight_layout()
    save(figure, out / "policies")


def save(figure: Figure, stem: Path) -> None:
    """Write a plot as PNG and SVG."""
    for suffix in (".png", ".svg"):
        figure.savefig(stem.with_suffix(suffix), dpi=130)
    plt.close(figure)

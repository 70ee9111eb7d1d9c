"""Scenes: the VM sees no transit packet; why a packet goes where it goes; what the first packet of a flow costs."""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from xenflow_lab import stations
from xenflow_lab.demo.page import Page, number
from xenflow_lab.lab import Lab
from xenflow_lab.plan import CONTROLLER, Kind

PACKETS: Final = 10_000
RATE_PPS: Final = 5000
ROUNDS: Final = 5
LATER: Final = 6
FIRST_MS: Final = 100.0
"""Above it something is wrong, however busy the machine is."""
TARGETS: Final = ("10.0.2.10", "fd00:0:0:2::10")


def data_path(page: Page, lab: Lab) -> None:
    """Send packets from red-h1 to red-h2 and count them at the vifs of both routers."""
    page.section("The VM is out of the data path", f"{number(PACKETS)} packets red-h1 -> red-r1 -> red-r2 -> red-h2")
    with page.step("packets", quiet=True), ExitStack() as stack:
        routers = {
            who: stack.enter_context(stations.start(lab, who, "capture", "--interface", "eth0", "--interface", "eth1"))
            for who in ("red-r1", "red-r2")
        }
        receiver = stack.enter_context(stations.start(lab, "red-h2", "receive", "--port", "7100", "--flows", "2"))
        rate = ("--rate-pps", str(RATE_PPS // 2), "--count", str(PACKETS // 2), "--size", "64", "--tenant", "red")
        senders = [
            stack.enter_context(
                stations.begin(
                    lab, "red-h1", "send", "--to", f"[{target}]:7100" if ":" in target else f"{target}:7100", *rate
                )
            )
            for target in TARGETS
        ]
        sent = sum(sender.result()["sent"] for sender in senders)
        report = receiver.result()
        seen = {who: tool.stop() for who, tool in routers.items()}
    transit = {
        who: sum(
            sum(way["markers"].values()) for it in report["interfaces"].values() for way in (it["received"], it["sent"])
        )
        for who, report in seen.items()
    }
    missed = sum(report["missed"] for report in seen.values())
    rows = [["sent by red-h1", number(sent)]]
    rows += [[f"seen at the vifs of {who}", number(count)] for who, count in transit.items()]
    rows += [
        ["received by red-h2", number(report["received"])],
        ["lost, duplicated", f"{report['lost']}, {report['duplicated']}"],
    ]
    page.table(["", "packets"], rows, right=(1,))
    whole = (report["received"], report["lost"], report["duplicated"]) == (sent, 0, 0)
    words = f"{sum(transit.values())} of {number(sent)} packets at the vifs of the routers, {report['lost']} lost"
    page.check("VM out of the data path", whole and not any(transit.values()) and not missed, words)


def why(page: Page, lab: Lab) -> None:
    """Ask why a packet is forwarded."""
    words = ["trace", "--from", "red-h1", "--to", TARGETS[0]]
    page.section("Why a packet goes where it goes", f"xenflow {' '.join(words)}")
    with page.step("trace", quiet=True):
        done = lab.run(CONTROLLER, [Path(sys.executable).parent / "xenflow", *words])
    page.listing((done.stdout + done.stderr).strip())
    delivered = done.returncode == 0 and any(line.startswith("delivered") for line in done.stdout.splitlines())
    page.check("trace", delivered, "the flows that are installed take it to red-h2" if delivered else "not delivered")


def first_packets(page: Page, lab: Lab) -> None:
    """Measure the first packet of a flow that no switch has in its cache, and those behind it."""
    page.section("The first packet of a flow", "red-h1 -> red-h2, all caches emptied before each round")
    rows, first_ms, answered = [], [], True
    with page.step("round trips", quiet=True):
        for family, target in zip(("IPv4", "IPv6"), TARGETS, strict=True):
            firsts, later = [], []
            for _ in range(ROUNDS):
                for node in lab.plan.of_kind(Kind.NODE):
                    lab.appctl(node.name, "revalidator/purge")
                report = stations.run(
                    lab, "red-h1", "rtt", "--to", target, "--count", str(LATER + 1), "--interval", "0.02"
                )
                answered = answered and report["answered"] == report["sent"]
                trips = [(trip or 0) / 1e6 for trip in report["rtt_ns"]]
                firsts.append(trips[0])
                later += trips[1:]
            first_ms += firsts
            figures = (statistics.median(firsts), max(firsts), statistics.median(later))
            rows.append([family, *(f"{figure:.2f}" for figure in figures)])
    page.table(["round trip, ms", "first packet", "the slowest of them", "later packets"], rows, right=(1, 2, 3))
    median_ms = statistics.median(first_ms)
    words = f"{median_ms:.2f} ms there and back (median): the flows are there before it"
    page.check("first packet", answered and median_ms < FIRST_MS, words)

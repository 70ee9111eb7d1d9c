"""A router's voice class beside its own greedy bulk, UDP and TCP, while another router is greedy as well."""

from __future__ import annotations

import os
from contextlib import ExitStack

from bench.figure import Figure, figure
from bench.tenants import Tenants, target, tenants
from xenflow_lab import stations

SECONDS = 15.0
LINK_MBPS, HIRES = 100.0, (20.0, 40.0)
CLASSES = ({"name": "voice", "rate": "2Mbit", "match": [{"dscp": 46}]},)
VOICE = {"6001": ("160", "0.8e6"), "6002": ("4000", "0.8e6")}
"""Port -> payload (the larger one comes in three fragments) and payload bit/s; with headers within 2 Mbit/s."""
BULK_PORT, BULK_BPS = "6003", "55e6"
OTHER_MBPS = 90.0


def run() -> list[Figure]:
    """Return voice's lost packets, and its p99 of delay as a part of bulk's."""
    with tenants(f"bench{os.getpid()}", HIRES, LINK_MBPS, {}, CLASSES) as made:
        lost, delays_ms = _measure(made)
    bulk_ms = delays_ms.pop(BULK_PORT)
    shown = ", ".join(f"{delay:.1f}" for delay in delays_ms.values())
    print(f"    voice: lost {lost}, p99 of delay {shown} ms (whole, in fragments); bulk {bulk_ms:.1f} ms", flush=True)
    ratios = [delay / bulk_ms for delay in delays_ms.values()]
    return [figure("qos_voice_lost", [float(lost)]), figure("qos_voice", ratios, max(ratios))]


def _measure(made: Tenants) -> tuple[int, dict[str, float]]:
    lab = made.lab
    with ExitStack() as stack:
        receivers = {
            port: stack.enter_context(stations.start(lab, "d1", "receive", "--port", port))
            for port in (*VOICE, BULK_PORT)
        }
        stack.enter_context(made.sending({2: OTHER_MBPS}))
        server = stack.enter_context(lab.popen("d1", ["iperf3", "-s", "--forceflush"]))
        stack.callback(server.terminate)
        to = ("--to", f"{target(1)}:{BULK_PORT}", "--rate-bps", BULK_BPS, "--size", "1472", "--no-realtime")
        bulk = stack.enter_context(stations.begin(lab, "s1", "send", *to))
        made.let_flow(2)
        client = stack.enter_context(lab.popen("s1", ["iperf3", "-c", target(1), "-t", "60"]))
        stack.callback(client.terminate)
        made.let_flow(4)
        senders = {
            port: stack.enter_context(
                stations.begin(
                    *(lab, "s1", "send", "--to", f"{target(1)}:{port}"),
                    *("--size", size, "--rate-bps", bps, "--dscp", "46"),
                )
            )
            for port, (size, bps) in VOICE.items()
        }
        made.let_flow(SECONDS)
        sent = {port: sender.stop()["sent"] for port, sender in senders.items()}
        bulk.stop()
        reports = {port: receiver.end(5) for port, receiver in receivers.items()}
    lost = sum(sent[port] - reports[port]["received"] for port in VOICE)
    return lost, {port: report["flows"][0]["delay_ns"]["p99"] / 1e6 for port, report in reports.items()}

"""``python -m bench [--only NAME]``: a table, and bench/out/latest.json."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

from bench import spinner
from bench.figure import REACHES, Figure
from xenflow.errors import XenflowError

OUT = Path(__file__).parent / "out"
SUITES = {
    "lookup": ("lookup_us",),
    "qos_decide": ("qos_decide_ms",),
    "qos_kernel": ("qos_read_ms", "qos_steady_cpu"),
    "qos_shares": (
        "qos_fitness_paper_scenario",
        "qos_fitness_open_vswitch",
        "qos_idle_use",
        "qos_wake_ms",
        "qos_wake_fitness",
        "qos_table_error",
        "qos_fitness_mixed",
        "qos_tiny",
    ),
    "qos_history": ("qos_level1", "qos_burst"),
    "qos_switching": ("qos_fitness_8", "qos_use_8"),
    "qos_voice": ("qos_voice_lost", "qos_voice"),
    "qos_migrate": ("qos_migrate",),
    "processor": ("vm_delay_ratio", "vm_route_ratio", "dom0_ceiling_ratio"),
    "first_packet": ("first_packet_ratio",),
    "forwarding": ("forwarding_ratio",),
    "flow_mods": ("flow_mods_ratio",),
    "routes": (
        "route_to_flow_ms_p50",
        "route_to_flow_ms_p99",
        "load_10k_s",
        "reconnect_ms",
        "load_100k_s",
        "route_to_flow_scale",
        "client_rss_mb",
        "app_bytes_per_route",
    ),
    "announcement": ("announce_ms", "announce_ratio"),
    "reactive": ("first_packet_reactive_ratio",),
    "migration": (
        "mig_lost",
        "mig_doubled",
        "mig_gap_ms",
        "mig_gap_p9999_ms",
        "mig_gap_ports_ratio",
        "mig_reorder_windows",
        "mig_reorder_ms",
        "mig_sync_ms",
        "mig_sync_10k_ms",
        "mig_repoint_ms",
        "mig_repoint_20k_ms",
    ),
    "hops": (
        "mig_hops_lost",
        "mig_hops_doubled",
        "mig_hops_gap_ms",
        "mig_hops_gap_p9999_ms",
        "mig_hops_gap_ports_ratio",
        "mig_hops_reorder_windows",
        "mig_hops_reorder_ms",
    ),
    "transfers": ("mig_tcp_stall_ms",),
}
"""Module -> the figures that one run of it gives."""
NEEDS_POX = "reactive"
NEEDS_VM = "processor"
PURE = {"lookup", "qos_decide"}
"""What needs no lab."""


def main() -> int:
    """Run the figures that were asked for; exit code 1 if one misses its reach, 2 if it cannot be run."""
    parser = argparse.ArgumentParser(prog="bench", description="figures of XenFlow on this machine")
    parser.add_argument("--only", default=os.environ.get("ONLY", ""), metavar="NAME", help="one figure or one module")
    only = parser.parse_args().only
    suites = [name for name, figures in SUITES.items() if not only or only == name or only in figures]
    if not suites:
        print(f"bench: no figure {only!r}; there are: {', '.join(REACHES)}", file=sys.stderr)
        return 2
    if os.geteuid() != 0 and not PURE.issuperset(suites):
        print("bench: a lab needs root (namespaces and interfaces): run it with sudo", file=sys.stderr)
        return 2
    found: list[Figure] = []
    for name in suites:
        if name == NEEDS_POX and not os.environ.get("POX_HOME"):
            print("POX_HOME is not set: first_packet_reactive_ratio is left out", flush=True)
            continue
        if name == NEEDS_VM and (why := spinner.missing()):
            print(f"{name} is left out: {why}", flush=True)
            continue
        print(f"{name} …", flush=True)
        began = time.monotonic()
        try:
            figures = importlib.import_module(f"bench.{name}").run()
        except XenflowError as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            return 2
        print(f"    {time.monotonic() - began:.0f} s", flush=True)
        found += [item for item in figures if not only or only in (name, item.figure)]
    show(found)
    write(found, OUT / "latest.json")
    return 0 if all(item.holds for item in found) else 1


def show(found: list[Figure]) -> None:
    """Print the table."""
    print(f"\n{'figure':30}{'value':>10} {'unit':6}{'reach':>9}  {'holds':6}{'n':>5}{'mean':>10}{'95 %':>10}")
    for item in found:
        half = "" if item.ci95 is None else f"±{item.ci95:.3g}"
        holds = "yes" if item.holds else "NO"
        print(
            f"{item.figure:30}{item.value:10.4g} {item.unit:6}{item.reach:>9}  {holds:6}"
            f"{item.n:5}{item.mean:10.4g}{half:>10}"
        )


def write(found: list[Figure], path: Path) -> None:
    """Write the figures; those of an earlier run that were not measured now stay, so that ONLY refreshes one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: list[dict[str, object]] = json.loads(path.read_text()) if path.exists() else []
    fresh = {item.figure: item.as_dict() for item in found}
    rows = {str(row["figure"]): row for row in kept} | fresh
    path.write_text(json.dumps([rows[name] for name in REACHES if name in rows], indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())

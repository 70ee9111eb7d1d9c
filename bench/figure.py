"""What a figure is: samples, the value that is compared with its reach, mean and 95 % confidence interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a figure has to get: at most or at least `limit`."""

    unit: str
    limit: float
    at_least: bool = False

    @property
    def text(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


REACHES = {
    "first_packet_ratio": Reach("ratio", 1.5),
    "first_packet_reactive_ratio": Reach("ratio", 1.0),
    "route_to_flow_ms_p50": Reach("ms", 15),
    "route_to_flow_ms_p99": Reach("ms", 100),
    "route_to_flow_scale": Reach("ratio", 1.5),
    "load_10k_s": Reach("s", 2),
    "load_100k_s": Reach("s", 15),
    "flow_mods_ratio": Reach("ratio", 0.5, at_least=True),
    "forwarding_ratio": Reach("ratio", 0.95, at_least=True),
    "client_rss_mb": Reach("MB", 80),
    "app_bytes_per_route": Reach("B", 1500),
    "lookup_us": Reach("us", 5),
    "reconnect_ms": Reach("ms", 800),
    "qos_decide_ms": Reach("ms", 50),
    "qos_read_ms": Reach("ms", 250),
    "qos_steady_cpu": Reach("%", 5),
    "qos_fitness_paper_scenario": Reach("", 0.98, at_least=True),
    "qos_fitness_open_vswitch": Reach("", 0.9),
    "qos_idle_use": Reach("", 0.97, at_least=True),
    "qos_wake_ms": Reach("ms", 100),
    "qos_wake_fitness": Reach("", 0.97, at_least=True),
    "qos_table_error": Reach("", 0.03),
    "qos_fitness_mixed": Reach("", 0.95, at_least=True),
    "qos_fitness_8": Reach("", 0.97, at_least=True),
    "qos_use_8": Reach("", 0.97, at_least=True),
    "qos_tiny": Reach("", 1, at_least=True),
    "qos_voice_lost": Reach("", 0),
    "qos_voice": Reach("", 0.2),
    "qos_migrate": Reach("", 1, at_least=True),
    "qos_level1": Reach("", 1),
    "qos_burst": Reach("", 0.2),
    "vm_delay_ratio": Reach("ratio", 1.5),
    "vm_route_ratio": Reach("ratio", 2.0),
    "dom0_ceiling_ratio": Reach("ratio", 0.9),
    "announce_ms": Reach("ms", 50),
    "announce_ratio": Reach("ratio", 5),
    "mig_lost": Reach("", 0),
    "mig_doubled": Reach("", 0),
    "mig_gap_ms": Reach("ms", 50),
    "mig_gap_p9999_ms": Reach("ms", 10),
    "mig_gap_ports_ratio": Reach("ratio", 1.5),
    "mig_reorder_windows": Reach("", 1),
    "mig_reorder_ms": Reach("ms", 10),
    "mig_sync_ms": Reach("ms", 1000),
    "mig_sync_10k_ms": Reach("ms", 3000),
    "mig_repoint_ms": Reach("ms", 100),
    "mig_repoint_20k_ms": Reach("ms", 300),
    "mig_hops_lost": Reach("", 0),
    "mig_hops_doubled": Reach("", 0),
    "mig_hops_gap_ms": Reach("ms", 50),
    "mig_hops_gap_p9999_ms": Reach("ms", 10),
    "mig_hops_gap_ports_ratio": Reach("ratio", 1.5),
    "mig_hops_reorder_windows": Reach("", 1),
    "mig_hops_reorder_ms": Reach("ms", 10),
    "mig_tcp_stall_ms": Reach("ms", 200),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure as bench/out/latest.json has it; `ci95` is half the width of the interval around `mean`."""

    figure: str
    value: float
    unit: str
    reach: str
    holds: bool
    n: int
    mean: float
    ci95: float | None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def figure(name: str, samples: Sequence[float], value: float | None = None) -> Figure:
    """Return the figure `name` of its samples; `value` is their median unless it is given."""
    reach = REACHES[name]
    found = statistics.median(samples) if value is None else value
    mean, half = mean_and_interval(samples)
    return Figure(name, found, reach.unit, reach.text, reach.holds(found), len(samples), mean, half)


def mean_and_interval(samples: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and half the width of Student's 95 % interval; None for less than two samples."""
    mean = statistics.fmean(samples)
    if len(samples) < 2:
        return mean, None
    factor = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(samples) - 1))
    return mean, factor * statistics.stdev(samples) / math.sqrt(len(samples))


def percentile(samples: Sequence[float], part: float) -> float:
    """Return the smallest sample that at least `part` (0..1) of all do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(math.ceil(part * len(ordered)) - 1, 0)]

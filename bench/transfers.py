"""A TCP transfer (iperf3), as fast as it goes, through a router that moves: how long its receiver gets nothing.

The network of the other figures of migrations; five of them, one after the other. The same transfer without migrations
goes before, in the same lab.
"""

from __future__ import annotations

from bench import network
from bench.figure import Figure, figure
from bench.migration import BETWEEN, RECEIVER, ROUTER
from bench.moving import migrate, to_and_fro
from xenflow_lab import stations
from xenflow_lab.command import LabError
from xenflow_lab.transfer import Transfer, transfer

MOVES = 5
REST_S = 1.0
BASELINE_S = 10.0


def run() -> list[Figure]:
    """Return the longest stall. Raises LabError if the connection does not last."""
    with network.lab_of(network.topology("migration")) as lab:
        lab.wait_settled()
        lab.wait_until(lambda: all(stations.answers(lab, "h1", [RECEIVER]).values()), 60, "traffic from h1 to h2")
        with transfer(lab, "h1", "h2", RECEIVER) as baseline:
            network.wait(lab, BASELINE_S)
        print(f"    nothing moves: {_shown(baseline)}", flush=True)
        with transfer(lab, "h1", "h2", RECEIVER) as found:
            network.wait(lab, REST_S)
            for router, target in to_and_fro(lab, {ROUTER: BETWEEN}, MOVES):
                migrate(lab, router, target)
            network.wait(lab, REST_S)
        print(f"    {MOVES} migrations: {_shown(found)}", flush=True)
    if not found.whole:
        raise LabError(f"the transfer has not lasted: {found.error}")
    return [figure("mig_tcp_stall_ms", [found.stall_s * 1e3])]


def _shown(found: Transfer) -> str:
    return (
        f"{found.rate_bps / 1e6:.0f} Mb/s, {found.retransmits} segments sent again, longest stall"
        f" {found.stall_s * 1e3:.0f} ms (looked at least every {found.blind_s * 1e3:.0f} ms)"
    )

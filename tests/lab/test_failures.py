"""A trunk of the ring fails and comes back: packets find another way in time, and no broadcast comes twice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import ring
from tests.lab.conftest import LabFactory
from xenflow_lab.lab import Lab
from xenflow_lab.plan import WIRES

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

CARRIER_LIMIT_S = 1.0
SILENT_LIMIT_S = 3.0
STREAMS = [ring.unicast(), ring.unicast_v6(), ring.broadcast("h1"), ring.multicast("h3")]
GROUP_STREAMS = [ring.broadcast("h1"), ring.broadcast("h2", 6005), ring.multicast("h3")]


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    made = make_lab(ring.topology(), "fail")
    ring.settle(made)
    return made


@pytest.fixture(autouse=True)
def _all_links(lab: Lab) -> None:
    """Each test begins with the whole ring, at rest."""
    lab.wait_until(lambda: ring.links(lab) == 3, 20, "three links")
    ring.wait_quiet(lab)


def carrier(lab: Lab, node: str, port: str, *, up: bool) -> None:
    """Plug or unplug a cable at a node; a direct trunk's far end sees it, too."""
    lab.run(node, ["ip", "link", "set", port, "up" if up else "down"], check=True)


def plain_bridge(lab: Lab, *, up: bool) -> None:
    """Let the plain bridge between n3 and n1 pass frames, or none; both ends keep their carrier."""
    lab.run(WIRES, ["ip", "link", "set", "tb3", "up" if up else "down"], check=True)


def one_way(lab: Lab, *, up: bool) -> None:
    """Lose what n1 sends to n3 on the wire; the other direction works, and both ends keep their carrier."""
    if up:
        lab.run(WIRES, ["tc", "qdisc", "del", "dev", "t3a", "ingress"], check=True)
        return
    lab.run(WIRES, ["tc", "qdisc", "add", "dev", "t3a", "ingress"], check=True)
    words = "filter add dev t3a parent ffff: protocol all prio 1 u32 match u32 0 0 action mirred egress redirect dev lo"
    lab.run(WIRES, ["tc", *words.split()], check=True)


CASES: list[tuple[str, Callable[..., None], float]] = [
    ("carrier n1-n2", lambda lab, up: carrier(lab, "n1", "t-n2", up=up), CARRIER_LIMIT_S),
    ("carrier n2-n3", lambda lab, up: carrier(lab, "n2", "t-n3", up=up), CARRIER_LIMIT_S),
    ("carrier at one end of n3-n1", lambda lab, up: carrier(lab, "n3", "t-n1", up=up), CARRIER_LIMIT_S),
    ("silence n3-n1", plain_bridge, SILENT_LIMIT_S),
    ("silence one way on n3-n1", one_way, SILENT_LIMIT_S),
]


def assert_none_doubled(reports: dict[str, dict[str, Any]]) -> None:
    assert {name: report["duplicated"] for name, report in reports.items()} == dict.fromkeys(reports, 0)
    assert {name: report["dropped_by_socket"] for name, report in reports.items()} == dict.fromkeys(reports, 0)


@pytest.mark.parametrize(("name", "change", "limit_s"), CASES, ids=[case[0] for case in CASES])
def test_a_trunk_fails_and_comes_back(
    lab: Lab, record_property: Callable[[str, object], None], name: str, change: Callable[..., None], limit_s: float
) -> None:
    with ring.Traffic(lab, STREAMS) as traffic:
        ring.pause(lab, 1)
        change(lab, up=False)
        try:
            lab.wait_until(lambda: ring.links(lab) == 2, 10, "the loss of the link")
            ring.pause(lab, 1)
        finally:
            change(lab, up=True)
        lab.wait_until(lambda: ring.links(lab) == 3, 20, "the return of the link")
        ring.pause(lab, 1)
        reports = traffic.reports()
    print(f"\n{name}: {ring.figures(reports)}")
    gaps_s = {stream: report["longest_gap_ns"] / 1e9 for stream, report in reports.items()}
    record_property("outage_ms", {stream: round(gap * 1e3) for stream, gap in gaps_s.items()})
    assert_none_doubled(reports)
    assert max(gaps_s.values()) <= limit_s, gaps_s


def test_no_broadcast_is_doubled_while_trunks_flap(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    """Trunks go and come faster than the network settles: the ring is opened, closed and turned all the time."""
    chosen = random.Random(1)
    before, start = ring.trunk_frames(lab), time.monotonic()
    with ring.Traffic(lab, GROUP_STREAMS) as traffic:
        ring.pause(lab, 0.5)
        for _ in range(20):
            _, change, _ = chosen.choice(CASES[:4])
            change(lab, up=False)
            ring.pause(lab, chosen.choice((0.05, 0.2, 0.5)))
            change(lab, up=True)
            ring.pause(lab, chosen.choice((0.0, 0.1, 0.4, 0.8)))
        lab.wait_until(lambda: ring.links(lab) == 3, 20, "three links")
        ring.pause(lab, 1)
        reports = traffic.reports()
    print(f"\nflaps: {ring.figures(reports)}")
    record_property("flaps", ring.figures(reports))
    assert_none_doubled(reports)
    passed = ring.trunk_frames(lab) - before
    sent = sum(max(r["expected"] for name, r in reports.items() if name.startswith(s.name)) for s in GROUP_STREAMS)
    assert passed <= 2 * sent + ring.CONTROL_FRAMES_S * (time.monotonic() - start), (passed, sent)


def test_no_broadcast_is_doubled_when_the_app_restarts_into_another_ring(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    """A trunk fails while the app is down, and comes back while it is down again: it starts with a wrong tree."""
    app = lab.process("controller")
    with ring.Traffic(lab, GROUP_STREAMS) as traffic:
        for up in (False, True):
            app.kill()
            carrier(lab, "n1", "t-n2", up=up)
            app.start()
            lab.wait_until(lambda up=up: not lab.awaited() and ring.links(lab) == 2 + up, 30, "a settled ring")  # type: ignore[misc]
            ring.pause(lab, 1)
        reports = traffic.reports()
    print(f"\nrestarts of the app: {ring.figures(reports)}")
    record_property("restarts", ring.figures(reports))
    assert_none_doubled(reports)
    assert all(report["received"] for report in reports.values())

"""Trunks of the ring are drained, unplugged and used again under numbered packets: none is lost, none comes twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.lab import ring, tools
from tests.lab.conftest import LabFactory
from tests.lab.test_lab_itself import XENFLOW
from xenflow.answers import DrainStatus
from xenflow_lab import operator
from xenflow_lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

ROUNDS = 5
RATE_PPS = int(os.environ.get("XENFLOW_RATE_PPS", "2000"))
TRUNKS = (("n1:t-n2", "n2:t-n1"), ("n2:t-n3", "n3:t-n2"), ("n3:t-n1", "n1:t-n3"))
KNOWN = [
    ring.unicast(),
    ring.Stream("bridged", "h1", ("10.0.1.12:6007",), ("h2",)),
]
"""Routed by r1 and r2 over all three trunks, and switched by MAC address."""
FLOODED = [ring.broadcast("h1"), ring.multicast("h3")]
FLOODED_PPS = 500

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    made = make_lab(ring.topology(), "drain")
    made.wait_settled()
    for router, far, gateway in (("r1", 2, 2), ("r2", 1, 1)):
        made.run(router, ["ip", "route", "add", f"10.0.{far}.0/24", "via", f"10.0.255.{gateway}"], check=True)
    assert all(tools.answers(made, "h3", ["10.0.2.32"]).values())
    assert all(tools.answers(made, "h1", ["10.0.1.12"]).values())
    return made


@pytest.fixture(autouse=True)
def _all_links(lab: Lab) -> None:
    lab.wait_until(lambda: ring.links(lab) == 3, 20, "three links")
    ring.wait_quiet(lab)


def command(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*XENFLOW, *words, "--app", f"unix:{lab.app_socket}"], capture_output=True, text=True, timeout=40
    )


def order(lab: Lab, what: str, trunk: str) -> DrainStatus:
    """Drain or undrain as the command does, without the start of a program."""
    found = msgspec.json.decode(operator.ask(lab.app_socket, what, {"trunk": trunk}), type=DrainStatus)

    def ended() -> bool:
        nonlocal found
        body = operator.ask(lab.app_socket, "drains", {"trunk": trunk})
        (found,) = msgspec.json.decode(body, type=list[DrainStatus])
        return found.ended

    lab.wait_until(ended, 20, f"the end of {what} {trunk}")
    assert (found.state, found.error) == ({"drain": "drained", "undrain": "in use"}[what], "")
    return found


def drained(lab: Lab) -> dict[str, str]:
    return {end: link.drain for link in lab.app_status().links for end in link.ends if link.drain}


def carrier(lab: Lab, end: str, *, up: bool) -> None:
    node, _, port = end.partition(":")
    lab.run(node, ["ip", "link", "set", port, "up" if up else "down"], check=True)


def assert_complete(reports: dict[str, dict[str, Any]]) -> None:
    figures = {name: (item["lost"], item["duplicated"], item["dropped_by_socket"]) for name, item in reports.items()}
    assert figures == dict.fromkeys(reports, (0, 0, 0)), ring.figures(reports)


def test_trunks_are_drained_unplugged_and_used_again_and_nothing_is_lost(lab: Lab, record_property: Record) -> None:
    times = []
    with ring.Traffic(lab, KNOWN, RATE_PPS) as traffic:
        for turn in range(ROUNDS):
            named, other = TRUNKS[turn % len(TRUNKS)]
            down = order(lab, "drain", named).elapsed_s
            assert drained(lab) == {named: "drained", other: "drained"}
            carrier(lab, named, up=False)
            lab.wait_until(lambda: ring.links(lab) == 2, 10, "the loss of the link")
            ring.pause(lab, 0.3)
            carrier(lab, named, up=True)
            lab.wait_until(lambda: len(lab.app_status().links) == 3, 20, "the return of the link")
            assert drained(lab) == {named: "drained", other: "drained"}
            times.append((down, order(lab, "undrain", other).elapsed_s))
            assert not drained(lab)
        reports = traffic.reports()
    print(f"\n{ROUNDS} times drained and undrained at {RATE_PPS}/s: {ring.figures(reports)}; seconds {times}")
    record_property("drain", ring.figures(reports))
    record_property("drain_s", times)
    assert_complete(reports)


def test_what_floods_is_never_doubled_and_misses_no_more_than_a_step(lab: Lab, record_property: Record) -> None:
    """Trees are opened before they are closed again elsewhere (docs/design/migration.md); the gap is recorded."""
    with ring.Traffic(lab, FLOODED, FLOODED_PPS) as traffic:
        for turn in range(ROUNDS):
            named, other = TRUNKS[turn % len(TRUNKS)]
            order(lab, "drain", named)
            order(lab, "undrain", other)
        reports = traffic.reports()
    print(f"\nflooded, {ROUNDS} times drained and undrained: {ring.figures(reports)}")
    record_property("flooded", ring.figures(reports))
    record_property("flooded_gap_ms", {name: round(r["longest_gap_ns"] / 1e6) for name, r in reports.items()})
    assert {name: report["duplicated"] for name, report in reports.items()} == dict.fromkeys(reports, 0)


def test_a_trunk_stays_drained_when_controller_and_server_are_killed(lab: Lab) -> None:
    """Kill -9, and start again. What would leave a node without any trunk is refused meanwhile."""
    named, other = TRUNKS[0]
    with ring.Traffic(lab, KNOWN, RATE_PPS) as traffic:
        done = command(lab, "drain", named, "--json")
        assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "drained"), done
        for trunk, reason in (
            (other, "is drained already"),
            ("n2:t-n3", "without the trunk node n2 would be cut off"),
            ("n1:t-n9", "its trunks: t-n2, t-n3"),
        ):
            done = command(lab, "drain", trunk)
            assert (done.returncode, done.stdout) == (2, "")
            assert reason in done.stderr
        for process in (lab.process("controller"), lab.process("server", "n1")):
            process.kill()
            process.start()
            ring.wait_quiet(lab)
            lab.wait_until(lambda: drained(lab) == {named: "drained", other: "drained"}, 20, "the drained trunk")
        carrier(lab, named, up=False)
        ring.pause(lab, 0.3)
        carrier(lab, named, up=True)
        reports = traffic.reports()
    print(f"\ncontroller and server killed: {ring.figures(reports)}")
    assert_complete(reports)
    assert '"true"' in lab.vsctl("n1", "get", "Interface", "t-n2", "external_ids:xenflow-drained")
    done = command(lab, "undrain", named)
    assert done.returncode == 0, done
    assert "in use again after" in done.stdout


def test_ctrl_c_puts_the_trunk_back(lab: Lab) -> None:
    named, _ = TRUNKS[0]
    server = lab.process("server", "n2")
    server.signal(signal.SIGSTOP)  # it does not confirm, so the trunk cannot be called drained
    try:
        with ring.Traffic(lab, KNOWN, RATE_PPS) as traffic:
            words = ["drain", named, "--app", f"unix:{lab.app_socket}"]
            asked = subprocess.Popen([*XENFLOW, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            lab.wait_until(lambda: drained(lab).get(named) == "draining", 20, "the drain under way")
            assert asked.stdout is not None
            assert "awaiting" in asked.stdout.readline()
            asked.send_signal(signal.SIGINT)
            _, errors = asked.communicate(timeout=40)
            reports = traffic.reports()
    finally:
        server.signal(signal.SIGCONT)
    assert (asked.returncode, "taken back" in errors) == (1, True), errors
    assert_complete(reports)
    lab.wait_until(lambda: not drained(lab), 20, "the trunk in use")

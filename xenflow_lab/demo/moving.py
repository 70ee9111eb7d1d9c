"""Scene: a router moves to another node and back, while every packet that passes it is numbered."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any, Final

import msgspec

from xenflow.answers import MigrationStatus
from xenflow_lab import operator, stations
from xenflow_lab.command import wait_until
from xenflow_lab.demo.page import Page, number
from xenflow_lab.lab import Lab

ROUTER: Final = "red-r1"
TARGETS: Final = ("n3", "n1")
PORT: Final = 7300
FLOWS: Final = 4
RATE_PPS: Final = 2000
MOVE_S: Final = 30.0
POLL_S: Final = 0.2
MARGIN_S: Final = 0.3
"""How long packets flow before the first move and after the last one."""


def move(page: Page, lab: Lab) -> None:
    """Move red-r1 to another node and back under traffic from red-h1 to red-h2. Raises LabError, ToolError."""
    way = " -> ".join((lab.plan.machines[ROUTER].node, *TARGETS))
    page.section("A router moves while it forwards", f"xenflow migrate {ROUTER}: {way}; {number(RATE_PPS)} packets/s")
    with ExitStack() as stack:
        receiver = stack.enter_context(
            stations.start(lab, "red-h2", "receive", "--port", str(PORT), "--flows", str(FLOWS))
        )
        words = ("--to", f"10.0.2.10:{PORT}", "--ports", str(FLOWS), "--rate-pps", str(RATE_PPS), "--size", "64")
        sender = stack.enter_context(stations.begin(lab, "red-h1", "send", *words))
        _let_flow(MARGIN_S)
        moves = [_migrate(page, lab, target) for target in TARGETS]
        _let_flow(MARGIN_S)
        sent = sender.stop()["sent"]
        report = receiver.result()
    page.table(["", "packets"], _rows(sent, report), right=(1,))
    done = [item for item in moves if item.state == "done"]
    whole = (report["received"], report["lost"], report["duplicated"]) == (sent, 0, 0)
    words_found = f"{len(done)} of {len(moves)} moves; {report['lost']} of {number(sent)} packets lost,"
    gap = f"longest gap {report['longest_gap_ns'] / 1e6:.0f} ms"
    page.check("live migration", whole and done == moves, f"{words_found} {report['duplicated']} doubled, {gap}")


def _migrate(page: Page, lab: Lab, target: str) -> MigrationStatus:
    """Order a move and wait for its end."""
    with page.step(f"{ROUTER} to {target}") as step:
        answer = operator.ask(lab.app_socket, "migrate", {"router": ROUTER, "to": target})
        status = msgspec.json.decode(answer, type=MigrationStatus)
        found = [status]

        def ended() -> bool:
            answer = operator.ask(lab.app_socket, "migrations", {"number": str(status.number)})
            found[:] = msgspec.json.decode(answer, type=list[MigrationStatus])
            step.detail = f"{found[0].state}, awaiting {found[0].awaited}"
            return found[0].ended

        wait_until(ended, MOVE_S, f"the move of {ROUTER} to {target}", POLL_S)
        step.result = found[0].error or _times(found[0])
    return found[0]


def _times(status: MigrationStatus) -> str:
    """Return for how long the VM was on its way, and when the other nodes had turned."""
    after_s = {item.state: item.after_s for item in status.reached}
    arrived, turned = after_s.get("resuming", 0.0), after_s.get("draining", 0.0)
    return f"VM there after {arrived:.1f} s, packets after {turned:.1f} s"


def _rows(sent: int, report: dict[str, Any]) -> list[list[str]]:
    return [
        ["sent by red-h1", number(sent)],
        ["received by red-h2", number(report["received"])],
        ["lost", number(report["lost"])],
        ["doubled", number(report["duplicated"])],
        ["reordered", number(report["reordered"])],
        ["longest gap in a flow", f"{report['longest_gap_ns'] / 1e6:.1f} ms"],
    ]


def _let_flow(seconds: float) -> None:
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, seconds + 5, "the end of a pause")

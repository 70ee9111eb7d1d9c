"""What the tests of migrations ask of a lab: orders, what became of them, and numbered packets meanwhile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from tests.lab import ring
from xenflow.answers import MigrationStatus, Verified
from xenflow_app import flowtable
from xenflow_app.ids import Ids
from xenflow_app.pipeline import Kind as FlowKind
from xenflow_lab.lab import Lab
from xenflow_lab.plan import Kind

REST_S = 0.5
"""How long packets flow before and after what is tested."""


def migrations(lab: Lab, **which: str) -> list[MigrationStatus]:
    """Return all migrations that the controller remembers, or one (`number`)."""
    return msgspec.json.decode(lab.ask("migrations", which), type=list[MigrationStatus])


def under_way(lab: Lab) -> list[MigrationStatus]:
    """Return the migrations that have not ended."""
    return [item for item in migrations(lab) if not item.ended]


def order(lab: Lab, router: str, to: str) -> int:
    """Order a migration; return its number."""
    answer = lab.ask("migrate", {"router": router, "to": to})
    return msgspec.json.decode(answer, type=MigrationStatus).number


def ended(lab: Lab, number: int, timeout_s: float = 30) -> MigrationStatus:
    """Return a migration once it has ended."""
    lab.wait_until(lambda: migrations(lab, number=str(number))[0].ended, timeout_s, "the end of a migration")
    return migrations(lab, number=str(number))[0]


def moved(lab: Lab, router: str, to: str, timeout_s: float = 30) -> MigrationStatus:
    """Move a router as an operator does; return when it is done, and nothing of it is left at the source."""
    done = ended(lab, order(lab, router, to), timeout_s)
    assert (done.state, done.error, node_of(lab, router)) == ("done", "", to)
    lab.wait_until(lambda: not of_router(lab, done.source, router), 5, f"nothing of {router} on {done.source}")
    return done


def moved_by_hand(lab: Lab, router: str, to: str, freeze_s: float, timeout_s: float = 30) -> MigrationStatus:
    """Move a router as somebody does who uses the hypervisor's own command; return when that has come to its end."""
    before = {item.number for item in migrations(lab)}

    def found() -> list[MigrationStatus]:
        return [item for item in migrations(lab) if item.number not in before and item.router == router]

    lab.move(router, to, freeze_s)
    lab.wait_until(lambda: any(item.ended for item in found()), timeout_s, "the end of the migration")
    (done,) = found()
    assert (done.planned, done.state, done.target, node_of(lab, router)) == (False, "done", to, to)
    return done


def node_of(lab: Lab, router: str) -> str:
    """Return the node that a router's VM is on."""
    return lab.plan.machines[router].node


def steps(status: MigrationStatus) -> str:
    """Return when a migration came to each of its states, on one line."""
    return ", ".join(f"{item.state} {item.after_s * 1e3:.0f}" for item in status.reached)


def of_router(lab: Lab, node: str, router: str) -> list[str]:
    """Return a node's flows that have the router's cookie, but for those to its queues, which are on its way."""
    owner = Ids().of(router.encode())
    lines = lab.ofctl(node, "dump-flows").splitlines()
    cookies = ((re.search(r"cookie=0x([0-9a-f]+)", line), line) for line in lines)
    heads = ((bytes.fromhex(found[1].zfill(16)), line) for found, line in cookies if found)
    return [
        line
        for head, line in heads
        if flowtable.is_ours(head) and flowtable.owner_of(head) == owner and flowtable.kind_of(head) != FlowKind.QUEUE
    ]


def assert_as_wanted(lab: Lab) -> None:
    """Every switch has exactly the flows that are wanted, and only a router's own node has any of its flows."""
    nodes = sorted(node.name for node in lab.plan.of_kind(Kind.NODE))
    for router in lab.plan.of_kind(Kind.ROUTER):
        for node in nodes:
            if node != router.node:
                lab.wait_until(lambda n=node, r=router.name: not of_router(lab, n, r), 20, "no flows elsewhere")  # type: ignore[misc]
    verified = msgspec.json.decode(lab.ask("verify"), type=list[Verified])
    assert [(item.node, item.differences, item.why) for item in verified] == [(node, [], "") for node in nodes]


def overrun(lab: Lab) -> int:
    """Return how many frames came to the switches' ports faster than they were taken: the machine was too slow then."""
    sockets = (lab.run(node.name, ["ss", "-0", "-m"]).stdout for node in lab.plan.of_kind(Kind.NODE))
    return sum(int(count) for text in sockets for count in re.findall(r"skmem:\(.*?,d(\d+)\)", text))


@contextmanager
def numbered(lab: Lab, *streams: ring.Stream, rate_pps: int) -> Iterator[dict[str, dict[str, Any]]]:
    """Send while the block runs; what each receiver counted is in the dictionary after it."""
    reports: dict[str, dict[str, Any]] = {}
    with ring.Traffic(lab, list(streams), rate_pps) as traffic:
        ring.pause(lab, REST_S)
        yield reports
        ring.pause(lab, REST_S)
        reports |= traffic.reports()


def assert_complete(reports: dict[str, dict[str, Any]]) -> None:
    """Each packet of each stream has come, once."""
    counted = {
        name: (report["lost"], report["duplicated"], report["dropped_by_socket"]) for name, report in reports.items()
    }
    assert counted == dict.fromkeys(reports, (0, 0, 0)), ring.figures(reports)

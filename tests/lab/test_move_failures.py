"""Whatever breaks at whatever step of a move: all converges by itself, one node has the router, and a retry succeeds.

        n1 --- n2       r1 moves between n1 and n2; h1 and h2 are on n3, so that no packet needs the target
          \\   /        before the others turn to it
           n3           every cell: a step that is held, what breaks then, numbered packets through r1 all the time,
                        half of them IPv4, half IPv6

A few cells that have every step and everything that breaks; `XENFLOW_SLOW=1` runs all of them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec
import pytest

from tests.lab import breaking, ring, tools
from tests.lab.breaking import ROUTER, Move
from tests.lab.conftest import LabFactory, own_name
from tests.lab.test_migration import figures, of_router
from xenflow.answers import Verified
from xenflow_lab import operator
from xenflow_lab.command import LabError, wait_until
from xenflow_lab.lab import Lab
from xenflow_server.command import Record, start_ticks

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

STATES = ("preparing", "installing", "moving", "resuming", "announcing", "re-pointing", "draining")
KILLED = ("client", "source server", "target server", "controller", "source vswitchd", "target vswitchd")
BREAKS = (*KILLED, "cut off", "abort")
BEFORE_THE_VM_HAS_MOVED = ("preparing", "installing", "moving")
AFTER_THE_OTHERS_TURN = ("re-pointing", "draining")
SAMPLE = [
    ("preparing", "target server"),
    ("installing", "abort"),
    ("installing", "source vswitchd"),
    ("moving", "source server"),
    ("resuming", "client"),
    ("announcing", "cut off"),
    ("re-pointing", "controller"),
    ("re-pointing", "cut off"),
    ("draining", "target vswitchd"),
]
CELLS = [(state, what) for state in STATES for what in BREAKS] if os.environ.get("XENFLOW_SLOW") else SAMPLE

ROUTES = 1_000
FLOWS = 4
"""By turns to the two addresses."""
FAR = ("fd00:2::10", "10.0.2.10")
RATE_PPS = 1_000
PORT = 5000
FREEZE_S = "0.5"
OUTAGE_S = 2.0
"""How long the target is cut off: longer than links need to be found dead."""
CONVERGE_S = 60.0
CLEAN_S = 10.0

TOPOLOGY = """
[lab]
name = "breaks"
[[network]]
name = "left"
vid = 10
[[network]]
name = "right"
vid = 20
[[node]]
name = "n1"
[[node]]
name = "n2"
[[node]]
name = "n3"
[[trunk]]
between = ["n1", "n2"]
[[trunk]]
between = ["n2", "n3"]
[[trunk]]
between = ["n3", "n1"]
[[router]]
name = "r1"
node = "n1"
interface = [
    { network = "left", addresses = ["10.0.1.1/24", "fd00:1::1/64"] },
    { network = "right", addresses = ["10.0.2.1/24", "fd00:2::1/64"] },
]
[[host]]
name = "h1"
node = "n3"
network = "left"
addresses = ["10.0.1.10/24", "fd00:1::10/64"]
gateways = ["10.0.1.1", "fd00:1::1"]
[[host]]
name = "h2"
node = "n3"
network = "right"
addresses = ["10.0.2.10/24", "fd00:2::10/64"]
gateways = ["10.0.2.1", "fd00:2::1"]
[server.hypervisor]
move = %s
"""


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    command = [sys.executable, "-m", "xenflow.cli.main", "lab", "move", "--freeze", FREEZE_S]
    made = make_lab(TOPOLOGY % [*command, "--name", own_name("breaks")], "breaks")
    made.wait_settled()
    batch = "".join(f"route add 10.{64 + n // 250}.{n % 250}.0/24 via 10.0.1.10\n" for n in range(ROUTES))
    made.run(ROUTER, ["ip", "-batch", "-"], stdin=batch, check=True)
    assert all(tools.answers(made, "h1", [*FAR]).values())
    made.wait_until(lambda: made.app_status().routers[0].routes > ROUTES, 20, "routes")
    return made


@pytest.fixture(autouse=True)
def _at_rest(lab: Lab) -> None:
    converge(lab)
    assert all(tools.answers(lab, "h1", [*FAR]).values())
    ring.wait_quiet(lab)


@contextmanager
def traffic(lab: Lab) -> Iterator[dict[str, Any]]:
    """Send while the block runs; what was counted is in the dictionary after it."""
    report: dict[str, Any] = {}
    v6, v4 = FAR
    to = ("--to", f"[{v6}]:{PORT}", "--to", f"[::ffff:{v4}]:{PORT}")
    words = (*to, "--ports", str(FLOWS), "--rate-pps", str(RATE_PPS), "--size", "64")
    with tools.start(lab, "h2", "receive", "--port", str(PORT), "--flows", str(FLOWS)) as receiver:
        with tools.begin(lab, "h1", "send", *words) as sender:
            ring.pause(lab, 0.3)
            yield report
            ring.pause(lab, 0.3)
            sent = sender.stop()["sent"]
        report |= receiver.end(10)
    assert sent == report["expected"]
    assert {family: len(flows) for family, flows in families(report).items()} == {"IPv4": 2, "IPv6": 2}


def families(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return what a receiver counted, flow by flow, by the family of their packets."""
    found: dict[str, list[dict[str, Any]]] = {"IPv4": [], "IPv6": []}
    for flow in report["flows"]:
        found["IPv6" if flow["source"].startswith("[") else "IPv4"].append(flow)
    return found


def counted(report: dict[str, Any]) -> str:
    """Return the figures on one line, and what was lost of each family."""
    lost = {family: sum(flow["lost"] for flow in flows) for family, flows in families(report).items()}
    return f"{figures(report)}; lost by family {lost}"


def when(report: dict[str, Any]) -> str:
    """Return the time of day of the last packet before the longest gap, as logs have it."""
    at_ns = max(report["flows"], key=lambda flow: flow["longest_gap_ns"])["longest_gap_at_ns"]
    return datetime.fromtimestamp(time.time() - (time.monotonic_ns() - at_ns) / 1e9).strftime("%H:%M:%S.%f")


def place(lab: Lab) -> str:
    return lab.plan.machines[ROUTER].node


def converge(lab: Lab) -> None:
    """Return once nothing is under way and everything is installed. Raises LabError."""

    def there() -> bool:
        if lab.awaited() or ring.links(lab) != 3 or breaking.is_carried(lab):
            return False
        return all(item.ended for item in breaking.migrations(lab)) and homes(lab) == {place(lab)}

    wait_until(there, CONVERGE_S, "a network at rest", 0.1)


def homes(lab: Lab) -> set[str]:
    return {router.node for router in lab.app_status().routers if router.name == ROUTER}


def left(lab: Lab, node: str) -> list[str]:
    """Return what a node that does not have the router has of it: flows, a definition, ports."""
    found = of_router(lab, node, ROUTER)
    handed = lab.paths.machine(node) / "xenflow" / "state" / "routers" / f"{ROUTER}.json"
    found += [str(handed)] if handed.exists() else []
    ports = {vif.port for vif in lab.plan.vifs if vif.machine == ROUTER}
    return found + sorted(ports & set(lab.vsctl(node, "list-ports", "xenbr0").split()))


def assert_clean(lab: Lab) -> float:
    """One node has the router, and nothing is left of it on the others; return how long that took, in seconds."""
    began, others = time.monotonic(), {"n1", "n2", "n3"} - {place(lab)}
    try:
        wait_until(lambda: not any(left(lab, node) for node in others), CLEAN_S, "a clean network", 0.1)
    except LabError:
        assert {node: left(lab, node) for node in others} == {node: [] for node in others}
    assert len(of_router(lab, place(lab), ROUTER)) > ROUTES
    verified = msgspec.json.decode(operator.ask(lab.app_socket, "verify"), type=list[Verified])
    assert [(item.node, item.differences, item.why) for item in verified] == [(n, [], "") for n in ("n1", "n2", "n3")]
    return time.monotonic() - began


def begin(lab: Lab) -> Move:
    source = place(lab)
    target = "n2" if source == "n1" else "n1"
    return Move(breaking.order(lab, target), source, target, "n3")


def may_lose(state: str, what: str) -> bool:
    """Tell whether it is what forwards that breaks: nobody can do its work meanwhile."""
    late = state in AFTER_THE_OTHERS_TURN
    return late if what in ("target vswitchd", "cut off") else what == "source vswitchd"


def break_it(lab: Lab, move: Move, state: str, what: str) -> None:
    if what == "abort":
        refused = breaking.abort(lab)
        assert ("too late to go back" in refused) == (state not in BEFORE_THE_VM_HAS_MOVED), refused
    elif what == "cut off":
        breaking.verify_neighbors(lab)  # the worst moment for it: it gives them up if its node reaches nobody
        with breaking.cut_off(lab, move.target):
            lab.wait_until(lambda: ring.links(lab) == 1, 10, "the loss of the target's links")
            ring.pause(lab, OUTAGE_S)
    else:
        breaking.kill(lab, move, what)


@pytest.mark.parametrize(("state", "what"), CELLS, ids=[f"{state}-{what}" for state, what in CELLS])
def test_what_breaks_at_a_step_is_outlived(
    lab: Lab, record_property: Callable[[str, object], None], state: str, what: str
) -> None:
    with traffic(lab) as report:
        source, target = place(lab), "n2" if place(lab) == "n1" else "n1"
        with breaking.hold(lab, state, source, target, "n3"):
            move = begin(lab)
            breaking.await_state(lab, move, state)
            began = time.monotonic()
            break_it(lab, move, state, what)
        converge(lab)
        end, took_s = place(lab), time.monotonic() - began
        clean_s = assert_clean(lab)
        again = begin(lab)
        lab.wait_until(lambda: breaking.migrations(lab, number=str(again.number))[0].ended, 30, "the end of the retry")
        (retried,) = breaking.migrations(lab, number=str(again.number))
        assert (retried.state, retried.error) == ("done", "")
    where = "target" if end == move.target else "source"
    print(f"\n{state}, {what}: on the {where} after {took_s:.1f} s, clean {clean_s:.1f} s later; {counted(report)}")
    if report["lost"]:
        print(f"the longest gap began at {when(report)}; the controller said meanwhile:")
        said = lab.process("controller", "controller").log_tail(1000).splitlines()
        print("\n".join(line for line in said if "channel" not in line))
    record_property("outlived", {"end": where, "seconds": took_s, "figures": counted(report)})
    assert report["duplicated"] == 0, counted(report)
    assert report["lost"] <= took_s * RATE_PPS * may_lose(state, what), counted(report)
    if what == "abort" and state != "moving":  # which may be over before the hypervisor's command hears of it
        assert (end == move.source) == (state in BEFORE_THE_VM_HAS_MOVED)
    assert_clean(lab)


def test_a_command_that_is_cancelled_while_its_server_is_dead(lab: Lab) -> None:
    """The hypervisor takes the router back, and the server's next run tells so."""
    with traffic(lab) as report:
        move = begin(lab)
        breaking.await_state(lab, move, "moving")
        server = lab.process("server", move.source)
        kept = lab.paths.machine(move.source) / "xenflow" / "state" / "moves" / f"{ROUTER}.json"
        command = msgspec.json.decode(kept.read_bytes(), type=Record)
        os.kill(command.pid, signal.SIGSTOP)
        server.kill()
        for number in (signal.SIGTERM, signal.SIGCONT):
            os.kill(command.pid, number)
        lab.wait_until(lambda: start_ticks(command.pid) != command.ticks, 20, "the end of the command")
        server.start()
        lab.wait_until(lambda: breaking.migrations(lab, number=str(move.number))[0].ended, 30, "the end of the move")
        converge(lab)
        assert_clean(lab)
    (ended,) = breaking.migrations(lab, number=str(move.number))
    print(f"\ncancelled: {ended.state} {ended.error}, on {place(lab)} of {move}; {counted(report)}")
    assert (ended.state, "cancelled" in ended.error, place(lab)) in [
        ("failed", True, move.source),
        ("done", False, move.target),  # it was too late
    ]
    assert (report["lost"], report["duplicated"]) == (0, 0), counted(report)
    assert not kept.exists()

"""Bandwidth end to end: what is hired is sure, what is idle is shared by hires, and nobody's fault costs others that.

The senders send more than the trunk carries. Rates are those of HTB's own counters; what must not be lost is numbered.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab import ring, tools
from tests.lab.conftest import LabFactory
from tests.lab.test_lab_itself import XENFLOW
from xenflow_lab import shares
from xenflow_lab.lab import Lab
from xenflow_lab.paths import lab_namespaces
from xenflow_lab.plan import CONTROLLER
from xenflow_lab.traffic.send import END_MARKERS

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

TOPOLOGY = Path(__file__).with_name("qos.toml")
NODE, PORT = "n1", "t-n2"
TARGETS = {"red": "10.1.2.10", "blue": "10.2.2.10", "green": "10.3.0.2"}
HIRED_MBPS = {"red": 20, "blue": 40, "green": 5}
GREEDY_MBPS = {"red": 50, "blue": 80, "green": 15}
"""More than any of them gets beside the others; no more than that, for the switches' sake."""
LARGE = "1472"
MEASURED_S = 4.0
KILLS = 24 if os.environ.get("XENFLOW_SLOW") == "1" else 4
KILLED = (("qos", NODE), ("server", NODE), ("controller", CONTROLLER), ("vswitchd", NODE))
SEED = 4
T_MED_S, K_MED = 0.5, 3
"""As in the topology."""

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    made = make_lab(TOPOLOGY, "qos")
    made.wait_settled()
    made.wait_until(lambda: bool(shares.queue_ids(made, NODE, PORT)), 20, "the queues of the trunk")
    for name, target in TARGETS.items():
        assert tools.answers(made, f"{name}-1", [target])[target]
    made.wait_until(lambda: adjacencies(made) is not None, 40, "the adjacencies of blue and peer")
    return made


@contextmanager
def greedy(lab: Lab, *tenants: str, **mbps: int) -> Iterator[None]:
    """Inside the block these tenants send more than there is, and the shares have settled."""
    with ExitStack() as stack:
        offered = {name: GREEDY_MBPS[name] for name in tenants} | mbps
        for name, rate in offered.items():
            words = ("--to", f"{TARGETS[name]}:5001", "--rate-bps", f"{rate}e6", "--size", LARGE, "--no-realtime")
            stack.enter_context(tools.begin(lab, f"{name}-1", "send", *words))
        lab.wait_until(lambda: offered.keys() <= waiting(lab), 20, f"backlogs of {list(offered)}")
        ring.pause(lab, (K_MED + 2) * T_MED_S)
        yield


def waiting(lab: Lab) -> set[str]:
    """Return the owners that have packets waiting at the trunk."""
    found = shares.read(lab, NODE, PORT).queues
    ids = shares.queue_ids(lab, NODE, PORT)
    return {owner for (owner, _), queue in ids.items() if queue in found and found[queue].waiting}


def rates_mbps(lab: Lab, seconds: float = MEASURED_S) -> dict[str, float]:
    """Return what each owner sends over the trunk for some time, control left out."""
    ids = shares.queue_ids(lab, NODE, PORT)
    before = shares.read(lab, NODE, PORT)
    ring.pause(lab, seconds)
    after = shares.read(lab, NODE, PORT)
    found: dict[str, float] = {}
    for (owner, name), queue in ids.items():
        if name != "control":
            found[owner] = found.get(owner, 0) + after.mbps_since(before, queue)
    return found


def assert_shared(rates: dict[str, float], *tenants: str) -> None:
    """Each has what it hired, and its part of all that was sent is its part of what was hired."""
    total, hired = sum(rates[name] for name in tenants), sum(HIRED_MBPS[name] for name in tenants)
    for name in tenants:
        assert rates[name] >= HIRED_MBPS[name] * 0.99, rates
        assert rates[name] / total == pytest.approx(HIRED_MBPS[name] / hired, rel=0.04), rates


def adjacencies(lab: Lab) -> tuple[int, int] | None:
    """Return since when blue has its OSPF neighbor (in its own ms), and how often its BGP session came up."""
    shown = lab.run("blue", ["vtysh", "-c", "show ip ospf neighbor detail json", "-c", "show bgp neighbors json"])
    try:
        decoder = json.JSONDecoder()
        ospf, end = decoder.raw_decode(shown.stdout.lstrip())
        bgp, _ = decoder.raw_decode(shown.stdout.lstrip()[end:].lstrip())
        ((peer,),) = (found for found in ospf["neighbors"].values()) if "neighbors" in ospf else ospf.values()
        session = bgp["10.2.2.3"]
    except (ValueError, KeyError):
        return None
    if not peer["nbrState"].startswith("Full") or session["bgpState"] != "Established":
        return None
    return peer["stateChangeCounter"], session["connectionsEstablished"]


# -- who gets what ---------------------------------------------------------------------------------------------------


def test_what_is_idle_goes_by_hires_and_costs_no_adjacency(lab: Lab, record_property: Record) -> None:
    before = adjacencies(lab)
    with greedy(lab, "red", "blue"):
        rates = rates_mbps(lab, 6)
        after = adjacencies(lab)
    print(f"\nred, blue: {rates}")
    record_property("rates_mbps", rates)
    assert_shared(rates, "red", "blue")
    ids, found = shares.queue_ids(lab, NODE, PORT), shares.read(lab, NODE, PORT).queues
    assert found[ids["blue", "control"]].dropped == 0
    assert found[ids["blue", ""]].dropped > 0
    assert before == after is not None


def test_bridged_traffic_has_the_queue_of_its_network(lab: Lab) -> None:
    with greedy(lab, "red", "blue", "green"):
        rates = rates_mbps(lab)
    print(f"\nred, blue, green: {rates}")
    assert_shared(rates, "red", "blue", "green")


def test_one_alone_gets_the_link_whatever_looks_like_a_routing_protocol(lab: Lab) -> None:
    """Green floods the port of RIP: that is control traffic, and goes before all others, but not far."""
    flood = ("--to", "10.3.0.2:520", "--rate-bps", "10e6", "--size", LARGE, "--no-realtime")
    control = shares.queue_ids(lab, NODE, PORT)["green", "control"]
    with tools.begin(lab, "green-1", "send", *flood), greedy(lab, red=110):
        before = shares.read(lab, NODE, PORT)
        rates = rates_mbps(lab)
        flooded = shares.read(lab, NODE, PORT).mbps_since(before, control)
    print(f"\nred alone: {rates}; control of green: {flooded}")
    assert rates["red"] > HIRED_MBPS["red"] * 3
    assert rates["blue"] + rates["green"] < 1
    assert 0.1 < flooded < 1.2


def test_voice_loses_nothing_beside_bulk_of_its_own_router(lab: Lab, record_property: Record) -> None:
    """Small packets and datagrams in three fragments go by their DSCP. Where a class asks for ports, fragments of which
    only the first has them are not in it, not one: those to the ports of video go with the bulk.
    """
    before = shares.read(lab, NODE, PORT)
    with ExitStack() as stack:
        receivers = {
            port: stack.enter_context(tools.start(lab, "red-2", "receive", "--port", port))
            for port in ("6001", "6002", "6003")
        }
        stack.enter_context(greedy(lab, "blue", "red"))
        senders = [
            stack.enter_context(tools.begin(lab, "red-1", "send", "--to", f"{TARGETS['red']}:{port}", *words))
            for port, words in (
                ("6001", ("--size", "160", "--rate-bps", "0.8e6", "--dscp", "46")),
                ("6002", ("--size", "4000", "--rate-bps", "0.8e6", "--dscp", "46")),
                ("6003", ("--size", "160", "--rate-bps", "0.4e6")),
                ("6004", ("--size", "4000", "--rate-bps", "0.8e6")),
            )
        ]
        ring.pause(lab, 5)
        sent = [sender.stop()["sent"] for sender in senders]
        reports = {port: receiver.end(5) for port, receiver in receivers.items()}
    ids, after = shares.queue_ids(lab, NODE, PORT), shares.read(lab, NODE, PORT)
    voice, video, bulk = (ids["red", name] for name in ("voice", "video", ""))
    delays_ms = {port: report["flows"][0]["delay_ns"]["p99"] / 1e6 for port, report in reports.items()}
    print(f"\nvoice: p99 of the delay {delays_ms} ms")
    record_property("voice_delay_ms", delays_ms)
    assert [report["received"] for report in reports.values()] == sent[:3]
    assert sent[3] > 0
    assert after.queues[voice].dropped == before.queues[voice].dropped
    assert after.queues[video].packets - before.queues[video].packets == sent[2] + END_MARKERS
    assert after.queues[voice].packets - before.queues[voice].packets >= sent[0] + 3 * sent[1]
    assert after.queues[bulk].dropped > before.queues[bulk].dropped


# -- who is refused --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_and_shown(lab: Lab) -> None:
    app = ("--app", f"unix:{lab.app_socket}")
    shown = lab.run(CONTROLLER, [*XENFLOW, "qos", *app])
    assert shown.returncode == 1, shown
    assert "NOT GUARANTEED  router surplus: 60 Mbit/s do not fit link n1:t-n2: 65 Mbit/s of 100 Mbit/s" in shown.stdout
    refused = [item.text for item in lab.app_status().refused]
    assert any("router surplus: its rate is not guaranteed" in reason for reason in refused), refused
    assert ("surplus", "") not in shares.queue_ids(lab, NODE, PORT)
    explained = lab.run(CONTROLLER, [*XENFLOW, "qos", *app, "explain", f"{NODE}:{PORT}"], check=True).stdout
    assert "policy work-conserving" in explained
    assert "level 1" in explained


def test_another_hire_while_it_runs_leaves_the_others_alone(lab: Lab) -> None:
    """Twice as much for red, then nonsense (refused as a whole), then what it was."""
    path = lab.paths.machine(NODE) / "xenflow" / "definitions.d" / "lab.toml"
    kept = path.read_text()
    ids = shares.queue_ids(lab, NODE, PORT)
    with greedy(lab, "red", "blue"):
        before = shares.read(lab, NODE, PORT)
        try:
            for rate, hired in (("30Mbit", 30), ("NaN", 30), ("-1Mbit", 30), ("0bit", 30), ("1Mbit", 30), (None, 20)):
                path.write_text(kept.replace('rate = "20Mbit"', f'rate = "{rate}"') if rate else kept)
                lab.process("server", NODE).signal(signal.SIGHUP)
                lab.wait_until(lambda h=hired: hired_mbps(lab, "red") == h, 10, f"red's hire of {hired}")  # type: ignore[misc]
        finally:
            path.write_text(kept)
        after = shares.read(lab, NODE, PORT)
    assert shares.queue_ids(lab, NODE, PORT) == ids
    for queue in ids.values():
        assert after.queues[queue].packets >= before.queues[queue].packets, "a class was made anew"
    assert hired_mbps(lab, "blue") == HIRED_MBPS["blue"]


def hired_mbps(lab: Lab, owner: str) -> float:
    """Return what an owner has hired on the trunk in sum, as its queues have it."""
    (link,) = (link for link in shares.shares(lab).nodes[NODE].links if link.port == PORT)
    return sum(queue.hired for queue in link.queues if queue.owner == owner and not queue.control) / 1e6


# -- kills -----------------------------------------------------------------------------------------------------------


def left_in(lab: Lab) -> dict[str, Any]:
    """Return what stays of queues in database and kernel: rows, classes, filters."""
    rows = {table: lab.vsctl(NODE, "--columns=external_ids", "list", table).split("\n") for table in ("QoS", "Queue")}
    filters = lab.run(NODE, ["tc", "filter", "show", "dev", PORT], check=True).stdout.splitlines()
    return {
        **{table: sorted(line for line in lines if line) for table, lines in rows.items()},
        "classes": sorted(shares.read(lab, NODE, PORT).queues),
        "filters": sum("flowid" in line or "bpf" in line for line in filters),
    }


def the_kills() -> list[tuple[str, str]]:
    if len(KILLED) == KILLS:
        return list(KILLED)
    return random.Random(SEED).choices(KILLED, k=KILLS)


def test_kills_under_load_cost_no_guarantee(lab: Lab, record_property: Record) -> None:
    """Red sends less than it hired, blue all it can. Only the switch's own death is felt, until it is back.

    What full sockets of switches lose on a busy machine, before any queue, is told apart.
    """
    at_first = left_in(lab)
    with greedy(lab, "blue"):
        for number, (role, who) in enumerate(the_kills()):
            felt = role == "vswitchd"
            report, restart_s = kept_sending(lab, role, who, str(6100 + number))
            lost_s = report["longest_gap_ns"] / 1e9
            told = summary(report)
            print(f"\n{role}: back after {restart_s:.2f} s, {told}")
            record_property(f"{number} {role}", (report["lost"], round(lost_s, 2), round(restart_s, 2)))
            record_property(f"{number} {role} in full", told)
            assert felt or report["dropped"] == 0, told
            assert felt or report["lost"] == 0, told
            assert lost_s <= restart_s + 1 or not felt
    lab.wait_until(lambda: left_in(lab) == at_first, 20, f"the same rows, classes and filters as {at_first}")


def kept_sending(lab: Lab, role: str, who: str, port: str) -> tuple[dict[str, Any], float]:
    """Kill a process while red sends; return what red's receiver counted, and for how long it was not back."""
    words = ("--to", f"{TARGETS['red']}:{port}", "--rate-bps", "14e6", "--size", LARGE)
    before, dropped = overflowed(lab), dropped_of(lab, "red")
    with tools.start(lab, "red-2", "receive", "--port", port) as receiver:
        with tools.begin(lab, "red-1", "send", *words) as sender:
            ring.pause(lab, 0.5)
            process = lab.process(role, who)
            began = time.monotonic()
            process.kill()
            process.start()
            lab.wait_until(lambda: not lab.awaited() and in_order(lab), 40, f"all in order after the kill of {role}")
            restart_s = time.monotonic() - began
            ring.pause(lab, 1)
            sent = sender.stop()
        report = receiver.end(5)
    report["lost"] = sent["sent"] - report["received"]
    report |= {"killed_ns": int(began * 1e9), "late_ns": sent["late_ns"], "blocked": sent["blocked"]}
    report["overflowed"] = overflowed(lab) - before
    report["dropped"] = dropped_of(lab, "red") - dropped
    return report, restart_s


def summary(report: dict[str, Any]) -> str:
    """Return what tells whose loss it is: the queues', full sockets', the receiver's, or a sender's that was late."""
    lines = [
        f"lost {report['lost']}: dropped by red's queues {report['dropped']}, by full sockets of switches"
        f" {report['overflowed']}, by the receiver's {report['dropped_by_socket']}; late {report['late_ns']} ns,"
        f" blocked {report['blocked']} times"
    ]
    for flow in report["flows"]:
        after_s = (flow["longest_gap_at_ns"] - report["killed_ns"]) / 1e9
        lines.append(
            f"lost {flow['lost']}, longest loss {flow['longest_loss']} on end,"
            f" longest gap {flow['longest_gap_ns'] / 1e6:.1f} ms, {after_s:+.3f} s from the kill"
        )
    return "; ".join(lines)


def overflowed(lab: Lab) -> int:
    """Return how many frames the full sockets of switches have cost."""
    texts = [lab.run(node, ["ss", "-0", "-n", "-m"], check=True).stdout for node in ("n1", "n2")]
    return sum(int(count) for text in texts for count in re.findall(r",d(\d+)\)", text))


def dropped_of(lab: Lab, owner: str) -> int:
    """Return how many frames an owner's queues have dropped."""
    found = shares.read(lab, NODE, PORT).queues
    return sum(found[queue].dropped for (who, _), queue in shares.queue_ids(lab, NODE, PORT).items() if who == owner)


def in_order(lab: Lab) -> bool:
    """Tell whether the trunk is shaped, with nobody silent."""
    answer = shares.shares(lab)
    return not answer.silent and all(link.state == "shaped" for node in answer.nodes.values() for link in node.links)


def test_nothing_is_left(lab: Lab) -> None:
    """The last test of the module: queues hold nothing up when the lab goes."""
    lab.down()
    assert lab_namespaces(lab.name) == []
    assert not lab.paths.state.exists()

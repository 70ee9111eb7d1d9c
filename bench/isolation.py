"""The paper's figure 4(b) and (c): VN 1 sends 30 Mb/s and VN 2 50 Mb/s to the same address; what VN 2's machine gets.

Without isolation both bridges are plain switches (NORMAL); with isolation they belong to XenFlow. The sender of VN 1
knows the receiver's MAC, so its frames are addressed to it in either case. Rates count IP packets of 1500 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from bench import network
from bench.agent import SINK_PORT, Agent
from xenflow_lab.lab import Lab
from xenflow_lab.traffic import launch

PACKET_BYTES = 1500
HEADERS_BYTES = 28
"""IPv4 and UDP."""
SENT_MBPS = {"vn1": 30.0, "vn2": 50.0}
SECONDS = 5
INTERVAL_S = 1.0
LONGEST_S = 30
"""After this a sender ends by itself."""
WITHOUT, WITH = "without isolation", "with isolation"
SENDERS = {"vn1": "vn1-sender", "vn2": "vn2-sender"}
RECEIVER, RECEIVER_ADDRESS, SENDER_ADDRESS = "vn2-receiver", "10.0.0.2", "10.0.0.1"
SERIES = ("VN 1 sends", "VN 2 sends", "VN 2 receives")
PAPER_MBPS = {
    case: dict(zip(SERIES, (30.0, 50.0, received), strict=True)) for case, received in ((WITHOUT, 80.0), (WITH, 50.0))
}


@dataclass(frozen=True, slots=True)
class Round:
    """One round: Mb/s of each series in each interval, and how many frames of VN 1 were seen leaving and arriving."""

    case: str
    rates_mbps: dict[str, list[float]]
    vn1_left: int
    vn1_arrived: int


def measure(rounds: int) -> list[Round]:
    """Return all rounds of both cases."""
    found = []
    for case in (WITHOUT, WITH):
        print(f"  figure 4({'b' if case == WITHOUT else 'c'}): {case} …", flush=True)
        with _network(case) as lab, Agent(lab, "n1") as router1, Agent(lab, RECEIVER) as receiver:
            receiver.ask("sink")
            found += [_round(case, lab, router1, receiver) for _ in range(rounds)]
    return found


@contextmanager
def _network(case: str) -> Iterator[Lab]:
    with network.lab_of(network.topology("isolation"), with_xenflow=case == WITH) as lab:
        if case == WITHOUT:
            for node in ("n1", "n2"):
                lab.ofctl(node, "add-flow", "actions=NORMAL")
        for sender in SENDERS.values():
            network.set_neighbor(lab, sender, RECEIVER_ADDRESS, network.vif(lab, RECEIVER).interface.mac)
        network.set_neighbor(lab, RECEIVER, SENDER_ADDRESS, network.vif(lab, SENDERS["vn2"]).interface.mac)
        lab.wait_until(
            lambda: lab.run(SENDERS["vn2"], ["ping", "-q", "-c1", "-W1", RECEIVER_ADDRESS]).returncode == 0,
            60,
            "traffic in VN 2",
        )
        yield lab


def _round(case: str, lab: Lab, router1: Agent, receiver: Agent) -> Round:
    ports = [network.vif(lab, machine).port for machine in SENDERS.values()]
    with _capture(lab, SENDERS["vn1"]) as leaving, _capture(lab, RECEIVER) as arriving, ExitStack() as stack:
        senders = [stack.enter_context(_send(lab, tenant)) for tenant in SENDERS]
        lab.wait_until(partial(_all_send, router1, ports), what="both senders at their rates")
        router1.tell("rates", devices=ports, seconds=SECONDS, interval_s=INTERVAL_S)
        receiver.tell("rates", devices=["eth0"], seconds=SECONDS, interval_s=INTERVAL_S)
        rates_pps = [*router1.answer(), *receiver.answer()]
        for sender in senders:
            sender.stop()
        left = leaving.stop()["interfaces"]["eth0"]["sent"]["markers"]
        arrived = arriving.stop()["interfaces"]["eth0"]["received"]["markers"]
    rates_mbps = [[rate * PACKET_BYTES * 8 / 1e6 for rate in one] for one in rates_pps]
    by_series = dict(zip(SERIES, rates_mbps, strict=True))
    return Round(case, by_series, left.get("vn1", 0), arrived.get("vn1", 0))


def _all_send(router1: Agent, ports: list[str]) -> bool:
    """Tell whether frames come in at all ports at about the rates that were asked for."""
    rates_pps = router1.ask("rates", devices=ports, seconds=0.3, interval_s=0.3)
    return all(rate > 0.9 * _pps(tenant) for (rate,), tenant in zip(rates_pps, SENDERS, strict=True))


def _pps(tenant: str) -> float:
    return SENT_MBPS[tenant] * 1e6 / (PACKET_BYTES * 8)


def _capture(lab: Lab, who: str) -> launch.Tool:
    return launch.start("capture", "--interface", "eth0", prefix=lab.enter_argv(who, []))


def _send(lab: Lab, tenant: str) -> launch.Tool:
    """Start a sender; it goes on until it is stopped."""
    plan = ["--rate-pps", f"{_pps(tenant)}", "--size", f"{PACKET_BYTES - HEADERS_BYTES}", "--duration", f"{LONGEST_S}"]
    to = ["--to", f"{RECEIVER_ADDRESS}:{SINK_PORT}", "--tenant", tenant]
    return launch.start("send", *to, *plan, prefix=lab.enter_argv(SENDERS[tenant], []), ready=False)

"""Scene: both tenants use the same addresses at the same time and never meet, forged frames included."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from rich.text import Text

from xenflow_lab import forgeries, stations
from xenflow_lab.demo.page import Page, number
from xenflow_lab.demo.reach import TENANTS
from xenflow_lab.lab import Lab
from xenflow_lab.plan import Kind
from xenflow_lab.traffic.launch import Tool

PORT: Final = 7000
PACKETS: Final = 2000
"""Of each tenant and family, to its h2 and h3 in turn."""
RATE_PPS: Final = 1000
FORGED: Final = 10
"""Frames of each kind."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a tenant sent and its hosts received."""

    sent: int
    received: int
    lost: int
    duplicated: int

    @property
    def is_whole(self) -> bool:
        """Whether everything arrived once."""
        return self.sent > 0 and self.received == self.sent and not self.lost and not self.duplicated


def isolate(page: Page, lab: Lab) -> None:
    """Send, forge, and count at every host and router what does not belong there."""
    page.section("Equal addresses never meet", "both tenants send to 10.0.2.10, .11 and fd00:0:0:2::10, ::11 at once")
    machines = [machine.name for machine in lab.plan.of_kind(Kind.HOST, Kind.ROUTER)]
    with ExitStack() as stack:
        with page.step("captures at all hosts and routers", quiet=True):
            captures = {who: stack.enter_context(_capture(lab, who)) for who in machines}
        with page.step("numbered packets of both tenants at the same time", quiet=True):
            exchanges = exchange(lab)
        with page.step("forged frames", quiet=True) as step:
            forged = 0
            for kind, arguments in forgeries.forgeries(lab).items():
                step.detail = kind
                forged += forge(lab, arguments)
        seen = {who: tool.stop() for who, tool in captures.items()}
    _show(page, lab, exchanges, seen)
    page.text(
        f"red-h1 has also sent {forged} forged frames of {forged // FORGED} kinds: tags of its own network, of blue's, "
        "two at once, others' MAC and IP addresses, ARP and ND claims to be the gateway, the reserved address",
        "dim",
    )
    whole = all(exchange.is_whole for exchange in exchanges.values())
    sent = sum(exchange.sent for exchange in exchanges.values())
    page.check("delivery", whole, f"{number(sent)} packets sent, each received once, by its own tenant")
    foreign = sum(report["foreign"] for report in seen.values())
    missed = sum(report["missed"] for report in seen.values())
    left = _marks(seen["red-h1"], "sent").get("intruder", 0)
    words = f"{foreign} foreign frames at {len(seen)} machines; {left} forged ones were seen leaving red-h1"
    if missed:
        words += f"; {missed} frames came too fast to be looked at"
    page.check("isolation", foreign == 0 and missed == 0 and left >= forged - FORGED, words)


def _capture(lab: Lab, who: str) -> Tool:
    tenant = who.partition("-")[0]
    arguments = ["--tenant", tenant]
    interfaces = [vif.interface.device for vif in lab.plan.vifs if vif.machine == who]
    for interface in interfaces:
        arguments += ["--interface", interface]
    if who in stations.hosts(lab):
        for mac in stations.macs(lab, tenant):
            arguments += ["--mac", mac]
    return stations.start(lab, who, "capture", *arguments)


def exchange(lab: Lab) -> dict[str, Exchange]:
    """Let both tenants send to the same addresses at the same time."""
    with ExitStack() as stack:
        receivers = {
            who: stack.enter_context(stations.start(lab, who, "receive", "--port", str(PORT), "--flows", "2"))
            for who in stations.hosts(lab)
            if not who.endswith("h1")
        }
        senders = {
            (tenant, family): stack.enter_context(
                stations.begin(lab, f"{tenant}-h1", "send", *_what(lab, tenant, family))
            )
            for tenant in TENANTS
            for family in (0, 1)
        }
        sent = {key: tool.result()["sent"] for key, tool in senders.items()}
        received = {who: tool.result() for who, tool in receivers.items()}
    return {tenant: _sum(tenant, sent, received) for tenant in TENANTS}


def _what(lab: Lab, tenant: str, family: int) -> list[str]:
    """Return the arguments of `send`: to all hosts but the first, by one family."""
    targets = [stations.addresses(lab, who)[family] for who in stations.hosts(lab, tenant)[1:]]
    words = ["--tenant", tenant, "--rate-pps", str(RATE_PPS), "--count", str(PACKETS), "--size", "100"]
    for target in targets:
        words += ["--to", f"[{target}]:{PORT}" if ":" in target else f"{target}:{PORT}"]
    return words


def _sum(tenant: str, sent: dict[tuple[str, int], int], received: dict[str, dict[str, Any]]) -> Exchange:
    reports = [report for who, report in received.items() if who.startswith(tenant)]
    total = sum(count for (sender, _), count in sent.items() if sender == tenant)
    return Exchange(total, *(sum(report[key] for report in reports) for key in ("received", "lost", "duplicated")))


def forge(lab: Lab, arguments: list[str]) -> int:
    """Let red-h1 send forged frames of one kind; return how many."""
    words = ("--interface", "eth0", "--count", str(FORGED), "--rate-pps", "500", *arguments)
    return int(stations.run(lab, "red-h1", "inject", *words)["sent"])


def _show(page: Page, lab: Lab, exchanges: dict[str, Exchange], seen: dict[str, dict[str, Any]]) -> None:
    hosts = stations.hosts(lab)
    rows: list[list[str | Text]] = []
    for tenant in TENANTS:
        counts = {who: _marks(seen[who], "received").get(tenant, 0) for who in hosts}
        cells = [_cell(count, who.startswith(tenant)) for who, count in counts.items()]
        rows.append([f"frames of {tenant}", *cells])
    forged = [_cell(_marks(seen[who], "received").get("intruder", 0), False) for who in hosts]
    rows.append(["forged frames", *forged])
    rows.append(["any foreign frame", *(_cell(seen[who]["foreign"], False) for who in hosts)])
    page.table(["seen at", *hosts], rows, right=range(1, len(hosts) + 1))


def _cell(count: int, is_own: bool) -> Text:
    if is_own:
        return Text(number(count), "green" if count else "dim")
    return Text(str(count), "green" if count == 0 else "bold red")


def _marks(report: dict[str, Any], way: str) -> dict[str, int]:
    """Return the frames by marker of all interfaces that were captured."""
    total: dict[str, int] = {}
    for interface in report["interfaces"].values():
        for tenant, count in interface[way]["markers"].items():
            total[tenant] = total.get(tenant, 0) + count
    return total

"""Scene: everybody of a tenant reaches everybody, and traceroute shows each virtual router on the way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.text import Text

from xenflow_lab import stations
from xenflow_lab.demo.page import Page
from xenflow_lab.lab import Lab

TENANTS = ("red", "blue")
PINGS = 3
_PARALLEL = 6


@dataclass(frozen=True, slots=True)
class Pinged:
    """What `ping` found: how many of its packets were answered, and the least time (ms)."""

    answered: int
    best_ms: float


def ping(lab: Lab, who: str, target: str) -> Pinged:
    """Ping a target a few times."""
    text = lab.run(who, ["ping", "-n", "-q", f"-c{PINGS}", "-i0.2", "-W2", target]).stdout
    answered = re.search(r"(\d+) received", text)
    best = re.search(r"= ([\d.]+)/", text)
    return Pinged(int(answered[1]) if answered else 0, float(best[1]) if best else 0.0)


def matrix(page: Page, lab: Lab) -> None:
    """Ping every address of every other host of the same tenant."""
    page.section("Everybody of a tenant reaches everybody", "round trip in ms, IPv4 / IPv6")
    pairs = [
        (a, b) for tenant in TENANTS for a in stations.hosts(lab, tenant) for b in stations.hosts(lab, tenant) if a != b
    ]
    asked = [(who, other, target) for who, other in pairs for target in stations.addresses(lab, other)]
    with page.step("ping", quiet=True), ThreadPoolExecutor(_PARALLEL) as pool:
        found = dict(zip(asked, pool.map(lambda it: ping(lab, it[0], it[2]), asked), strict=True))
    for tenant in TENANTS:
        names = stations.hosts(lab, tenant)
        rows: list[list[str | Text]] = [
            [
                who,
                *(
                    _cell([found[who, other, t] for t in stations.addresses(lab, other)] if who != other else [])
                    for other in names
                ),
            ]
            for who in names
        ]
        page.table([f"{tenant}: from \\ to", *names], rows)
        page.text("")
    complete = sum(result.answered == PINGS for result in found.values())
    page.check("ping matrix", complete == len(asked), f"{complete} of {len(asked)} ways: every ping is answered")


def _cell(results: Sequence[Pinged]) -> Text:
    if not results:
        return Text("-", "dim")
    words = " / ".join(f"{it.best_ms:.2f}" if it.answered == PINGS else f"{it.answered} of {PINGS}" for it in results)
    return Text(words, "green" if all(it.answered == PINGS for it in results) else "bold red")


def traceroute(page: Page, lab: Lab) -> None:
    """Show the way from red-h1 to red-h2: two virtual routers answer, from their own addresses."""
    page.section("Each virtual router is a hop", "traceroute from red-h1 to red-h2")
    owners = {
        address: vif.machine
        for vif in lab.plan.vifs
        if vif.machine.startswith("red")
        for address in _bare(vif.interface.addresses)
    }
    places = {vif.machine: vif.node for vif in lab.plan.vifs}
    expected = [_on("red-r1", "red-lan1", lab), _on("red-r2", "red-core", lab), _on("red-h2", "red-lan2", lab)]
    with page.step("traceroute", quiet=True):
        seen = [hops(lab, "red-h1", target) for target in expected[-1]]
    rows = []
    for position in range(max(len(hops) for hops in seen)):
        at = [hops[position] if position < len(hops) else "*" for hops in seen]
        machine = owners.get(at[0], "?")
        rows.append([str(position + 1), *at, f"{machine} on {places.get(machine, '?')}"])
    page.table(["hop", "IPv4", "IPv6", "who"], rows)
    right = seen == [list(column) for column in zip(*expected, strict=True)]
    page.check("traceroute", right, "red-r1, red-r2 and red-h2 answer, in this order, by IPv4 and IPv6")


def hops(lab: Lab, who: str, target: str) -> list[str]:
    """Return the address of each hop, "*" for one that is silent."""
    text = lab.run(who, ["traceroute", "-n", "-q1", "-w2", "-m8", target]).stdout
    return re.findall(r"^ *\d+ +(\S+)", text, re.M)


def _on(machine: str, network: str, lab: Lab) -> list[str]:
    vif = next(vif for vif in lab.plan.vifs if vif.machine == machine and vif.network == network)
    return _bare(vif.interface.addresses)


def _bare(addresses: Sequence[str]) -> list[str]:
    return [address.partition("/")[0] for address in addresses]

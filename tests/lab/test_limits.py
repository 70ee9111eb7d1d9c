"""More routes than a cap allows: what has no flow goes to the VM, all arrives, nothing by a shorter prefix.

Each cap alone (client, server, app), 1,000 of 5,000 routes that overlap: each prefix lies within a shorter one whose
next hop is the other host, so a packet that followed a shorter prefix would arrive at the wrong host.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab import tools
from tests.lab.conftest import LabFactory
from xenflow_lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

CAP, ROUTES, CONNECTED = 1000, 5000, 6
GATEWAYS = {("near", 4): "10.0.2.10", ("near", 6): "fd00:2::10", ("far", 4): "10.0.3.10", ("far", 6): "fd00:3::10"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A route, the host that it leads to, and a destination that no longer prefix covers."""

    prefix: str
    host: str
    probe: str

    @property
    def family(self) -> int:
        return 6 if ":" in self.prefix else 4


def table() -> list[Entry]:
    """5,000 routes of seven lengths, each length to the other host than the one around it."""
    found = []
    for high in range(64, 104):
        found.append(Entry(f"10.{high}.0.0/16", "far", f"10.{high}.255.1"))
        for low in range(50):
            found.append(Entry(f"10.{high}.{low}.0/24", "near", f"10.{high}.{low}.200"))
            found.append(Entry(f"10.{high}.{low}.16/28", "far", f"10.{high}.{low}.18"))
        found += [Entry(f"10.{high}.{low}.17/32", "near", f"10.{high}.{low}.17") for low in range(10)]
    for high in range(16, 26):
        found.append(Entry(f"fd10:{high}::/32", "far", f"fd10:{high}:ffff::1"))
        found += [Entry(f"fd10:{high}:{low}::/48", "near", f"fd10:{high}:{low}::1") for low in range(1, 26)]
        found += [Entry(f"fd10:{high}:{low}:1::/64", "far", f"fd10:{high}:{low}:1::1") for low in range(1, 31)]
    return found


def batch(lab: Lab, router: str, verb: str, entries: list[Entry]) -> None:
    """Add or delete routes in the router's kernel, all by one command for each family."""
    for family in (4, 6):
        lines = [
            f"route {verb} {item.prefix} via {GATEWAYS[item.host, family]}"
            for item in entries
            if item.family == family
        ]  # fmt: skip
        lab.run(router, ["ip", f"-{family}", "-batch", "-"], stdin="\n".join(lines) + "\n", check=True)


def shown(lab: Lab, *words: str) -> Any:
    """What a command for people shows, as JSON."""
    argv = [sys.executable, "-m", "xenflow.cli.main", *words, "--app", f"unix:{lab.app_socket}", "--json"]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def status(lab: Lab, router: str) -> dict[str, Any]:
    (found,) = [item for item in shown(lab, "routers", router) if item["name"] == router]
    return dict(found)


def wildcard_packets(lab: Lab, router: str) -> int:
    """The packets that had no flow of their own, by the switch's own counter of the router's wildcard flow."""
    rows = shown(lab, "flows", "n1", "--router", router, "--table", "30", "--limit", "0")["rows"]
    (text,) = [row["text"] for row in rows if row["priority"] == 1]
    number = text.split("reg2=")[1].split()[0]
    dumped = lab.ofctl("n1", "dump-flows", f"table=30,reg2={number}")
    (line,) = [line for line in dumped.splitlines() if "priority=1," in line]
    return int(line.split("n_packets=")[1].split(",")[0])


def kept(lab: Lab, router: str) -> set[str]:
    """The prefixes that have a flow of their own, as `xenflow routes` shows them."""
    rows = shown(lab, "routes", router, "--limit", "0")["rows"]
    return {row["prefix"] for row in rows if row["state"] == "installed"}


def send_to_all(lab: Lab, entries: list[Entry], rounds: int, rate_pps: int) -> None:
    """Send numbered packets to every destination; each arrives once, at the host where the whole table sends it."""
    with ExitStack() as stack:
        receivers, senders, sizes = [], [], []
        for port, (host, family) in enumerate(GATEWAYS, 7000):
            probes = [item.probe for item in entries if (item.host, item.family) == (host, family)]
            where = [f"[{probe}]:{port}" if family == 6 else f"{probe}:{port}" for probe in probes]
            sizes.append(len(probes))
            receiver = tools.start(lab, host, "receive", "--port", str(port), "--flows", str(len(probes)))
            receivers.append(stack.enter_context(receiver))
            rate = max(rate_pps * len(probes) // len(entries), 1)
            words = [word for each in where for word in ("--to", each)]
            words += ["--rate-pps", str(rate), "--count", str(rounds * len(probes))]
            senders.append(stack.enter_context(tools.begin(lab, "h1", "send", *words)))
        assert [sender.result()["sent"] for sender in senders] == [rounds * size for size in sizes]
        reports = [receiver.end(10) for receiver in receivers]  # what was lost is told below
    for size, report in zip(sizes, reports, strict=True):
        counts = {key: report[key] for key in ("received", "lost", "duplicated", "foreign", "dropped_by_socket")}
        assert counts == {"received": rounds * size, "lost": 0, "duplicated": 0, "foreign": 0, "dropped_by_socket": 0}
        assert len(report["flows"]) == size


@pytest.fixture(scope="module")
def caps(make_lab: LabFactory) -> Lab:
    lab = make_lab(Path(__file__).parent / "caps.toml", "caps")
    for host in ("near", "far"):
        lab.run(host, ["ip", "route", "add", "local", "10.64.0.0/10", "dev", "lo"], check=True)
        lab.run(host, ["ip", "-6", "route", "add", "local", "fd10::/16", "dev", "lo"], check=True)
    lab.wait_settled()
    return lab


def by_way_of(lab: Lab, router: str) -> None:
    """Let all that h1 sends go through `router`."""
    for vif in lab.plan.vifs:
        if vif.machine == router and vif.network == "left":
            for address in vif.interface.addresses:
                family = "-6" if ":" in address else "-4"
                gateway = address.partition("/")[0]
                lab.run("h1", ["ip", family, "route", "replace", "default", "via", gateway], check=True)
                lab.run("h1", ["ping", "-c1", "-W2", gateway], check=True)


@pytest.mark.parametrize("router", ["by-client", "by-server", "by-app"])
def test_what_a_cap_leaves_out_goes_to_the_vm(caps: Lab, router: str) -> None:
    lab, entries = caps, table()
    assert len(entries) == ROUTES
    by_way_of(lab, router)
    batch(lab, router, "add", entries)
    count, where = ROUTES + CONNECTED - CAP, "shed_here" if router == "by-app" else "shed_reported"
    lab.wait_until(lambda: status(lab, router)[where] == count, 20, f"{count} routes shed")
    lab.wait_settled()
    found = status(lab, router)
    assert found["shed_here"] + found["shed_reported"] == count
    assert found["routes"] == (ROUTES + CONNECTED if router == "by-app" else CAP)
    flows = kept(lab, router)
    assert len(flows) == CAP
    lengths = {item.prefix: int(item.prefix.split("/")[1]) for item in entries}
    assert min(lengths[prefix] for prefix in flows if prefix in lengths) >= max(
        length for prefix, length in lengths.items() if prefix not in flows
    )
    before = wildcard_packets(lab, router)
    send_to_all(lab, entries, rounds=2, rate_pps=1500)
    shed = sum(item.prefix not in flows for item in entries)
    lab.wait_until(lambda: wildcard_packets(lab, router) - before >= 2 * shed, 5, "the wildcard flow's counter")
    assert status(lab, router)["wildcard_packets"] - before >= 2 * shed

    left = entries[::6]
    batch(lab, router, "del", [item for item in entries if item not in set(left)])
    lab.wait_until(lambda: status(lab, router)[where] == 0, 20, "nothing shed")
    lab.wait_settled()
    assert len(kept(lab, router)) == len(left) + CONNECTED
    lab.wait_until(lambda: _is_steady(lab, router), 5, "a wildcard flow at rest")
    before = wildcard_packets(lab, router)
    send_to_all(lab, left, rounds=1, rate_pps=1500)
    assert wildcard_packets(lab, router) == before


def _is_steady(lab: Lab, router: str) -> bool:
    before = wildcard_packets(lab, router)
    lab.appctl("n1", "revalidator/wait")
    return wildcard_packets(lab, router) == before

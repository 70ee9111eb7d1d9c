"""What is asked of emulated Xen hosts: where a guest is, what is defined, how OSPF sees it from outside."""

from __future__ import annotations

import json
import math
import time

from bench import interruption_xen
from bench.interruption_xen import NODES, ROUTER
from tests.lab import moving
from xenflow_lab.machines.machine import Machine
from xenflow_lab.plan import CONTROLLER
from xenflow_lab.programs import program
from xenflow_lab.xen import images
from xenflow_lab.xen.lab import ANSWER_S, XenLab

NEIGHBOR = "neighbor"
ADJACENT_S = 600.0
BOOT_S = 2400.0


def adjacency_s(lab: XenLab) -> float:
    """Return for how long the router's neighbor outside has been fully adjacent to it; 0 if it is not."""
    done = lab.run(NEIGHBOR, ["vtysh", "-c", "show ip ospf neighbor json"], check=True)
    entries = [entry for found in json.loads(done.stdout)["neighbors"].values() for entry in found]
    if len(entries) != 1:
        return 0.0
    (entry,) = entries
    if not str(entry.get("nbrState", entry.get("state", ""))).startswith("Full"):
        return 0.0
    return float(entry["upTimeInMsec"] if "upTimeInMsec" in entry else entry["lastPrgrsvChangeMsec"]) / 1e3


def await_adjacency(lab: XenLab, since: float = -math.inf) -> None:
    """Return once OSPF is full, and what it has brought is installed.

    `since` (time.monotonic()): an adjacency of before is an old one, whose end the neighbor has not noticed yet.
    """
    lab.wait_until(lambda: 0 < adjacency_s(lab) < time.monotonic() - since, ADJACENT_S, "OSPF's adjacency")
    lab.wait_settled()


def bring(lab: XenLab, node: str) -> None:
    """Have the router on a node, and everything settled; it is elsewhere, or nowhere, if an earlier test has failed.

    Raises LabError if it does not get there.
    """
    here = [name for name in NODES if ROUTER in domains(lab, name)]
    if here != [node]:
        print(f"\n  {ROUTER} is on {' and '.join(here) or 'no host'}: bringing it to {node}")
    if not here:
        start(lab, node)
    lab.wait_settled()
    if here not in ([], [node]):
        interruption_xen.ordered(lab, node)
        lab.wait_settled()


def start(lab: XenLab, node: str) -> None:
    """Create the router's guest on a node, and return once it routes."""
    began = time.monotonic()
    words = ["xl", "create", f"/etc/xen/{ROUTER}.cfg"]
    lab.hosts[node].check(words, timeout_s=interruption_xen.CREATE_S)
    await_adjacency(lab, began)


def domains(lab: XenLab, node: str) -> set[str]:
    """Return the names of the guests that run on a host, by Xen."""
    shown = lab.hosts[node].check(["xl", "list", "-l"], timeout_s=ANSWER_S)
    entries = json.loads(shown[shown.find("[") :])  # warnings of xl's libraries may come first
    known = [entry["config"]["c_info"] for entry in entries if entry["domid"] and "config" in entry]
    return {entry.get("name", "") for entry in known}


def assert_settled_at(lab: XenLab, node: str) -> None:
    """The router is on `node` and nowhere else, for Xen, the app and the switches; everything of it is installed."""
    lab.wait_settled()
    assert moving.node_of(lab, ROUTER) == node
    assert {name: ROUTER in domains(lab, name) for name in NODES} == {name: name == node for name in NODES}
    moving.assert_as_wanted(lab)
    status = lab.app_status()
    assert {one.name for one in status.nodes} == set(NODES)
    assert [(one.name, one.node, one.in_sync) for one in status.routers] == [(ROUTER, node, True)]
    assert not status.alarms


def shown_status(lab: XenLab) -> str:
    """Return what `xenflow status` prints for an operator. Raises CalledProcessError."""
    return lab.run(CONTROLLER, [program("xenflow"), "status"], check=True).stdout


def properties(host: Machine, unit: str, *names: str) -> dict[str, str]:
    """Return what systemd says of a unit."""
    words = ["systemctl", "show", unit, *(f"--property={name}" for name in names)]
    return dict(line.split("=", 1) for line in host.check(words, timeout_s=ANSWER_S).splitlines())


def definitions(host: Machine) -> dict[str, object]:
    """Return what is defined on a host: by its operator's files, and by what the controller has handed over."""
    found: dict[str, object] = {}
    listed = host.shell("find /etc/xenflow /var/lib/xenflow/routers -name '*.toml' -o -name '*.json'")
    for path in listed.split():
        content = host.agent.get(path).decode()
        found[path] = json.loads(content)["router"] if path.endswith(".json") else content
    return found


def versions(host: Machine) -> set[str]:
    """Return the versions of our packages on a host, all of them installed."""
    words = ["dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}\n", *images.HOST_DEBS]
    return set(host.check(words, timeout_s=ANSWER_S).splitlines())


def reboot(lab: XenLab, node: str) -> None:
    """Reboot a host as its administrator does, and return once systemd has started everything again."""
    assert lab.hosts[node].reboot(BOOT_S) == "running"

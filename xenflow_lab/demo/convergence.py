"""Scene: the lab comes up, OSPF fills the kernels of the routers, the flows follow."""

from __future__ import annotations

import time
from typing import Final

from xenflow_lab.command import LabError, wait_until
from xenflow_lab.demo.page import Page, number
from xenflow_lab.lab import Lab
from xenflow_lab.plan import Kind

LEARNING_S: Final = 60.0
SETTLING_S: Final = 60.0
POLL_S: Final = 0.2


def build(page: Page, lab: Lab) -> None:
    """Bring the lab up. Raises ConfigError, LabError."""
    page.section("A network from nothing")
    machines = lab.plan.machines
    with page.step("namespaces, cables, certificates, switches, servers, routers") as step:

        def say(line: str) -> None:
            if line.startswith("host-wide settings raised"):
                settings = line.count("->")
                page.text(
                    f"{settings} kernel settings (buffers, neighbor tables) are raised, and put back at the end", "dim"
                )
            else:
                step.detail = line

        lab.say = say
        lab.up()
        lab.say = lambda _line: None
        nodes, routers, hosts = (len(lab.plan.of_kind(kind)) for kind in (Kind.NODE, Kind.ROUTER, Kind.HOST))
        step.name = f"{len(machines)} namespaces"
    page.text(
        f"{nodes} nodes, each with Open vSwitch and xenflow-server; {routers} virtual routers, {hosts} hosts", "dim"
    )


def converge(page: Page, lab: Lab) -> None:
    """Wait for OSPF and for the flows. Raises LabError when they do not come."""
    began_s = time.monotonic()
    awaited = far_prefixes(lab)
    with page.step("OSPF: routes to the far networks in the kernels of the routers") as step:
        total = len(awaited)

        def learned() -> bool:
            for router, prefix in list(awaited):
                if lab.run(router, ["ip", "-6" if ":" in prefix else "-4", "route", "show", prefix]).stdout:
                    awaited.discard((router, prefix))
            step.detail = f"{total - len(awaited)} of {total}"
            return not awaited

        wait_until(learned, LEARNING_S, "routes of OSPF", POLL_S)
        step.result = f"{total} of {total}"
    with page.step("flows, each confirmed by its switch") as step:
        count = settle(lab)
        step.result = number(count)
    seconds = time.monotonic() - began_s
    words = f"{seconds:.1f} s from the start of the routing daemons to {number(count)} confirmed flows"
    page.check("convergence", count > 0, words)


def far_prefixes(lab: Lab) -> set[tuple[str, str]]:
    """Return what each router must learn from the other one of its tenant: (router, prefix)."""
    far = {"r1": ("10.0.2.0/24", "fd00:0:0:2::/64"), "r2": ("10.0.1.0/24", "fd00:0:0:1::/64")}
    return {
        (router.name, prefix)
        for router in lab.plan.of_kind(Kind.ROUTER)
        for prefix in far[router.name.partition("-")[2]]
    }


def settle(lab: Lab) -> int:
    """Wait until every flow is installed; return how many there are. Raises LabError."""
    lab.wait_settled(SETTLING_S)
    status = lab.app_status()
    if any(node.flows_refused for node in status.nodes):
        raise LabError("a switch has refused flows: see `xenflow status`")
    return sum(node.flows_actual for node in status.nodes)

"""What is asked of a lab's machines again and again: traffic tools on them, who they are, who answers whom."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from xenflow_lab.lab import Lab
from xenflow_lab.plan import Kind
from xenflow_lab.traffic import launch


def start(lab: Lab, who: str, tool: str, *arguments: str) -> launch.Tool:
    """Start a traffic tool on a machine; it listens when this returns. Raises ToolError."""
    return launch.start(tool, *arguments, prefix=lab.enter_argv(who, []))


def begin(lab: Lab, who: str, tool: str, *arguments: str) -> launch.Tool:
    """Start a traffic tool that does not listen."""
    return launch.start(tool, *arguments, prefix=lab.enter_argv(who, []), ready=False)


def run(lab: Lab, who: str, tool: str, *arguments: str, timeout_s: float = 60) -> dict[str, Any]:
    """Run a traffic tool on a machine to its end; return its report. Raises ToolError."""
    return launch.run(tool, *arguments, prefix=lab.enter_argv(who, []), timeout_s=timeout_s)


def hosts(lab: Lab, tenant: str = "") -> list[str]:
    """Return the names of the hosts, of one tenant or of all."""
    return [machine.name for machine in lab.plan.of_kind(Kind.HOST) if machine.name.startswith(tenant)]


def addresses(lab: Lab, who: str) -> list[str]:
    """Return the addresses of a machine's vifs, without prefix length."""
    vifs = [vif for vif in lab.plan.vifs if vif.machine == who]
    return [address.split("/")[0] for vif in vifs for address in vif.interface.addresses]


def mac(lab: Lab, who: str, network: str = "") -> str:
    """Return the MAC address of a machine's vif in `network` (default: its first)."""
    return next(
        vif.interface.mac for vif in lab.plan.vifs if vif.machine == who and (not network or vif.network == network)
    )


def macs(lab: Lab, tenant: str) -> list[str]:
    """Return the MAC addresses of a tenant's machines."""
    return [vif.interface.mac for vif in lab.plan.vifs if vif.machine.startswith(tenant)]


def answers(lab: Lab, who: str, targets: list[str], *words: str) -> dict[str, bool]:
    """Ping each target twice; return who answered."""
    with ThreadPoolExecutor(8) as pool:
        done = pool.map(
            lambda target: lab.run(who, ["ping", "-n", "-q", "-c2", "-i0.2", "-W1", *words, target]).stdout, targets
        )
        return {
            target: " 0 received" not in text and "received" in text for target, text in zip(targets, done, strict=True)
        }


def matrix(lab: Lab, tenant: str) -> dict[tuple[str, str], bool]:
    """Ping every address of every other host of a tenant from each of its hosts."""
    found: dict[tuple[str, str], bool] = {}
    for who in hosts(lab, tenant):
        targets = [address for other in hosts(lab, tenant) if other != who for address in addresses(lab, other)]
        found |= {(who, target): answered for target, answered in answers(lab, who, targets).items()}
    return found

"""Where packets were dropped: counters of all queues on the way, from the machines outside to Dom0's datapath.

    outside -- wires -- [node] cable, tap -- [Dom0] NIC, qdisc, datapath

A count is what a tool shows; what two readings differ by was dropped between them, by whatever sent it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import msgspec

from xenflow_lab.command import run
from xenflow_lab.plan import WIRES, Kind
from xenflow_lab.xen.lab import XenLab

Drops = Counter[str]
"""Place -> packets dropped there since it is there."""
_LOST = re.compile(r"lookups:.*\blost:(\d+)")
_TIMEOUT_S = 300.0


class _Side(msgspec.Struct):
    dropped: int = 0
    errors: int = 0


class _Sides(msgspec.Struct):
    rx: _Side = msgspec.field(default_factory=_Side)
    tx: _Side = msgspec.field(default_factory=_Side)


class _Link(msgspec.Struct):
    ifname: str
    stats64: _Sides = msgspec.field(default_factory=_Sides)


class _Queue(msgspec.Struct):
    dev: str = ""
    kind: str = ""
    drops: int = 0


def of_links(where: str, text: str) -> Drops:
    """Return what interfaces have dropped, by what `ip -j -s link` prints."""
    found = Drops()
    for link in msgspec.json.decode(text or "[]", type=list[_Link]):
        for side, counted in (("receiving", link.stats64.rx), ("sending", link.stats64.tx)):
            found[f"{where} {link.ifname} {side}"] = counted.dropped + counted.errors
    return found


def of_queues(where: str, text: str) -> Drops:
    """Return what queues have dropped, by what `tc -j -s qdisc show` prints."""
    found = Drops()
    for queue in msgspec.json.decode(text or "[]", type=list[_Queue]):
        found[f"{where} {queue.dev} queue {queue.kind}"] += queue.drops
    return found


def of_datapath(where: str, text: str) -> Drops:
    """Return how many first packets ovs-vswitchd was too slow for, by what `ovs-dpctl show` prints."""
    return Drops({f"{where} datapath": sum(int(count) for count in _LOST.findall(text))})


def read(lab: XenLab) -> Drops:
    """Return all counters of a lab. Raises LabError."""
    found = Drops()
    for machine in lab.plan.of_kind(Kind.NODE, Kind.OUTSIDE):
        found += of_links(machine.name, _ip(lab, machine.name))
    found += of_links(WIRES, _ip(lab, WIRES))
    for name, host in lab.hosts.items():
        dom0 = f"{name}/Dom0"
        found += of_links(dom0, host.check(["ip", "-j", "-s", "link"], timeout_s=_TIMEOUT_S))
        found += of_queues(dom0, host.check(["tc", "-j", "-s", "qdisc", "show"], timeout_s=_TIMEOUT_S))
        found += of_datapath(dom0, host.check(["ovs-dpctl", "show"], timeout_s=_TIMEOUT_S))
    return found


def _ip(lab: XenLab, who: str) -> str:
    return run(["ip", "-n", lab.paths.namespace(who), "-j", "-s", "link"])


def words(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Return where packets were dropped between two readings, the most first."""
    more = {place: count - before.get(place, 0) for place, count in after.items()}
    places = sorted((place for place, count in more.items() if count > 0), key=lambda place: -more[place])
    return ", ".join(f"{place} {more[place]}" for place in places) or "nowhere that counts"

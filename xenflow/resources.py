"""Processor and memory of a router's machine, as values (paper, section II-D).

Place in the flow: definitions -> `Machine` fact -> server of the node where it runs -> hypervisor -> *Granted* -> app.

The words are Xen's, whatever the hypervisor is: a weight is relative to those of other machines, a cap is in percent of
one physical processor (xl.cfg(5), sched-credit2 in xl(1)).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

import msgspec

DEFAULT_WEIGHT: Final = 256
"""What a machine has if nothing is said (xl.cfg(5)); one with 512 gets twice as much when processors are short."""
MAX_REASON: Final = 512
RANGES: Final[Mapping[str, range]] = {
    "memory_mib": range(8, (16 << 20) + 1),
    "vcpus": range(1, 4097),
    "cpu_weight": range(1, 65536),
    "cpu_cap": range(65536),
}
"""What Xen and QEMU can take at all: up to 16 TiB; weight and cap have 16 bits in Xen."""


class Resources(msgspec.Struct, frozen=True, array_like=True):
    """What a machine has or is to have; None: not said, or not known.

    `memory_mib` in MiB, `vcpus` virtual processors, `cpu_weight` relative to DEFAULT_WEIGHT, `cpu_cap` in percent of
    one physical processor for the whole machine (0: no cap; 150: one and a half).
    """

    memory_mib: int | None = None
    vcpus: int | None = None
    cpu_weight: int | None = None
    cpu_cap: int | None = None

    def said(self) -> Iterator[tuple[str, int]]:
        """Yield key and value of what is said."""
        for key in RANGES:
            value = getattr(self, key)
            if value is not None:
                yield key, value


class Granted(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """What the machine of the router `name` has on this node, and why not what its definition says."""

    KIND: ClassVar[int] = 16
    name: str
    has: Resources
    problems: tuple[str, ...] = ()

    @property
    def key(self) -> bytes:
        """Key among machines: the router's name."""
        return self.name.encode()


def faults(resources: Resources) -> Iterator[tuple[str, str, int]]:
    """Yield key, reason and value of what no machine can have, or what contradicts itself."""
    for key, value in resources.said():
        allowed = RANGES[key]
        if value not in allowed:
            words = " (percent of one processor; 0: no cap)" if key == "cpu_cap" else ""
            yield key, f"must be {allowed[0]} to {allowed[-1]}{words}", value
    cap, vcpus = resources.cpu_cap, resources.vcpus
    if cap and vcpus and cap > 100 * vcpus:
        yield "cpu_cap", f"is more than vcpus = {vcpus} can use, {100 * vcpus} percent", cap


def malformed_granted(fact: Granted) -> str:
    """Return why the fact cannot be, empty if it can; its name is checked elsewhere."""
    if any(not 0 <= value < 1 << 32 for _, value in fact.has.said()):
        return "processor or memory out of range"
    if len(fact.problems) > len(RANGES) + 1 or any(len(text) > MAX_REASON for text in fact.problems):
        return "too many problems, or too long ones"
    return ""

"""Pure: a machine's weight and cap in Xen's words <-> the numbers of Linux's control groups, where QEMU machines run.

Sources: cgroup-v1/sched-bwc and sched-design-CFS, cgroup-v2 ("cpu.weight") of the kernel's documentation; libvirt's
virDomainSetSchedulerParameters: `cpu_shares` is the one or the other, `global_quota` is for the whole machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from xenflow.resources import DEFAULT_WEIGHT

UNLIMITED = -1
PERIOD_US = 100_000
MIN_QUOTA_US = 1000


@dataclass(frozen=True, slots=True)
class Shares:
    """The scale of a kernel's processor shares: what a machine has of which nothing is said, and the limits."""

    default: int
    least: int
    most: int

    def of(self, weight: int) -> int:
        """Return the shares that stand for a weight."""
        return min(max(round(weight * self.default / DEFAULT_WEIGHT), self.least), self.most)

    def weight(self, shares: int) -> int:
        """Return the weight that shares stand for."""
        return max(1, round(shares * DEFAULT_WEIGHT / self.default))


CGROUP_1 = Shares(1024, 2, 262_144)
CGROUP_2 = Shares(100, 1, 10_000)


def quota_of(cap: int, period_us: int) -> int:
    """Return the microseconds in each period that a cap in percent of one processor stands for."""
    return max(cap * period_us // 100, MIN_QUOTA_US) if cap else UNLIMITED


def cap_of(quota_us: int, period_us: int) -> int:
    """Return the cap that a quota stands for, 0 if there is none."""
    return max(1, round(100 * quota_us / period_us)) if quota_us > 0 and period_us > 0 else 0

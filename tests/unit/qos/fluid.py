"""A fluid model of a link under HTB, and of the controller around it: rates instead of packets, no kernel.

HTB as sch_htb.c has it: each leaf has its own rate first; then the leaves of an inner class what is left of its rate,
then all what is left of the link, in both cases by their quanta, up to their own ceiling and that of their inner class.
Open vSwitch's equal shares come out by themselves: they are what the kernel's quanta give.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qos_controller.decision import Decision, Policy, Setting
from qos_controller.history import History, Sample
from qos_controller.ideal import fair_shares, fitness
from qos_controller.plan import LINK_MINOR, LinkPlan
from qos_controller.policy import decide

M = 1_000_000
TINY = 1e-3
"""Less than this many bit/s is nothing."""


def htb(settings: Mapping[int, Setting], demands: Mapping[int, float]) -> dict[int, float]:
    """Return the rate of each leaf (by minor number) that wants `demands` bit/s."""
    parents = {setting.parent for setting in settings.values()}
    leaves = [minor for minor in settings if minor not in parents and minor != LINK_MINOR]
    wanted = {minor: min(demands.get(minor, 0.0), settings[minor].ceil_bps) for minor in leaves}
    rates = {minor: min(wanted[minor], settings[minor].rate_bps) for minor in leaves}
    for inner in parents - {0, LINK_MINOR}:
        children = [minor for minor in leaves if settings[minor].parent == inner]
        _lend(settings, children, wanted, rates, settings[inner].rate_bps - sum(rates[minor] for minor in children))
    for prio in sorted({settings[minor].prio for minor in leaves}):
        borrowers = [minor for minor in leaves if settings[minor].prio == prio]
        _lend(settings, borrowers, wanted, rates, settings[LINK_MINOR].ceil_bps - sum(rates.values()))
    return rates


def _lend(
    settings: Mapping[int, Setting],
    borrowers: Sequence[int],
    wanted: Mapping[int, float],
    rates: dict[int, float],
    left: float,
) -> None:
    """Raise the rates of those that want more, each at the speed of its quantum, until nothing is left."""
    while left > TINY:
        room = _room(settings, rates)
        rising = [i for i in borrowers if wanted[i] - rates[i] > TINY and room[settings[i].parent] > TINY]
        if not rising:
            return
        speeds: dict[int, float] = {}
        for minor in rising:
            speeds[settings[minor].parent] = speeds.get(settings[minor].parent, 0.0) + settings[minor].quantum_bytes
        time = min(
            left / sum(speeds.values()),
            min((wanted[minor] - rates[minor]) / settings[minor].quantum_bytes for minor in rising),
            min(room[parent] / speed for parent, speed in speeds.items()),
        )
        for minor in rising:
            rates[minor] += time * settings[minor].quantum_bytes
        left -= time * sum(speeds.values())


def _room(settings: Mapping[int, Setting], rates: Mapping[int, float]) -> dict[int, float]:
    """Return what each class may still pass on below its ceiling; the link's class is watched by the caller."""
    room = {minor: float(setting.ceil_bps) for minor, setting in settings.items()}
    for minor, rate in rates.items():
        room[settings[minor].parent] -= rate
    room[LINK_MINOR] = float("inf")
    return room


@dataclass
class Run:
    """A link, its controller, and what came of each step of `t_med_s`."""

    link: LinkPlan
    policy: Policy = field(default_factory=Policy)
    k_med: int = 3
    t_med_s: float = 1.0
    has_signals: bool = True
    """Whether the kernel shows backlogs and drops; without, only the ceilings tell who wants more."""
    decisions: list[Decision] = field(default_factory=list)
    rates: list[dict[int, float]] = field(default_factory=list)
    """By queue id, in each step."""
    time_s: float = 0.0

    def __post_init__(self) -> None:
        self._history = History(self.k_med, self.t_med_s)
        self._counters = {item.queue: Sample(0.0, 0) for item in self.link.classes}
        self._history.observe(self._counters)
        self.decisions.append(decide(self.link, {}, {}, self.policy))

    @property
    def decision(self) -> Decision:
        return self.decisions[-1]

    def step(self, demands: Mapping[int, float]) -> dict[int, float]:
        """Let queues want `demands` bit/s for one interval, then measure and decide; returns their rates."""
        settings = self.decision.settings
        flows = htb(settings, {queue + 1: rate for queue, rate in demands.items()})
        rates = {minor - 1: rate for minor, rate in flows.items()}
        self.time_s += self.t_med_s
        for queue, before in self._counters.items():
            lacks = self.has_signals and demands.get(queue, 0.0) - rates[queue] > TINY
            self._counters[queue] = Sample(
                self.time_s,
                before.bytes + round(rates[queue] * self.t_med_s / 8),
                before.packets,
                before.drops + lacks,
                1500 if lacks else 0,
                settings[queue + 1].ceil_bps,
            )
        self._history.observe(self._counters)
        self.decisions.append(decide(self.link, self._history.loads(), settings, self.policy))
        self.rates.append(rates)
        return rates

    def steps(self, demands: Mapping[int, float], count: int) -> dict[int, float]:
        """Do `count` steps with the same demands; returns the rates of the last one."""
        rates: dict[int, float] = {}
        for _ in range(count):
            rates = self.step(demands)
        return rates


def worst_fitness(link: LinkPlan, rates: Mapping[int, float], demands: Mapping[int, float]) -> float:
    """Return the fitness of the queue that is furthest from the ideal, among those that want something."""
    ideal = fair_shares(link, demands)
    return min((fitness(rates[queue], ideal[queue]) for queue in ideal if ideal[queue] > TINY), default=1.0)


def use(link: LinkPlan, rates: Mapping[int, float], demands: Mapping[int, float]) -> float:
    """Return the part that is carried of what could be."""
    possible = sum(fair_shares(link, demands).values())
    return sum(rates.values()) / possible if possible > TINY else 1.0


def mean(values: Iterable[float]) -> float:
    """Return the mean of some values."""
    found = list(values)
    return sum(found) / len(found)

"""One port's link: its plan, what was measured, what is in force, and why (sans-IO; time is an argument).

Place in the flow: *PortQueues* -> `Link` -- `Reading` -> samples -> `History` -> `decide` -> wanted `Tree`.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping

from qos_controller import plan
from qos_controller.decision import Decision, Policy, PolicyKind, Setting
from qos_controller.filters import Classifier
from qos_controller.history import History, Load, Sample
from qos_controller.policy import decide
from qos_controller.rtnl import Counters
from qos_controller.tree import HtbClass, Program, Tree
from qos_controller.wanted import wanted_tree
from xenflow.bandwidth import PortQueues, rate_text

log = logging.getLogger(__name__)


class Standing(enum.StrEnum):
    """How far a link is."""

    WAITING = "waiting"
    """Its port, its device or the database's row is not there yet."""
    REFUSED = "refused"
    """Cannot be done, or belongs to somebody else."""
    SHAPED = "shaped"


class Link:
    """Keeps what is known of one link. `standing` and `why` are set by who talks to the kernel.

    `is_tried_again`: it may come about without another plan, nor anybody's help, and until then the plan is not
    carried out.
    """

    def __init__(self, k_med: int, t_med_s: float) -> None:
        self.history = History(k_med, t_med_s)
        self.standing, self.why = Standing.WAITING, "not looked at yet"
        self.is_tried_again = False
        self.index = 0
        self.applied = Tree()
        self.counters: dict[int, Counters] = {}
        self.decision: Decision | None = None
        self.decided_s = 0.0
        self.plan = plan.LinkPlan("", 0)
        self.fact: PortQueues | None = None
        self._programs: tuple[Program, ...] = ()
        self._head_drop = False
        self._is_broken = False

    def measure_by(self, k_med: int, t_med_s: float) -> None:
        """Begin to measure anew, by these settings."""
        self.history = History(k_med, t_med_s)

    def forget_programs(self) -> None:
        """Do without classifiers."""
        self._programs = ()

    @property
    def settings(self) -> Mapping[int, Setting]:
        """What is in force, by minor number."""
        return self.decision.settings if self.decision else {}

    def redefine(self, fact: PortQueues, frame_bytes: int, classifier: Classifier) -> list[str]:
        """Take a plan over; return why it cannot be carried out, empty if it can.

        What was measured stays, but not of queues that are another owner's or class's now.
        """
        wanted = plan.link_plan(fact, frame_bytes)
        problems = list(plan.problems(wanted))
        if problems:
            return problems
        try:
            self._programs = classifier.programs(fact.queues)
        except ValueError as error:
            return [f"{fact.port}: {error}"]
        before = {item.queue: item for item in self.plan.classes}
        self.history.forget(
            item.queue
            for item in wanted.classes
            if (was := before.get(item.queue)) is not None and (was.owner, was.name) != (item.owner, item.name)
        )
        self.fact, self.plan, self._head_drop = fact, wanted, classifier.sends_batches
        return []

    def observe(self, now_s: float, counters: Mapping[int, Counters]) -> None:
        """Take a measurement in."""
        samples = {}
        for item in self.plan.classes:
            if (each := counters.get(item.minor)) is not None:
                setting = self.settings.get(item.minor)
                ceiling = setting.ceil_bps if setting else 0
                samples[item.queue] = Sample(
                    now_s, each.bytes, each.packets, each.drops, each.backlog_bytes, ceiling_bps=ceiling
                )
        self.history.observe(samples)
        self.counters = dict(counters)

    def loads(self) -> dict[int, Load]:
        """Return what each queue uses."""
        return self.history.loads()

    def decide(self, now_s: float, policy: Policy) -> bool:
        """Decide what is to be in force now; return whether that is something else than before."""
        before = self.decision
        self.decision = decide(self.plan, self.loads(), self.settings, policy)
        self.decided_s = now_s
        self._say_promise(self.decision)
        is_new = before is None or before.policy != policy
        return is_new or bool(self.decision.changed or self.decision.removed)

    def tree(self) -> Tree:
        """Return what the port's tree is to be by the last decision."""
        assert self.decision is not None  # nobody asks before the first one
        is_static = self.decision.policy.kind is PolicyKind.STATIC
        head_drop = self._head_drop
        return wanted_tree(self.plan, self.decision.settings, self._programs, is_static=is_static, head_drop=head_drop)

    def differs(self, classes: Mapping[int, HtbClass]) -> bool:
        """Return whether classes that were read (without bounds of queues) are others than were written."""
        if classes.keys() != self.applied.classes.keys():
            return True
        return any(not item.is_like(classes[minor]) for minor, item in self.applied.classes.items())

    def stand(self, standing: Standing, why: str = "", *, is_tried_again: bool = False) -> None:
        """Note and log how far the link is; the same again is no news."""
        self.is_tried_again = is_tried_again
        if (standing, why) == (self.standing, self.why):
            return
        level = logging.ERROR if standing is Standing.REFUSED else logging.INFO
        name = self.fact.port if self.fact else self.plan.port
        log.log(level, "link %s from=%s to=%s why=%s", name, self.standing, standing, why or "ready")
        self.standing, self.why = standing, why

    def _say_promise(self, decision: Decision) -> None:
        if decision.is_broken and not self._is_broken:
            log.error(
                "PROMISE BROKEN link=%s hired=%s capacity=%s: each gets %.0f %% of what it hired",
                decision.port,
                rate_text(decision.hired_bps + decision.reserved_bps),
                rate_text(decision.capacity_bps),
                decision.kept * 100,
            )
        elif self._is_broken and not decision.is_broken:
            log.info("promise kept again link=%s", decision.port)
        self._is_broken = decision.is_broken

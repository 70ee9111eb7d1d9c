"""What a link is to carry: classes that hired bandwidth, and how HTB nests them (pure).

Place in the flow: the app's *PortQueues* facts -> `link_plan` -> `policy.decide` -> settings of HTB classes.

    1: (qdisc) -- 1:fffe the link -+- 1:1      queue 0, alone of its owner: a leaf
                                   +- 1:8003   an owner with several classes: an inner class ("group")
                                   |    +- 1:3     queue 2, voice
                                   |    '- 1:4     queue 3, bulk
                                   '- 1:5      queue 4, control: a leaf of its own, outside of what is shared

An owner with several classes on a link is one `Group` of them: what the group hired is the sum of what its classes
hired, and between owners only that sum counts (docs/design/qos.md). Rates are in bit/s of frames as HTB counts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from xenflow.bandwidth import MAX_RATE, PortQueues

FRAME_BYTES: Final = 1522
"""An Ethernet frame of 1500 bytes of payload with one VLAN tag, as HTB counts it."""
LINK_MINOR: Final = 0xFFFE
"""HTB minor of the class that is the link; all others borrow from it."""
GROUP_MINOR: Final = 0x8000
"""HTB minors of groups begin behind this one."""
MAX_QUEUE: Final = GROUP_MINOR - 1
"""The largest queue id: its minor is one larger, and must not be a group's."""
MAX_GROUPED_QUEUE: Final = LINK_MINOR - 3 - GROUP_MINOR
"""The largest queue id that a group may begin with."""


class ClassPlan(msgspec.Struct, frozen=True):
    """A class of traffic on a link: `queue` is OpenFlow's id, HTB's minor number is one larger.

    `owner` is the router or network that hired it; `name` is the class, empty where the owner has only one.
    """

    queue: int
    owner: str
    name: str = ""
    hired_bps: int = 0
    ceiling_bps: int = 0
    """What it may have at most; 0: the link. That of a set's class without a name is the whole set's as well."""
    control: bool = False
    """Routing protocols and ARP: small, guaranteed, served first, in no sum, never measured against others."""
    borrows: bool = True
    """False: exactly what it hired, never more."""

    @property
    def minor(self) -> int:
        """The minor number of its HTB class."""
        return self.queue + 1


class LinkPlan(msgspec.Struct, frozen=True):
    """The classes of one port and what its link can carry.

    `frame_bytes` is the largest frame that HTB sees there; with segmentation offload that is up to 65,550.
    """

    port: str
    capacity_bps: int
    classes: tuple[ClassPlan, ...] = ()
    frame_bytes: int = FRAME_BYTES


class Group(msgspec.Struct, frozen=True):
    """The classes of one owner that share what it hired on a link (control classes are in no group).

    `is_nested`: it has several, and so an inner class 1:`minor` with them as leaves. Otherwise its one class is a leaf
    beneath the link's class, and `minor` is that leaf's.
    """

    owner: str
    minor: int
    classes: tuple[ClassPlan, ...]

    @property
    def is_nested(self) -> bool:
        """Whether it is an HTB class of its own, above its classes."""
        return len(self.classes) > 1

    @property
    def hired_bps(self) -> int:
        """The sum of what its classes hired."""
        return sum(item.hired_bps for item in self.classes)

    @property
    def ceiling_bps(self) -> int:
        """What its classes may have together at most, 0: the link. A set's is that of its class without a name."""
        if not self.is_nested:
            return self.classes[0].ceiling_bps
        return max((item.ceiling_bps for item in self.classes if not item.name), default=0)

    def most_bps(self, link_bps: int) -> int:
        """Return what its classes can take together on a link: those that do not borrow have what they hired."""
        taken = sum((item.ceiling_bps or link_bps) if item.borrows else item.hired_bps for item in self.classes)
        own = max(self.ceiling_bps, self.hired_bps) if self.ceiling_bps else link_bps
        return min(taken, own, link_bps)


def link_plan(fact: PortQueues, frame_bytes: int = FRAME_BYTES) -> LinkPlan:
    """Return the plan that a fact of the app asks for."""
    classes = (
        ClassPlan(queue.id, queue.owner, queue.name, queue.hired, queue.ceiling, queue.control) for queue in fact.queues
    )
    return LinkPlan(fact.port, fact.capacity, tuple(classes), frame_bytes)


def groups(link: LinkPlan) -> tuple[Group, ...]:
    """Return the owners of a link's classes with them, in the order in which they first appear."""
    owned: dict[str, list[ClassPlan]] = {}
    for item in link.classes:
        if not item.control:
            owned.setdefault(item.owner, []).append(item)
    return tuple(Group(owner, _minor(classes), tuple(classes)) for owner, classes in owned.items())


def parent_minors(link: LinkPlan) -> dict[int, int]:
    """Return queue id -> minor number of the class that its own is to be a child of."""
    parents = {item.queue: LINK_MINOR for item in link.classes}
    parents.update((item.queue, group.minor) for group in groups(link) if group.is_nested for item in group.classes)
    return parents


def problems(link: LinkPlan) -> Iterator[str]:
    """Yield why a plan cannot be carried out as it stands; more hired than the link has is no problem of form."""
    if not 0 < link.capacity_bps <= MAX_RATE:
        yield f"{link.port}: a capacity of {link.capacity_bps} bit/s"
    if not 0 < link.frame_bytes <= 1 << 17:
        yield f"{link.port}: a largest frame of {link.frame_bytes} bytes"
    if (reserved := sum(item.hired_bps for item in link.classes if item.control)) >= link.capacity_bps:
        yield f"{link.port}: control queues alone hired {reserved} bit/s of {link.capacity_bps}"
    seen: set[int] = set()
    for item in link.classes:
        who = f"{link.port}: queue {item.queue} of {item.owner}"
        if not 0 <= item.queue <= MAX_QUEUE:
            yield f"{who}: a queue id is 0 to {MAX_QUEUE}"
        if item.queue in seen:
            yield f"{who}: another class has this queue id"
        seen.add(item.queue)
        if not 0 < item.hired_bps <= MAX_RATE:
            yield f"{who}: hired {item.hired_bps} bit/s"
        if item.ceiling_bps and item.ceiling_bps < item.hired_bps:
            yield f"{who}: its ceiling ({item.ceiling_bps} bit/s) is less than what it hired ({item.hired_bps} bit/s)"
    for group in groups(link):
        if group.is_nested and (lowest := min(item.queue for item in group.classes)) > MAX_GROUPED_QUEUE:
            yield f"{link.port}: {group.owner}: a set of queues begins with id {lowest}, over {MAX_GROUPED_QUEUE}"


def _minor(classes: list[ClassPlan]) -> int:
    """Return the minor of a group; one with several classes is known by its lowest queue id."""
    return min(item.minor for item in classes) + (GROUP_MINOR if len(classes) > 1 else 0)

"""The HTB tree of a port as values: what it is to be, what it is, and the operations between the two (pure).

Place in the flow: decided settings -> *wanted `Tree`* + *found `Tree`* -> `changes` -> operations -> `htb` -> kernel.

    root 1: (htb) -- 1:fffe the link -+- 1:ffff -- bfifo  default: frames that no queue claims
                                      +- 1:fffd -- bfifo  the node's own: BFD
                                      +- 1:N  -- bfifo    a queue
                                      '- 1:fN -+- 1:N -- bfifo   a group and its queues

Rules: a change is in terms of what the kernel keeps, so that reading back gives exactly what was written; parents come
before children and go after them; a class whose parent changes is made anew, since HTB cannot move it. A root qdisc
that is not ours is never an operation's target: the caller asks `ownership` first.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

MAJOR: Final = 1
"""Major number of our qdisc: a queue id of OpenFlow becomes class 1:(id + 1) in Open vSwitch's kernel datapath."""
MARK: Final = 0x7866
"""Our mark in the kernel: HTB's `r2q`, which nothing else uses, since each class has a quantum of its own."""
DEFAULT_MINOR: Final = 0xFFFF
"""Class of the frames that no queue claims."""
NODE_MINOR: Final = 0xFFFD
"""Class of what the switch itself sends for the trunk: BFD."""
INNER_QUANTUM: Final = 1522
"""Quantum of every inner class: HTB neither uses nor changes it, but a class without one makes it complain."""
FRAME_BYTES: Final = 512
"""What a frame counts in the bound of a queue that is bounded by frames."""
TICK_NS: Final = 64
"""The kernel's unit of packet scheduling time (PSCHED_SHIFT)."""


@dataclass(frozen=True, slots=True)
class HtbClass:
    """An HTB class in the kernel's terms: rates in bytes/s, buffers in ticks at those rates; `parent` 0 is the root.

    An inner class has INNER_QUANTUM and priority 0, since the kernel keeps for good what it was made with.
    """

    minor: int
    parent: int
    rate: int
    ceil: int
    buffer: int
    cbuffer: int
    quantum: int
    prio: int = 0
    limit_bytes: int = 0
    """Bound of the leaf's queue (bfifo); 0 for an inner class."""
    head_drop: bool = False
    """Whether the queue drops its oldest frame (pfifo_head_drop); its bound is one frame for each `FRAME_BYTES`."""

    def is_like(self, other: HtbClass) -> bool:
        """Return whether a class that was read is this one; a dump of classes does not show the queue's bound."""
        return self == (_with_limit(other, self.limit_bytes, self.head_drop) if self.limit_bytes else as_inner(other))


@dataclass(frozen=True, slots=True)
class Root:
    """The root qdisc of a device; `handle` 0 is what a kernel gives to a device by itself."""

    kind: str
    handle: int
    r2q: int = 0
    default: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """A classifier at our qdisc: `preference` orders them, `code` is classic BPF, eight bytes an instruction."""

    preference: int
    code: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tree:
    """All of a device's egress that is, or would be, ours."""

    root: Root | None = None
    classes: dict[int, HtbClass] = field(default_factory=dict)
    programs: tuple[Program, ...] = ()


OUR_ROOT: Final = Root("htb", MAJOR << 16, MARK, DEFAULT_MINOR)


class Ownership(enum.Enum):
    """Whose root qdisc a device has."""

    NOBODY = "nobody"
    OURS = "ours"
    FOREIGN = "foreign"


def ownership(root: Root | None) -> Ownership:
    """Return whose qdisc that is; one that the kernel put there by itself (handle 0) is nobody's."""
    if root is None or root.handle == 0:
        return Ownership.NOBODY
    return Ownership.OURS if root == OUR_ROOT else Ownership.FOREIGN


@dataclass(frozen=True, slots=True)
class AddRoot:
    """Put our qdisc at the root."""


@dataclass(frozen=True, slots=True)
class DeleteRoot:
    """Remove our qdisc, and with it classes, queues and programs."""


@dataclass(frozen=True, slots=True)
class PutClass:
    """Add a class, or change it in place if `is_new` is False."""

    item: HtbClass
    is_new: bool


@dataclass(frozen=True, slots=True)
class PutLeaf:
    """Bound the queue of a leaf."""

    minor: int
    limit_bytes: int
    head_drop: bool = False


@dataclass(frozen=True, slots=True)
class DeleteClass:
    """Remove a class and its queue."""

    minor: int


@dataclass(frozen=True, slots=True)
class PutProgram:
    """Add or replace a classifier at once."""

    program: Program


@dataclass(frozen=True, slots=True)
class DeleteProgram:
    """Remove a classifier."""

    preference: int


Operation: TypeAlias = AddRoot | DeleteRoot | PutClass | PutLeaf | DeleteClass | PutProgram | DeleteProgram


def as_inner(item: HtbClass) -> HtbClass:
    """Return an inner class as all inner classes are."""
    return HtbClass(item.minor, item.parent, item.rate, item.ceil, item.buffer, item.cbuffer, INNER_QUANTUM)


def changes(wanted: Tree, found: Tree) -> list[Operation]:
    """Return what makes `found` equal to `wanted`, in an order in which each step is possible. Nothing if it is.

    `wanted` without a root means: nothing of ours. `found` must not be foreign.
    """
    if wanted.root is None:
        return [DeleteRoot()] if ownership(found.root) is Ownership.OURS else []
    operations: list[Operation] = []
    if ownership(found.root) is not Ownership.OURS:
        operations.append(AddRoot())
        found = Tree()
    moved = _moved(wanted.classes, found.classes)
    operations += map(DeleteClass, _children_first(moved, found.classes))
    for minor in _parents_first(wanted.classes):
        operations += _put(wanted.classes[minor], None if minor in moved else found.classes.get(minor))
    operations += _classify(wanted.programs, found.programs)
    gone = (minor for minor in found.classes if minor not in wanted.classes and minor not in moved)
    operations += map(DeleteClass, _children_first(gone, found.classes))
    return operations


def apply(operations: Iterable[Operation], tree: Tree) -> Tree:
    """Return what the operations make of a tree: the model that tests and the adapter's memory share."""
    root, classes, programs = tree.root, dict(tree.classes), {item.preference: item for item in tree.programs}
    for operation in operations:
        match operation:
            case AddRoot():
                root, classes, programs = OUR_ROOT, {}, {}
            case DeleteRoot():
                root, classes, programs = None, {}, {}
            case PutClass(item, is_new):
                limit = (0, False) if is_new else _limit(classes[item.minor])
                classes[item.minor] = _with_limit(item, *limit)
            case PutLeaf(minor, limit_bytes, head_drop):
                classes[minor] = _with_limit(classes[minor], limit_bytes, head_drop)
            case DeleteClass(minor):
                del classes[minor]
            case PutProgram(program):
                programs[program.preference] = program
            case DeleteProgram(preference):
                del programs[preference]
    return Tree(root, classes, tuple(programs[key] for key in sorted(programs)))


def _put(wanted: HtbClass, found: HtbClass | None) -> list[Operation]:
    operations: list[Operation] = []
    limit = _limit(found) if found else (0, False)
    if found is None or _with_limit(wanted, *limit) != found:
        operations.append(PutClass(wanted, found is None))
    if wanted.limit_bytes and _limit(wanted) != limit:
        operations.append(PutLeaf(wanted.minor, *_limit(wanted)))
    return operations


def _classify(wanted: tuple[Program, ...], found: tuple[Program, ...]) -> list[Operation]:
    known = {item.preference: item for item in found}
    operations: list[Operation] = [PutProgram(item) for item in wanted if known.get(item.preference) != item]
    left = known.keys() - {item.preference for item in wanted}
    return operations + [DeleteProgram(preference) for preference in sorted(left)]


def _moved(wanted: dict[int, HtbClass], found: dict[int, HtbClass]) -> set[int]:
    """Return the classes to be made anew: their parent changes (or its is made anew), or they become leaf or inner."""
    moved: set[int] = set()
    for minor in _parents_first(found):
        old, new = found[minor], wanted.get(minor)
        if old.parent in moved or (new is not None and _is_other_kind(old, new)):
            moved.add(minor)
    return moved


def _is_other_kind(old: HtbClass, new: HtbClass) -> bool:
    return old.parent != new.parent or bool(old.limit_bytes) != bool(new.limit_bytes)


def _parents_first(classes: dict[int, HtbClass]) -> list[int]:
    return sorted(classes, key=lambda minor: (_depth(minor, classes), minor))


def _children_first(minors: Iterable[int], classes: dict[int, HtbClass]) -> list[int]:
    return sorted(minors, key=lambda minor: (-_depth(minor, classes), minor))


def _depth(minor: int, classes: dict[int, HtbClass]) -> int:
    depth = 0
    while (item := classes.get(minor)) is not None and item.parent and depth < len(classes):
        minor, depth = item.parent, depth + 1
    return depth


def _limit(item: HtbClass) -> tuple[int, bool]:
    return item.limit_bytes, item.head_drop


def _with_limit(item: HtbClass, limit_bytes: int, head_drop: bool) -> HtbClass:
    return HtbClass(
        *(item.minor, item.parent, item.rate, item.ceil, item.buffer, item.cbuffer, item.quantum, item.prio),
        limit_bytes,
        head_drop,
    )

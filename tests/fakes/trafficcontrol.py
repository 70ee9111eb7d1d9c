"""A kernel's traffic control in memory, as strict as the real one: same interface and refusals as `htb.Kernel`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from qos_controller import tree
from qos_controller.htb import Device, Reading, Refusal
from qos_controller.rtnl import Counters
from qos_controller.tree import (
    DeleteClass,
    DeleteProgram,
    DeleteRoot,
    Operation,
    Ownership,
    PutClass,
    PutLeaf,
    PutProgram,
    Root,
    Tree,
)

NO_ROOT = Root("noqueue", 0)


@dataclass
class FakeDevice:
    """A device; `written` collects what was really done to it."""

    index: int
    mtu: int = 1500
    gso_bytes: int = 65536
    tree: Tree = field(default_factory=lambda: Tree(NO_ROOT))
    counters: dict[int, Counters] = field(default_factory=dict)
    written: list[Operation] = field(default_factory=list)


class FakeKernel:
    """Devices by name."""

    def __init__(self) -> None:
        self.devices: dict[str, FakeDevice] = {}
        self.refuse: type[Operation] | None = None  # type: ignore[valid-type]
        self._next = 2

    def add(self, name: str) -> FakeDevice:
        """Add a device, or replace it by another one of the same name."""
        self._next += 1
        self.devices[name] = FakeDevice(self._next)
        return self.devices[name]

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to free."""

    async def device(self, name: str) -> Device | None:
        found = self.devices.get(name)
        return Device(found.index, found.mtu, found.gso_bytes) if found else None

    async def ours(self) -> dict[str, int]:
        return {
            name: device.index
            for name, device in self.devices.items()
            if tree.ownership(device.tree.root) is Ownership.OURS
        }

    async def measure(self, index: int) -> Reading:
        found = self._by_index(index)
        if found is None:
            return Reading({}, {})
        counters = {minor: found.counters.get(minor, Counters(0, 0, 0, 0)) for minor in found.tree.classes}
        classes = {minor: replace(item, limit_bytes=0, head_drop=False) for minor, item in found.tree.classes.items()}
        return Reading(classes, counters)

    async def read(self, index: int) -> Tree | None:
        found = self._by_index(index)
        return found.tree if found else None

    async def apply(self, index: int, operations: Sequence[Operation]) -> list[Refusal]:
        found = self._by_index(index)
        if found is None:
            return [Refusal(operation, "no such device") for operation in operations]
        refused = []
        for operation in operations:
            problem = self._problem(operation, found.tree)
            if problem:
                refused.append(Refusal(operation, problem))
            else:
                found.written.append(operation)
                found.tree = tree.apply([operation], found.tree)
                if found.tree.root is None:
                    found.tree = Tree(NO_ROOT)
        return refused

    def _by_index(self, index: int) -> FakeDevice | None:
        return next((device for device in self.devices.values() if device.index == index), None)

    def _problem(self, operation: Operation, found: Tree) -> str:
        if self.refuse is not None and isinstance(operation, self.refuse):
            return "refused by the test"
        return problem(operation, found)


def problem(operation: Operation, found: Tree) -> str:
    """Return why a kernel refuses an operation, empty if it does not."""
    owner = tree.ownership(found.root)
    if isinstance(operation, tree.AddRoot):
        return "" if owner is Ownership.NOBODY else "Exclusivity flag on, cannot modify"
    if owner is not Ownership.OURS:
        return "No such qdisc"
    classes = found.classes
    match operation:
        case PutClass(item, True):
            if item.minor in classes:
                return "File exists"
            return "" if item.parent == 0 or item.parent in classes else "No such parent"
        case PutClass(item, False):
            if item.minor not in classes:
                return "No such class"
            return "" if classes[item.minor].parent == item.parent else "a class cannot move"
        case PutLeaf(minor, _, _):
            return _leaf(minor, found)
        case DeleteClass(minor):
            if minor not in classes:
                return "No such class"
            return "Device or resource busy" if any(item.parent == minor for item in classes.values()) else ""
        case DeleteProgram(preference):
            known = {program.preference for program in found.programs}
            return "" if preference in known else "No such filter"
        case PutProgram() | DeleteRoot():
            return ""
    raise AssertionError(operation)


def _leaf(minor: int, found: Tree) -> str:
    if minor not in found.classes:
        return "No such class"
    return "an inner class has no queue" if any(item.parent == minor for item in found.classes.values()) else ""

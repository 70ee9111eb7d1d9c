"""The queues of one owner: as a port has them, and as flows (pure).

Place in the flow: owner, admitted or not -> *queues and flows* -> Queues.

Who is not admitted has the queue of its control traffic, and no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xenflow.bandwidth import CONTROL_CLASS, DEFAULT_CLASS, Match, Queue, Selector
from xenflow_app import classes, pipeline
from xenflow_app.hires import Hire

CONTROL_RATE = 128_000
"""What an owner's control traffic is sure of on each link, in bit/s: some hundred small packets a second."""
CONTROL_CEILING = 8 * CONTROL_RATE
"""What it may use at most. Control is served before all others, so what it borrows goes by no hire."""
CONTROL_PART = 4
"""All control queues of a link together are sure of one in so many bits of it at most, however many they are."""
MIN_RATE = 8_000
"""What is left for a router's default class at least, in bit/s."""
MAX_SLOT = 4094
"""So many owners can have queues; the other half of HTB's minor numbers is left to who makes the classes."""

Wires = Callable[[int], list[int]]
"""Takes a network's VLAN id, returns those under which its frames leave a port: 0 untagged, empty if they do not."""


@dataclass(frozen=True, slots=True)
class Room:
    """A port: what it carries in bit/s (0: nobody says), and how many owners' frames leave by it, hired or not."""

    capacity: int
    owners: int = 0

    @property
    def control_rate(self) -> int:
        """What the control traffic of each owner is sure of."""
        return max(1, min(CONTROL_RATE, self.capacity // (CONTROL_PART * max(1, self.owners))))

    @property
    def control_ceiling(self) -> int:
        """What the control traffic of each owner may use."""
        return max(self.control_rate, min(CONTROL_CEILING, self.capacity // CONTROL_PART))

    @property
    def control(self) -> int:
        """What is set aside for control traffic."""
        return self.owners * self.control_rate

    @property
    def left(self) -> int:
        """What can be hired."""
        return self.capacity - self.control


class Slots:
    """A number for each owner, a digest of its key; of two with one digest the later one takes the next.

    So it depends on who came first: a controller that starts has to `restore` what the switches have.
    """

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._taken: set[int] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._slots

    def of(self, key: str) -> int:
        """Return the slot of an owner that has one."""
        return self._slots[key]

    def assign(self, keys: Sequence[str]) -> list[str]:
        """Give the first owners their slots, and forget all that are not named; return those for whom none is left."""
        served = keys[:MAX_SLOT]
        for key in self._slots.keys() - set(served):
            self._taken.discard(self._slots.pop(key))
        for key in served:
            if key not in self._slots:
                self._take(key, _digest(key))
        return list(keys[MAX_SLOT:])

    def restore(self, key: str, slot: int) -> None:
        """Give an owner the slot that it had, if it has none and nobody else has that one."""
        if key not in self._slots and slot not in self._taken and 0 < slot <= MAX_SLOT:
            self._take(key, slot)

    def _take(self, key: str, slot: int) -> None:
        while slot in self._taken:
            slot = slot % MAX_SLOT + 1
        self._slots[key] = slot
        self._taken.add(slot)


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2s(key.encode(), digest_size=4).digest(), "big") % MAX_SLOT + 1


def sure(hire: Hire) -> int:
    """Return what an owner's queues have hired on each port if it is admitted, control left out."""
    return sum(item.rate for item in hire.classes) + _default_rate(hire)


def _default_rate(hire: Hire) -> int:
    return max(hire.rate - sum(item.rate for item in hire.classes), MIN_RATE)


def queues(hire: Hire, slot: int, wires: Wires, room: Room, *, admitted: bool) -> list[Queue]:
    """Return the owner's queues on a port; control first, then its classes in order, then the default one."""
    found = []
    for number in _numbers(hire, admitted=admitted):
        identity, selectors = classes.queue_id(slot, number), _selectors(hire, number, wires)
        if number == CONTROL_CLASS:
            rate, ceiling = room.control_rate, room.control_ceiling
            found.append(Queue(identity, hire.name, "control", rate, ceiling, True, selectors))
        elif number == DEFAULT_CLASS:
            left = _default_rate(hire)
            ceiling = max(hire.ceiling, left) if hire.ceiling else 0
            found.append(Queue(identity, hire.name, "", left, ceiling, False, selectors))
        else:
            item = hire.classes[number - 1]
            ceiling = min(filter(None, (item.ceiling, hire.ceiling)), default=0)
            found.append(Queue(identity, hire.name, item.name, item.rate, ceiling, False, selectors))
    return found


def flows(hire: Hire, slot: int, *, admitted: bool) -> pipeline.Flows:
    """Return the flows that put the owner's frames into their classes, and the classes into their queues."""
    found: pipeline.Flows = {}
    numbers = _numbers(hire, admitted=admitted)
    for vid, mac in (*hire.frames, *hire.moving):
        found |= classes.queued(vid, mac, hire.owner, slot, numbers)
    for vid, mac in hire.frames:
        for number in numbers:
            if number not in (CONTROL_CLASS, DEFAULT_CLASS):
                for match in hire.classes[number - 1].matches:
                    found |= classes.classed(vid, mac, hire.owner, number, match)
    return found


def _numbers(hire: Hire, *, admitted: bool) -> list[int]:
    """Return the classes of which the owner has queues."""
    return [CONTROL_CLASS, *range(1, len(hire.classes) + 1), DEFAULT_CLASS] if admitted else [CONTROL_CLASS]


def _selectors(hire: Hire, number: int, wires: Wires) -> tuple[Selector, ...]:
    """Return how the class's frames look as they leave the port."""
    found: list[Selector] = []
    for vid, mac in (*hire.frames, *hire.moving):
        for wire in wires(vid):
            if wire:
                found.append(Selector(wire, mac, -1 if number == DEFAULT_CLASS else number))
            else:
                found += [Selector(0, mac, -1, match) for match in _matches(hire, number)]
    return tuple(found)


def _matches(hire: Hire, number: int) -> tuple[Match | None, ...]:
    if number == CONTROL_CLASS:
        return classes.CONTROL_MATCHES
    return (None,) if number == DEFAULT_CLASS else hire.classes[number - 1].matches

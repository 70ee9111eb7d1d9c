"""Who is sure of what it hired, link by link (pure).

Place in the flow: owners and their ports -> *admitted, refused, broken promises* -> Queues, operators.

Who is admitted stays so: neither a new owner nor a link that fails takes it away. An owner is admitted when what it
hired fits on every port that its frames leave by, beside what others hired there and what control queues have. Where
the ways of admitted owners come to more than a link carries, after a failure, the promise is broken, and that is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from xenflow.bandwidth import rate_text
from xenflow_app.hires import Hire, Place
from xenflow_app.queueing import MAX_SLOT, Room, sure

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Broken:
    """A promise that a link cannot keep: what was hired there, what it carries, what control has of it (bit/s).

    `owners` are the keys of those who were promised.
    """

    place: Place
    hired: int
    capacity: int
    control: int
    owners: tuple[str, ...]


class Admission:
    """See the module. `admitted` and `refused` (with the reason) are keys of owners, `hired` is bit/s by port."""

    def __init__(self) -> None:
        self.admitted: set[str] = set()
        self.refused: dict[str, str] = {}
        self.broken: tuple[Broken, ...] = ()
        self.hired: dict[Place, int] = {}

    def update(
        self,
        owners: Iterable[Hire],
        places: Mapping[str, Set[Place]],
        rooms: Mapping[Place, Room],
        first: Set[int] = frozenset(),
    ) -> dict[str, str]:
        """Let in who fits; return who is refused now and was not before, with the reason.

        `places` has the ports of each owner by key. Of those who are new, owners in `first` come first.
        """
        hiring = {hire.key: hire for hire in owners if hire.rate}
        self.admitted &= hiring.keys()
        self.hired = {}
        for key in sorted(self.admitted):
            self._add(hiring[key], places[key])
        refused: dict[str, str] = {}
        for hire in sorted(hiring.values(), key=lambda item: (item.owner not in first, item.key)):
            if hire.key in self.admitted:
                continue
            reason = self._no_queues() or self.no_room(hire, places[hire.key], rooms)
            if reason:
                refused[hire.key] = reason
            else:
                self.admitted.add(hire.key)
                self._add(hire, places[hire.key])
        new = {key: reason for key, reason in refused.items() if key not in self.refused}
        self.refused = refused
        for key, reason in new.items():
            log.error("not admitted %s: %s", key, reason)
        self._note_broken(places, rooms)
        return new

    def _no_queues(self) -> str:
        """Return why nobody else can have queues; empty if somebody can."""
        return f"{MAX_SLOT} owners have queues, and there are no more" if len(self.admitted) >= MAX_SLOT else ""

    def no_room(self, hire: Hire, places: Iterable[Place], rooms: Mapping[Place, Room]) -> str:
        """Return why the owner's rate does not fit these ports beside what is hired; empty if it does."""
        for place in sorted(places):
            room, taken, more = rooms[place], self.hired.get(place, 0), sure(hire)
            if room.capacity and taken + more > room.left:
                node, port = place
                return (
                    f"{rate_text(more)} do not fit link {node}:{port}: {rate_text(taken)} of"
                    f" {rate_text(room.capacity)} are hired already, {rate_text(room.control)} are for control"
                )
        return ""

    def without(self, hire: Hire, places: Iterable[Place]) -> Admission:
        """Return a copy in which the owner hires nothing on its ports."""
        other = Admission()
        other.hired = dict(self.hired)
        for place in places:
            other.hired[place] = other.hired.get(place, sure(hire)) - sure(hire)
        return other

    def _add(self, hire: Hire, places: Iterable[Place]) -> None:
        for place in places:
            self.hired[place] = self.hired.get(place, 0) + sure(hire)

    def _note_broken(self, places: Mapping[str, Set[Place]], rooms: Mapping[Place, Room]) -> None:
        broken = tuple(
            Broken(place, hired, room.capacity, room.control, self._owners(place, places))
            for place, hired in sorted(self.hired.items())
            if (room := rooms[place]).capacity and hired > room.left
        )
        for item in broken:
            if item not in self.broken:
                hired, carried, control = map(rate_text, (item.hired, item.capacity, item.control))
                said = f"{hired} are hired, it carries {carried}, {control} of that control"
                log.error("promise broken link=%s:%s: %s; by %s", *item.place, said, ", ".join(item.owners))
        for item in self.broken:
            if item.place not in {other.place for other in broken}:
                log.info("promise kept again link=%s:%s", *item.place)
        self.broken = broken

    def _owners(self, place: Place, places: Mapping[str, Set[Place]]) -> tuple[str, ...]:
        return tuple(key for key in sorted(self.admitted) if place in places[key])

"""Pure: which machine is to get which processor and memory, when to ask for it, and what came of it.

    definitions, who runs here -> *due* -> `ResourceControl` (thread) -> Grant -> Granted facts, alarms

Asked for: when the machine appears (also after a migration), when its definition changes, when the hypervisor is back;
then now and then, for memory goes and comes as the guest gives it, and people have tools of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from xenflow.errors import DataplaneError
from xenflow.resources import MAX_REASON, RANGES, Granted, Resources

LOOK_S = 30.0
"""How often a machine that has what it is to have is looked at."""
AGAIN_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""When to ask again if it has not, growing."""
_MEMORY_PART = 50
"""Hypervisors count pages of their own as the machine's: memory is right within one part in so many."""


class Adjustable(Protocol):
    """A machine that runs; every call may wait for the hypervisor. All raise DataplaneError with the reason."""

    def read(self) -> Resources:
        """Return what it has; None for what the hypervisor cannot tell."""

    def change(self, key: str, value: int) -> None:
        """Give it so much of one resource while it runs. What is refused leaves it as it is."""

    def nearest(self, key: str, value: int) -> int:
        """Return what the hypervisor makes of a value: its scale may be coarser."""


class ResourceControl(Protocol):
    """Gives machines what they are to have."""

    async def grant(self, uuid: str, wanted: Resources) -> Grant:
        """Return what the machine has, after what is wanted has been tried. Raises DataplaneError: not to be asked."""


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """What a machine has, and why not what is wanted."""

    has: Resources
    problems: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What the machine of a router is to have."""

    name: str
    uuid: str
    wanted: Resources


def fit(machine: Adjustable, wanted: Resources) -> Grant:
    """Change what differs, one thing after the other: one that is refused does not stop the others."""
    has = machine.read()
    differs = [(key, value) for key, value in wanted.said() if not _same(machine, key, value, getattr(has, key))]
    refused: dict[str, str] = {}
    for key, value in differs:
        try:
            machine.change(key, value)
        except DataplaneError as error:
            refused[key] = str(error)
    if differs:
        has = machine.read()
    for key, value in wanted.said():
        now = getattr(has, key)
        if key not in refused and not _same(machine, key, value, now):
            why = "the guest has not followed (yet)" if key in ("memory_mib", "vcpus") else "not taken"
            refused[key] = why if now is None else f"{why}: it has {now}"
    problems = [f"{key} = {getattr(wanted, key)}: {refused[key]}"[:MAX_REASON] for key in RANGES if key in refused]
    return Grant(has, tuple(problems))


def _same(machine: Adjustable, key: str, value: int, now: int | None) -> bool:
    if now is None:
        return False
    if key == "memory_mib":
        return abs(value - now) <= value // _MEMORY_PART
    return machine.nearest(key, value) == now


class Granting:
    """What is wanted and what was got, by router; `now` is monotonic time in seconds."""

    def __init__(self) -> None:
        self._wishes: dict[str, Wish] = {}
        self._grants: dict[str, Grant] = {}
        self._due: dict[str, float] = {}
        self._tries: dict[str, int] = {}

    def want(self, wishes: Mapping[str, Wish]) -> bool:
        """Take what all machines that run here are to have; return whether something is due at once."""
        for name in self._wishes.keys() - wishes.keys():
            self._forget(name)
        fresh = [name for name, wish in wishes.items() if self._wishes.get(name) != wish]
        for name in fresh:
            self._grants.pop(name, None)
        self._wishes = dict(wishes)
        self._hurry(fresh)
        return bool(fresh)

    def again(self) -> None:
        """The hypervisor has been away: whatever has happened meanwhile, all are due."""
        self._hurry(self._wishes)

    def next_deadline(self) -> float | None:
        """Return when a wish is due, None if there is none."""
        return min(self._due.values(), default=None)

    def due(self, now: float) -> Wish | None:
        """Return what to ask for now."""
        name = min(self._due, key=self._due.__getitem__, default=None)
        return self._wishes[name] if name is not None and self._due[name] <= now else None

    def take(self, wish: Wish, grant: Grant, now: float) -> bool:
        """Take what came of a wish; return whether that is news. A wish that has changed meanwhile is due as it was."""
        name = wish.name
        if self._wishes.get(name) != wish:
            return False
        tries = self._tries.get(name, 0)
        good = not grant.problems or tries >= len(AGAIN_S)
        self._due[name] = now + (LOOK_S if good else AGAIN_S[tries])
        self._tries[name] = tries + 1 if grant.problems else 0
        news = self._grants.get(name) != grant
        self._grants[name] = grant
        return news

    def facts(self) -> list[Granted]:
        """Return what is known."""
        return [Granted(name, grant.has, grant.problems) for name, grant in sorted(self._grants.items())]

    def problems(self) -> list[str]:
        """Return what machines have not got."""
        return [f"router {name}: {text}" for name, grant in sorted(self._grants.items()) for text in grant.problems]

    def _hurry(self, names: Mapping[str, Wish] | list[str]) -> None:
        for name in names:
            self._due[name] = 0.0
            self._tries[name] = 0

    def _forget(self, name: str) -> None:
        for table in (self._wishes, self._grants, self._due, self._tries):
            table.pop(name, None)

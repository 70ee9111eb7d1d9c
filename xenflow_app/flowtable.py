"""Desired and actual flows of one datapath, and the ordered difference between them (pure).

Place in the flow: plan -> *desired - actual* -> batches of flow-mods -> switch; flow dump -> actual.

What it keeps true
- A flow-mod is due exactly where desired and actual differ; applying a plan twice sends nothing the second time.
- In a batch, flows that are referred to (higher tables) come before flows that refer to them; deletes come last and in
  the reverse order. On one connection Open vSwitch executes flow-mods in order, so this is make before break.
- Within a table the higher priority comes first, and goes last: while routes come and go, no packet follows a shorter
  prefix only because the longer one's turn is still to come.
- A flow that is installed but not desired is deleted only when its owner is in sync; until then it is *held*.
- A flow that the switch refused is left out until its value changes or the next dump; the others go on.
- Flows without our cookie prefix are not ours, and not seen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

FlowKey = bytes
FlowValue = bytes
Owner = int

COOKIE_PREFIX = 0x5846
"""The upper 16 bits of every cookie of ours ("XF")."""
FABRIC: Owner = 0
"""The owner of what belongs to no router: ports, networks, trees, ways to known MAC addresses."""
_RANK = 3
"""So many bytes of a key are table and priority: the order in which flows come, and in reverse go."""


def cookie(kind: int, owner: Owner) -> int:
    """Return a cookie: prefix (16 bits), kind (8), zero (8), owner (32: a router's id or FABRIC)."""
    return COOKIE_PREFIX << 48 | kind << 40 | owner


def is_ours(value: FlowValue) -> bool:
    """Tell by the cookie whether we made the flow."""
    return value[:2] == b"XF"


def kind_of(value: FlowValue) -> int:
    """Return the kind in a flow's cookie."""
    return value[2]


def owner_of(value: FlowValue) -> Owner:
    """Return the owner in a flow's cookie."""
    return int.from_bytes(value[4:8], "big")


@dataclass(slots=True)
class Batch:
    """Flow-mods to send, in order: upserts with their value, then deletes with the value that goes."""

    upserts: list[tuple[FlowKey, FlowValue]] = field(default_factory=list)
    deletes: list[tuple[FlowKey, FlowValue]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.upserts) + len(self.deletes)


class FlowTable:
    """See the module. `ready` is False until the first dump has been seen: nothing is due before."""

    def __init__(self) -> None:
        self.desired: dict[FlowKey, FlowValue] = {}
        self.actual: dict[FlowKey, FlowValue] = {}
        self.refused: dict[FlowKey, tuple[FlowValue, str]] = {}
        self.ready = False
        self._groups: dict[tuple[object, ...], tuple[FlowKey, ...]] = {}
        self._upserts: dict[bytes, dict[FlowKey, None]] = {}  # by table and priority, as in the key's first bytes
        self._deletes: dict[bytes, dict[FlowKey, None]] = {}
        self._held: dict[Owner, set[FlowKey]] = {}

    def want(self, key: FlowKey, value: FlowValue) -> None:
        """Desire a flow."""
        self.desired[key] = value
        if self.ready:
            self._compare(key)

    def unwant(self, key: FlowKey) -> None:
        """Desire no such flow."""
        if self.desired.pop(key, None) is not None and self.ready:
            self._compare(key)

    def want_group(self, group: tuple[object, ...], flows: Mapping[FlowKey, FlowValue]) -> None:
        """Desire exactly `flows` for what `group` names; what it had before and has no more is desired no more."""
        before = self._groups.get(group, ())
        for key, value in flows.items():
            if self.desired.get(key) != value:
                self.want(key, value)
        for key in before:
            if key not in flows:
                self.unwant(key)
        if flows:
            self._groups[group] = tuple(flows)
        else:
            self._groups.pop(group, None)

    def drop_groups(self, chosen: Callable[[tuple[object, ...]], bool]) -> None:
        """Desire nothing any more for the groups whose name `chosen` accepts."""
        for group in [name for name in self._groups if chosen(name)]:
            self.want_group(group, {})

    def resync(self, actual: dict[FlowKey, FlowValue], in_sync: Callable[[Owner], bool]) -> None:
        """Take a complete dump of our flows as the truth, and work out every difference."""
        self.actual = actual
        self.ready = True
        self.refused.clear()
        self._upserts.clear()
        self._deletes.clear()
        self._held.clear()
        for key, value in self.desired.items():
            if actual.get(key) != value:
                self._upserts.setdefault(key[:_RANK], {})[key] = None
        for key, value in actual.items():
            if key not in self.desired:
                owner = owner_of(value)
                if in_sync(owner):
                    self._deletes.setdefault(key[:_RANK], {})[key] = None
                else:
                    self._held.setdefault(owner, set()).add(key)

    def lost(self) -> None:
        """The switch is gone: what it holds is unknown until the next dump."""
        self.ready = False
        self._upserts.clear()
        self._deletes.clear()

    def release(self, owner: Owner) -> None:
        """The owner is in sync: what is installed for it and not desired may go."""
        for key in self._held.pop(owner, ()):
            if key in self.actual and key not in self.desired:
                self._deletes.setdefault(key[:_RANK], {})[key] = None

    def gone(self, key: FlowKey) -> None:
        """The switch removed the flow by itself (idle timeout)."""
        if self.actual.pop(key, None) is not None and self.ready:
            self._compare(key)

    def refuse(self, key: FlowKey, reason: str) -> None:
        """The switch refused the last flow-mod for `key`: it is not installed, and not tried again as it is."""
        value = self.actual.pop(key, None)
        if value is not None:
            self.refused[key] = (value, reason)

    def held_owners(self) -> list[Owner]:
        """Return the owners for which installed flows are held."""
        return list(self._held)

    @property
    def held(self) -> int:
        """How many installed flows wait for their owner to be in sync."""
        return sum(len(keys) for keys in self._held.values())

    @property
    def pending(self) -> int:
        """How many flow-mods are due."""
        return sum(map(len, self._upserts.values())) + sum(map(len, self._deletes.values()))

    def is_pending(self, key: FlowKey) -> bool:
        """Tell whether a flow-mod for `key` is due."""
        return any(key in keys.get(key[:_RANK], ()) for keys in (self._upserts, self._deletes))

    def count_by_owner(self) -> dict[Owner, int]:
        """Return how many installed flows each owner has."""
        counts = Counter(value[4:8] for value in self.actual.values())
        return {int.from_bytes(owner, "big"): count for owner, count in counts.items()}

    @property
    def due(self) -> bool:
        """Whether a flow-mod is due."""
        return self.ready and (any(self._upserts.values()) or any(self._deletes.values()))

    def take(self, most: int) -> Batch:
        """Return the next flow-mods, at most `most`, and count them as done."""
        batch = Batch()
        for rank in sorted(self._upserts, reverse=True):
            keys = self._upserts[rank]
            while keys and len(batch) < most:
                for key in _take_first(keys, most - len(batch)):
                    self._upsert(batch, key)
        if not any(self._upserts.values()):
            self._upserts.clear()
            for rank in sorted(self._deletes):
                keys = self._deletes[rank]
                for key in _take_first(keys, most - len(batch)):
                    value = self.actual.pop(key, None)
                    if value is not None:
                        batch.deletes.append((key, value))
        return batch

    def _upsert(self, batch: Batch, key: FlowKey) -> None:
        value = self.desired.get(key)
        if value is None or self.actual.get(key) == value:
            return
        refused = self.refused.get(key)
        if refused is not None:
            if refused[0] == value:
                return
            del self.refused[key]
        batch.upserts.append((key, value))
        self.actual[key] = value

    def _compare(self, key: FlowKey) -> None:
        """Note what is due for `key`."""
        rank = key[:_RANK]
        value = self.desired.get(key)
        if value is None:
            if key in self.actual:
                self._deletes.setdefault(rank, {})[key] = None
            waiting = self._upserts.get(rank)
            if waiting is not None:
                waiting.pop(key, None)
            return
        waiting = self._deletes.get(rank)
        if waiting:
            waiting.pop(key, None)
        if self.actual.get(key) != value:
            self._upserts.setdefault(rank, {})[key] = None
        elif (waiting := self._upserts.get(rank)) is not None:
            waiting.pop(key, None)


def _take_first(keys: dict[FlowKey, None], most: int) -> list[FlowKey]:
    """Remove and return the first keys, at most `most`; all at once, for a dict finds its first key by searching."""
    taken = list(islice(keys, most))
    for key in taken:
        del keys[key]
    return taken

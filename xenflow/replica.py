"""A keyed table kept equal at both ends: the sender's `Outbox` and the receiver's `Inbox`, each for one scope.

    facts -put/drop-> Outbox -take-> Begin, Update..., End, Update... == session == Inbox -receive-> Change

Rules: the latest state wins, so that what waits is never more than the table; the cost of a change does not grow with
the table; the receiver forgets nothing before the snapshot is complete (End). No I/O, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from xenflow.errors import Fault, RemoteProtocolError
from xenflow.facttable import FactTable
from xenflow.model import Fact, Hop, Key, Machine, Port, Route
from xenflow.shape import malformed, malformed_route
from xenflow.wire import CHUNK_FACTS, Begin, End, Message, Update

_CHUNK_WEIGHT = 8 * CHUNK_FACTS
"""Sum of `_weight` in one Update at the most; at 60 bytes each that is below MAX_FRAME_BYTES."""
_MAX_INTERNED = 4096
"""Distinct sets of next hops that are shared; beyond, sharing starts anew."""


class Outbox:
    """The sender's side. `facts` is what the receiver will have when all has been taken and has arrived.

    Until the first `restart` nothing is sent: there is no connection yet. A snapshot walks the keys that stood in the
    table at `restart`, of routes the longest first, and reads each value when its turn comes, so nothing is copied but
    the keys; what changes meanwhile is sent with it, and before End. While `held`, End is kept back: the table is not
    complete yet, as with a relay whose own source is not in sync.
    """

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.facts = FactTable()
        self.last_seq = 0
        self.held = False
        self._changed: dict[Key, bool] = {}  # True: the receiver cannot know the key yet; in order of change
        self._unsent: deque[tuple[int, Iterator[bytes]]] = deque()
        self._connected = False
        self._begin = False
        self._end = False

    @property
    def pending(self) -> bool:
        """Whether `take` has something to send."""
        return bool(self._begin or self._unsent or self._changed) or (self._end and not self.held)

    def put(self, fact: Fact) -> None:
        """Add or replace a fact; one that is equal already changes nothing."""
        kind = fact.KIND
        key = fact.prefix if type(fact) is Route else fact.key
        old = self.facts.set(kind, key, fact)
        if old == fact or not self._connected:
            return
        where = (kind, key)
        if old is None:
            self._changed[where] = self._changed.pop(where, None) is None
        elif where not in self._changed:
            self._changed[where] = False

    def drop(self, kind: int, key: bytes) -> None:
        """Remove a fact; one that is not there changes nothing."""
        if self.facts.pop(kind, key) is None or not self._connected:
            return
        if self._changed.pop((kind, key), False):
            return  # added and gone again before anybody was told
        self._changed[kind, key] = False

    def replace(self, facts: Iterable[Fact]) -> None:
        """Make the table exactly `facts`; only differences become pending."""
        gone = {kind: dict.fromkeys(table) for kind, table in self.facts.kinds.items()}
        for fact in sorted(facts, key=_longest_first):
            if fact.KIND in gone:
                gone[fact.KIND].pop(fact.key, None)
            self.put(fact)
        for kind, keys in gone.items():
            for key in sorted(keys, key=_shortest_first) if kind == Route.KIND else keys:
                self.drop(kind, key)

    def restart(self) -> None:
        """Start over on a new connection: Begin, all facts, End will be taken next."""
        self._changed.clear()
        self._unsent = deque((kind, iter(self._snapshot_keys(kind))) for kind in sorted(self.facts.kinds))
        self._connected = self._begin = self._end = True

    def _snapshot_keys(self, kind: int) -> list[bytes]:
        """Return the keys of a kind in the order of the snapshot; no route comes before a longer one."""
        keys = list(self.facts.kinds[kind])
        if kind == Route.KIND:
            keys.sort(key=_length, reverse=True)
        return keys

    def stop(self) -> None:
        """Send nothing until the next `restart`: the connection is gone. Changes cost no memory meanwhile."""
        self._changed.clear()
        self._unsent.clear()
        self._connected = self._begin = self._end = False

    def take(self, max_facts: int = CHUNK_FACTS) -> list[Message]:
        """Return the next messages to send, with `max_facts` facts at the most; empty when nothing is pending."""
        messages: list[Message] = []
        if not self.pending:
            return messages
        if self._begin:
            self._begin = False
            messages.append(Begin(self.scope))
        room = max(max_facts, 1)
        while room > 0 and (update := self._next_update(min(room, CHUNK_FACTS))) is not None:
            messages.append(update)
            room -= len(update.upserts) + len(update.withdrawals)
        if self._end and not (self._unsent or self._changed or self.held):
            self._end = False
            self.last_seq += 1
            messages.append(End(self.scope, self.last_seq))
        return messages

    def _next_update(self, room: int) -> Update | None:
        upserts: list[Fact] = []
        withdrawals: list[Key] = []
        self._take_snapshot(upserts, room)
        self._take_changes(upserts, withdrawals, room)
        if not upserts and not withdrawals:
            return None
        self.last_seq += 1
        return Update(self.scope, self.last_seq, upserts, withdrawals)

    def _take_snapshot(self, upserts: list[Fact], room: int) -> None:
        weight = 0
        while self._unsent:
            kind, keys = self._unsent[0]
            table = self.facts.of(kind)
            for key in keys:
                fact = table.get(key)
                if fact is None:
                    continue
                if self._changed:
                    self._changed.pop((kind, key), None)
                upserts.append(fact)
                weight += _weight(fact)
                if len(upserts) >= room or weight >= _CHUNK_WEIGHT:
                    return
            self._unsent.popleft()

    def _take_changes(self, upserts: list[Fact], withdrawals: list[Key], room: int) -> None:
        weight = sum(map(_weight, upserts))
        taken = []
        for where in self._changed:
            if len(upserts) + len(withdrawals) >= room or weight >= _CHUNK_WEIGHT:
                break
            taken.append(where)
            fact = self.facts.of(where[0]).get(where[1])
            if fact is None:
                withdrawals.append(where)
            else:
                upserts.append(fact)
                weight += _weight(fact)
        if len(taken) == len(self._changed):
            self._changed.clear()
        else:
            for where in taken:
                del self._changed[where]


@dataclass(slots=True)
class Change:
    """What a message really changed at the receiver; `withdrawals` are (kind, key) of facts that were known."""

    upserts: list[Fact] = field(default_factory=list)
    withdrawals: list[Key] = field(default_factory=list)
    in_sync: bool = False
    seq: int = 0


class Inbox:
    """The receiver's side. `facts` is the sender's table as far as it is known.

    `in_sync` says that it is complete. It stays as it is when a connection ends (`suspend`), until the End of the next
    snapshot says which facts are gone.
    """

    def __init__(self, scope: str | None = None) -> None:
        self.scope = scope
        self.facts = FactTable()
        self.seq = 0
        self.in_sync = False
        self._begun = False
        self._first = True
        self._unseen: dict[int, set[bytes]] | None = None  # during a snapshot: known before, not seen in it
        self._hops: dict[tuple[Hop, ...], tuple[Hop, ...]] = {}

    def seed(self, facts: Iterable[Fact]) -> None:
        """Take over what another inbox of the same scope knows; the next snapshot says what of it still holds."""
        for fact in facts:
            self.facts.set(fact.KIND, fact.key, fact)

    def suspend(self) -> None:
        """The connection is gone: the facts stay, but only Begin may come next."""
        self._begun = self.in_sync = False

    def receive(self, message: Begin | Update | End) -> Change:
        """Take a message in and return what changed.

        Raises RemoteProtocolError for a gap in the sequence, another scope's message, anything but Begin at first, or
        a fact that cannot be. The table is then as it was before the message.
        """
        if self.scope is None:
            self.scope = message.scope
        elif message.scope != self.scope:
            raise RemoteProtocolError(f"{message.scope!r} is not the scope {self.scope!r}", Fault.SEQUENCE)
        if isinstance(message, Begin):
            self._begun = self._first = True
            self.in_sync = False
            self._unseen = {kind: set(table) for kind, table in self.facts.kinds.items()}
            return Change(seq=self.seq)
        self._check_sequence(message)
        change = Change(seq=message.seq)
        if isinstance(message, Update):
            self._check_facts(message)
            self._advance(message.seq)
            self._take_in(message.upserts, change)
            self._withdraw(message.withdrawals, change)
        else:
            self._advance(message.seq)
            self._complete(change)
        change.in_sync = self.in_sync
        return change

    def _check_sequence(self, message: Update | End) -> None:
        if not self._begun:
            raise RemoteProtocolError("a change without a snapshot (Begin) before it", Fault.SEQUENCE)
        if isinstance(message, End) and self._unseen is None:
            raise RemoteProtocolError("the end of a snapshot that did not begin", Fault.SEQUENCE)
        if message.seq < 1 or (message.seq != self.seq + 1 and not self._first):
            raise RemoteProtocolError(f"sequence number {message.seq} after {self.seq}", Fault.SEQUENCE)

    def _advance(self, seq: int) -> None:
        self.seq = seq
        self._first = False

    def _check_facts(self, message: Update) -> None:
        problem = ""
        for fact in message.upserts:
            if type(fact) is Route:
                known = fact.hops in self._hops
                problem = malformed_route(fact, hops_known=known)
                if not known and not problem:
                    self._remember(fact.hops)
            else:
                problem = malformed(fact)
            if problem:
                raise RemoteProtocolError(f"{type(fact).__name__}: {problem}", Fault.CONTENT)

    def _remember(self, hops: tuple[Hop, ...]) -> None:
        if len(self._hops) >= _MAX_INTERNED:
            self._hops.clear()
        self._hops[hops] = hops

    def _take_in(self, facts: list[Fact], change: Change) -> None:
        unseen = self._unseen
        for fact in facts:
            kind = fact.KIND
            if type(fact) is Route:
                key = fact.prefix
                hops = self._hops.get(fact.hops)
                if hops is not None and hops is not fact.hops:
                    fact = Route(key, fact.kind, hops)
            else:
                key = fact.key
            if unseen and kind in unseen:
                unseen[kind].discard(key)
            if self.facts.of(kind).get(key) != fact:
                self.facts.set(kind, key, fact)
                change.upserts.append(fact)

    def _withdraw(self, keys: list[Key], change: Change) -> None:
        for where in keys:
            kind, key = where
            if self._unseen and kind in self._unseen:
                self._unseen[kind].discard(key)
            if self.facts.pop(kind, key) is not None:
                change.withdrawals.append(where)

    def _complete(self, change: Change) -> None:
        unseen, self._unseen = self._unseen or {}, None
        for kind, keys in unseen.items():
            for key in sorted(keys, key=_shortest_first) if kind == Route.KIND else sorted(keys):
                if self.facts.pop(kind, key) is not None:
                    change.withdrawals.append((kind, key))
        self.in_sync = True


def _shortest_first(prefix: bytes) -> tuple[int, bytes]:
    """Order in which prefixes go, so that no packet ever follows a shorter one whose turn is still to come."""
    return prefix[-1], prefix


def _length(prefix: bytes) -> int:
    return prefix[-1]


def _longest_first(fact: Fact) -> int:
    """Order in which facts come: no route before a longer one."""
    return -fact.prefix[-1] if type(fact) is Route else 0


def _weight(fact: Fact) -> int:
    if type(fact) is Route:
        return 1 + len(fact.hops)
    if type(fact) is Machine:
        return 4 + sum(4 + len(interface.addresses) for interface in fact.interfaces)
    if type(fact) is Port:
        return 4 + 2 * len(fact.attachments)
    return 2

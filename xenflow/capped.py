"""Which routes are kept when there are more than the cap allows: the longest prefixes, so that nothing goes astray.

Place in the flow: client and server choose the routes that they report, the app those that get flows of their own;
what is hidden (shed) goes to the VM by its default. A hidden route must never be forwarded by a shorter one, so a
route is visible only if every longer one is:

    longest prefix  |#########visible#########|----hidden----|  shortest       ties: the higher packed prefix first
                                              ^ cap

Rules: a change costs O(log n) (amortized), and no more than a dictionary below the cap. The moves are applied in
order, and after each of them the rule above holds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from xenflow.model import Prefix

V = TypeVar("V")

_V6 = 1 << 128
_LENGTH_SHIFT = 129


@dataclass(frozen=True, slots=True)
class Move:
    """What to do to the visible table: show `prefix` (or show it with a new value), or take it away."""

    prefix: Prefix
    shown: bool


class CappedRoutes(Generic[V]):
    """Routes by prefix, of which `cap` at the most are visible; 0 is no cap.

    The moves that a change returns are all that happened to the visible table, so whoever applies them needs to know
    nothing else. Two heaps find the worst visible and the best hidden route; entries that are out of date stay in them
    until they surface or are too many.
    """

    def __init__(self, cap: int = 0) -> None:
        self.cap = cap
        self._values: dict[Prefix, V] = {}
        self._hidden: set[Prefix] = set()
        self._worst_visible: list[int] | None = None  # ranks; None until the cap was exceeded
        self._best_hidden: list[int] = []  # negated ranks

    @property
    def visible(self) -> int:
        """How many routes are visible."""
        return len(self._values) - len(self._hidden)

    @property
    def shed(self) -> int:
        """How many routes are hidden."""
        return len(self._hidden)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._values

    def __getitem__(self, prefix: Prefix) -> V:
        return self._values[prefix]

    def is_visible(self, prefix: Prefix) -> bool:
        """Return whether the route is there and visible."""
        return prefix in self._values and prefix not in self._hidden

    def visible_routes(self) -> Iterator[tuple[Prefix, V]]:
        """Yield what is visible, in no order."""
        return ((prefix, value) for prefix, value in self._values.items() if prefix not in self._hidden)

    def put(self, key: Prefix, value: V) -> list[Move]:
        """Add or replace a route; return the moves, none if it is hidden or nothing changed."""
        if key in self._values:
            changed = self._values[key] != value
            self._values[key] = value
            return [Move(key, True)] if changed and key not in self._hidden else []
        self._values[key] = value
        if not self.cap or self.visible <= self.cap:
            if self._worst_visible is not None:
                heapq.heappush(self._worst_visible, _rank(key))
            return [Move(key, True)]
        return self._put_above_cap(key)

    def drop(self, key: Prefix) -> list[Move]:
        """Remove a route; return the moves."""
        if key not in self._values:
            return []
        del self._values[key]
        if key in self._hidden:
            self._hidden.discard(key)
            self._compact()
            return []
        moves = [Move(key, False), *self._fill()]
        self._compact()
        return moves

    def set_cap(self, cap: int) -> list[Move]:
        """Change the cap; return the moves: what must go shortest first, what fits in longest first."""
        self.cap = cap
        moves: list[Move] = []
        while cap and self.visible > cap:
            worst = self._pop_worst()
            self._hide(worst)
            moves.append(Move(worst, False))
        return moves + self._fill()

    def _put_above_cap(self, key: Prefix) -> list[Move]:
        heap = self._visible_heap(without=key)
        rank = _rank(key)
        worst = self._pop_worst(without=key)
        if rank < _rank(worst):
            heapq.heappush(heap, _rank(worst))
            self._hide(key)
            self._compact()
            return []
        self._hide(worst)
        heapq.heappush(heap, rank)
        self._compact()
        return [Move(worst, False), Move(key, True)]

    def _fill(self) -> list[Move]:
        moves: list[Move] = []
        while self._hidden and (not self.cap or self.visible < self.cap):
            best = _prefix(-heapq.heappop(self._best_hidden))
            if best not in self._hidden:
                continue
            self._hidden.discard(best)
            heapq.heappush(self._visible_heap(), _rank(best))
            moves.append(Move(best, True))
        return moves

    def _hide(self, prefix: Prefix) -> None:
        self._hidden.add(prefix)
        heapq.heappush(self._best_hidden, -_rank(prefix))

    def _pop_worst(self, without: Prefix | None = None) -> Prefix:
        """Take the worst visible route out of the heap; an entry of `without` is one of its earlier life."""
        heap = self._visible_heap()
        while True:
            prefix = _prefix(heapq.heappop(heap))
            if prefix != without and self.is_visible(prefix):
                return prefix

    def _visible_heap(self, without: Prefix | None = None) -> list[int]:
        if self._worst_visible is None:
            self._worst_visible = _heap(_rank(prefix) for prefix, _ in self.visible_routes() if prefix != without)
        return self._worst_visible

    def _compact(self) -> None:
        """Forget entries that are out of date once they are more than the others, and the heap far below the cap."""
        if self._worst_visible is not None and not self._hidden and self.visible < self.cap // 2:
            self._worst_visible, self._best_hidden = None, []
        if self._worst_visible is not None and len(self._worst_visible) > 2 * self.visible + 64:
            self._worst_visible = _heap(_rank(prefix) for prefix, _ in self.visible_routes())
        if len(self._best_hidden) > 2 * len(self._hidden) + 64:
            self._best_hidden = _heap(-_rank(prefix) for prefix in self._hidden)


def _heap(ranks: Iterable[int]) -> list[int]:
    heap = list(ranks)
    heapq.heapify(heap)
    return heap


def _rank(prefix: Prefix) -> int:
    """Return the prefix as a number: the higher, the earlier it is visible. Length, family, address."""
    family = _V6 if len(prefix) == 17 else 0
    return prefix[-1] << _LENGTH_SHIFT | family | int.from_bytes(prefix[:-1], "big")


def _prefix(rank: int) -> Prefix:
    """Return the prefix of a rank."""
    size = 16 if rank & _V6 else 4
    return (rank & (_V6 - 1)).to_bytes(size, "big") + bytes([rank >> _LENGTH_SHIFT])

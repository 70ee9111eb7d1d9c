"""A table of facts by kind and key, as both ends of a replica keep it.

One dictionary for each kind, keyed by the bytes that the fact holds anyway, so that a route costs the route and one
slot; the pairs (kind, key) of the mapping exist only while somebody iterates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from xenflow.model import Fact, Key

_NONE: Mapping[bytes, Fact] = MappingProxyType({})


class FactTable(Mapping[Key, Fact]):
    """Facts under (kind, key). Iterates kind by kind, lowest first: what is referred to comes before what refers."""

    __slots__ = ("kinds",)

    def __init__(self) -> None:
        self.kinds: dict[int, dict[bytes, Fact]] = {}

    def of(self, kind: int) -> Mapping[bytes, Fact]:
        """Return the facts of one kind by key; a live view, not to be changed."""
        return self.kinds.get(kind, _NONE)

    def set(self, kind: int, key: bytes, fact: Fact) -> Fact | None:
        """Store a fact and return the one that it replaces."""
        table = self.kinds.get(kind)
        if table is None:
            table = self.kinds[kind] = {}
        old = table.get(key)
        table[key] = fact
        return old

    def pop(self, kind: int, key: bytes) -> Fact | None:
        """Remove a fact and return it, None if there was none."""
        table = self.kinds.get(kind)
        return table.pop(key, None) if table is not None else None

    def __getitem__(self, key: Key) -> Fact:
        return self.of(key[0])[key[1]]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and len(key) == 2 and key[1] in self.of(key[0])

    def __iter__(self) -> Iterator[Key]:
        for kind in sorted(self.kinds):
            for key in self.kinds[kind]:
                yield kind, key

    def __len__(self) -> int:
        return sum(map(len, self.kinds.values()))

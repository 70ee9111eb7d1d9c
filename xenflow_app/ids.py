"""Numbers that fit a register, derived from what they stand for (pure).

A restarted controller must find its own flows again without having stored anything, so numbers are digests: the same
name gives the same number, in any order of events and under either host. Two names with one digest are told apart by
taking the next free number, which may then depend on who came first; nothing breaks if it does.
"""

from __future__ import annotations

import hashlib

_BITS = 32


class Ids:
    """Numbers from 1 to 2**32 - 1 for byte strings; 0 means nobody."""

    def __init__(self) -> None:
        self._number: dict[bytes, int] = {}
        self._name: dict[int, bytes] = {}

    def of(self, name: bytes) -> int:
        """Return the number of `name`, the same one until it is released."""
        number = self._number.get(name)
        if number is None:
            number = int.from_bytes(hashlib.blake2s(name, digest_size=_BITS // 8).digest(), "big")
            while number == 0 or number in self._name:
                number = (number + 1) % (1 << _BITS)
            self._number[name] = number
            self._name[number] = name
        return number

    def name(self, number: int) -> bytes | None:
        """Return whose number it is."""
        return self._name.get(number)

    def release(self, name: bytes) -> None:
        """Forget `name`."""
        number = self._number.pop(name, None)
        if number is not None:
            del self._name[number]

"""Who a process is: its role and name, carried as a URI in its certificate's subjectAltName.

Place in the flow: `xenflow.pki` writes identities into certificates, `xenflow.tls` reads them from a verified peer, and
every session is checked against them. The form is `xenflow:ROLE/NAME` and nothing else: one spelling for each
identity, so that equal identities are equal text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from xenflow.wire import Role

SCHEME: Final = "xenflow:"
NAME_RULE: Final = "a name is 1 to 63 of a-z, 0-9, '.', '_' and '-', and begins with a letter or a digit"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def is_name(text: str) -> bool:
    """Return whether `text` may name a router, a node, a network or another process (NAME_RULE)."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """A role and a name; a value of this class always has a valid name (ValueError otherwise)."""

    role: Role
    name: str

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"{NAME_RULE} (not {self.name[:80]!r})")

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """Return the identity in a URI such as ``xenflow:router/r1``.

        Raises ValueError for any other spelling: no percent encoding, no capitals, no query, no white space.
        """
        if not uri.startswith(SCHEME):
            raise ValueError(f"an identity has the form {SCHEME}ROLE/NAME (not {uri[:80]!r})")
        return cls.from_text(uri[len(SCHEME) :])

    @classmethod
    def from_text(cls, text: str) -> Identity:
        """Return the identity in text such as ``router/r1``, the form that people read. Raises ValueError."""
        role, slash, name = text.partition("/")
        if not slash or role not in _ROLES:
            raise ValueError(f"use one of {', '.join(_ROLES)}, a slash and a name (not {text[:80]!r})")
        return cls(Role(role), name)

    @property
    def uri(self) -> str:
        """The form in certificates."""
        return f"{SCHEME}{self}"

    def __str__(self) -> str:
        return f"{self.role.value}/{self.name}"


_ROLES = tuple(role.value for role in Role)

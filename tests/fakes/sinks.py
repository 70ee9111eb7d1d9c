"""Ends of the client's pipeline that nobody looks at."""

from __future__ import annotations

from xenflow.model import Fact


class NoSink:
    """Takes facts and forgets them."""

    def put(self, fact: Fact) -> None: ...

    def drop(self, kind: int, key: bytes) -> None: ...

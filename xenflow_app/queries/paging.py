"""Many rows in answers of bounded size: a page says where the next one begins (pure)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping

import msgspec

from xenflow.answers import Page, Row
from xenflow_app.queries.names import QueryError

PAGE_ROWS = 4000
PAGE_BYTES = 250_000
"""Of JSON; a frame has at most MAX_FRAME_BYTES, and the controller does nothing else while it makes a page."""


def number(arguments: Mapping[str, str], name: str, default: int) -> int:
    """Return an argument as a number. Raises QueryError."""
    text = arguments.get(name, "")
    if not text:
        return default
    try:
        return int(text, 0)
    except ValueError as error:
        raise QueryError(f"{name}: not a number: {text!r}") from error


def page(keys: Iterable[bytes], arguments: Mapping[str, str], row: Callable[[bytes], Row]) -> Page[Row]:
    """Return the rows of the smallest of `keys` behind the argument `after`, at most `limit` of them.

    `keys` are in any order and sort as they shall be shown.
    """
    try:
        after = bytes.fromhex(arguments.get("after", ""))
    except ValueError as error:
        raise QueryError("after: not what a page said") from error
    most = min(number(arguments, "limit", PAGE_ROWS) or PAGE_ROWS, PAGE_ROWS)
    found = list(keys)
    chosen = heapq.nsmallest(most + 1, (key for key in found if key > after) if after else found)
    rows: list[Row] = []
    size = 0
    for place, key in enumerate(chosen[:most]):
        rows.append(row(key))
        size += len(msgspec.json.encode(rows[-1])) + 1
        if size > PAGE_BYTES and place + 1 < len(chosen):
            return Page(rows, len(found), key.hex())
    return Page(rows, len(found), chosen[most - 1].hex() if len(chosen) > most else "")

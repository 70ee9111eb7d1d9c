"""Answers to operators: what the controller knows and why (docs/design/overview.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from xenflow_app.controller import Controller


def answer(controller: Controller, what: str, arguments: Mapping[str, str]) -> tuple[bytes, str]:
    """Return the answer as JSON, and an error text that is empty if there is an answer."""
    if what == "status":
        return msgspec.json.encode({"settled": controller.fabric.settled}), ""
    return b"", f"unknown question {what!r}"

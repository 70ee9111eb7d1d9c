"""Writes TOML; the standard library only reads it. Enough for settings: text, numbers, booleans, lists and tables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def encode(table: Mapping[str, object]) -> str:
    """Return `table` as a TOML document. Raises TypeError for a value that TOML does not have."""
    return "\n".join(_table(table, "")) + "\n"


def _table(table: Mapping[str, object], path: str) -> list[str]:
    plain = [f"{_key(key)} = {_value(value)}" for key, value in table.items() if not _is_tables(value)]
    nested: list[str] = []
    for key, value in table.items():
        name = f"{path}.{_key(key)}" if path else _key(key)
        if isinstance(value, Mapping):
            nested += [f"[{name}]", *_table(value, name)]
        elif _is_tables(value) and isinstance(value, list | tuple):
            for item in value:
                nested += [f"[[{name}]]", *_table(item, name)]
    return plain + nested


def _is_tables(value: object) -> bool:
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    raise TypeError(f"TOML has no {type(value).__name__}")

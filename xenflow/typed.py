"""Converts plain data (what TOML gives) to msgspec Structs along their types, and collects all problems.

Rules: no problem hides another, except that a table's own checks (`problems()`) need all of its values; nothing is
converted silently (an integer is no text, a boolean no integer); an unknown key is a problem, and the rest goes on.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar, runtime_checkable

import msgspec
import msgspec.inspect as mi

from xenflow.address import Address
from xenflow.identity import Identity

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at `key` (a path such as ``router[2].name``, items counted from 1; empty for the document)."""

    key: str
    reason: str
    value: object = None


@runtime_checkable
class Checked(Protocol):
    """A Struct with checks beyond types."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield (key relative to this table, reason)."""


def convert(document: object, kind: type[T], base: Path) -> tuple[T | None, list[Problem]]:
    """Return `document` as a `kind`, or None and every problem; relative paths are taken from `base`."""
    walk = _Walk(base)
    value = walk.convert(document, mi.type_info(kind), "")
    return (value if isinstance(value, kind) and not walk.problems else None), walk.problems


class _BadType:
    """The result of a conversion that failed; the reason is among the problems."""


_BAD: Final = _BadType()
_TEXT: Final[dict[type, tuple[str, Callable[[str], object]]]] = {
    Address: ("an address such as ssl:HOST:PORT", Address.parse),
    Identity: ("an identity such as router/r1", Identity.from_text),
    ipaddress.IPv4Address: ("an IPv4 address", ipaddress.IPv4Address),
    ipaddress.IPv6Address: ("an IPv6 address", ipaddress.IPv6Address),
    ipaddress.IPv4Network: ("an IPv4 prefix", ipaddress.IPv4Network),
    ipaddress.IPv6Network: ("an IPv6 prefix", ipaddress.IPv6Network),
    ipaddress.IPv4Interface: ("an IPv4 address with prefix length", ipaddress.IPv4Interface),
    ipaddress.IPv6Interface: ("an IPv6 address with prefix length", ipaddress.IPv6Interface),
}


class _Walk:
    """One pass over a document along its types; `problems` collects what is wrong."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.problems: list[Problem] = []

    def convert(self, value: object, wanted: mi.Type, key: str) -> object:
        """Return `value` as `wanted`, or _BAD after noting why not."""
        match wanted:
            case mi.Metadata():
                return self._described(value, wanted, key)
            case mi.StructType():
                return self._table(value, wanted, key)
            case mi.ListType() | mi.VarTupleType():
                return self._list(value, wanted, key)
            case mi.DictType():
                return self._mapping(value, wanted, key)
            case mi.UnionType():
                return self._union(value, wanted, key)
            case mi.CustomType() if wanted.cls is object:
                return value
        try:
            return _scalar(value, wanted, self.base)
        except ValueError as error:
            return self._bad(key, str(error), value)

    def _bad(self, key: str, reason: str, value: object = None) -> object:
        self.problems.append(Problem(key, reason, value))
        return _BAD

    def _described(self, value: object, wanted: mi.Metadata, key: str) -> object:
        text = (wanted.extra_json_schema or {}).get("description")
        trial = _Walk(self.base)
        result = trial.convert(value, wanted.type, key)
        if result is _BAD and text:
            return self._bad(key, f"must be {text}", value)
        self.problems += trial.problems
        return result

    def _table(self, value: object, wanted: mi.StructType, key: str) -> object:
        if not isinstance(value, dict):
            return self._bad(key, "must be a table", value)
        fields = {field.encode_name: field for field in wanted.fields}
        for name in value:
            if name not in fields:
                self._bad(_join(key, name), f"unknown key{_did_you_mean(name, fields)}", value[name])
        arguments: dict[str, object] = {}
        for name, field in fields.items():
            if name in value:
                arguments[field.name] = self.convert(value[name], field.type, _join(key, name))
            elif field.required:
                arguments[field.name] = self._bad(_join(key, name), f"missing; {_text(field.type)} is needed")
        if _BAD in arguments.values():
            return _BAD
        built = wanted.cls(**arguments)
        if isinstance(built, Checked):
            for inner, reason in built.problems():
                at = f"{key}.{inner}" if key and inner else key or inner
                self._bad(at, reason, _value_at(value, inner))
        return built

    def _list(self, value: object, wanted: mi.ListType | mi.VarTupleType, key: str) -> object:
        if not isinstance(value, list):
            return self._bad(key, f"must be {_text(wanted)}", value)
        if isinstance(wanted, mi.ListType) and (
            reason := _size_reason(len(value), wanted.min_length, wanted.max_length, "items")
        ):
            return self._bad(key, reason)
        items = [self.convert(item, wanted.item_type, f"{key}[{number}]") for number, item in enumerate(value, start=1)]
        if _BAD in items:
            return _BAD
        return tuple(items) if isinstance(wanted, mi.VarTupleType) else items

    def _mapping(self, value: object, wanted: mi.DictType, key: str) -> object:
        if not isinstance(value, dict):
            return self._bad(key, "must be a table", value)
        if reason := _size_reason(len(value), wanted.min_length, wanted.max_length, "keys"):
            return self._bad(key, reason)
        result: dict[object, object] = {}
        for name, item in value.items():
            at = _join(key, name)
            trial = _Walk(self.base)
            converted = trial.convert(_plain_key(name, wanted.key_type), wanted.key_type, at)
            self.problems += (Problem(at, f"the key {problem.reason}") for problem in trial.problems)
            if converted in result and converted is not _BAD:
                self._bad(at, "the key stands here twice")
            result[converted] = self.convert(item, wanted.value_type, at)
        return _BAD if _BAD in result or _BAD in result.values() else result

    def _union(self, value: object, wanted: mi.UnionType, key: str) -> object:
        """Take the first type that fits; where several are allowed and none fits, name them all."""
        choices = [choice for choice in wanted.types if not isinstance(choice, mi.NoneType)]
        if len(choices) == 1:
            return self.convert(value, choices[0], key)
        for choice in choices:
            trial = _Walk(self.base)
            result = trial.convert(value, choice, key)
            if not trial.problems:
                return result
        return self._bad(key, f"must be {_text(wanted)}", value)


def _scalar(value: object, wanted: mi.Type, base: Path) -> object:
    """Return a plain value as `wanted`; raises ValueError with the reason."""
    match wanted:
        case mi.BoolType() if isinstance(value, bool):
            return value
        case mi.IntType() if isinstance(value, int) and not isinstance(value, bool):
            return _bounded(value, wanted)
        case mi.FloatType() if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ValueError("must be a finite number")
            return _bounded(float(value), wanted)
        case mi.StrType() if isinstance(value, str):
            return _checked_text(value, wanted)
        case mi.EnumType():
            for member in wanted.cls:
                if member.value == value and isinstance(value, type(member.value)):
                    return member
        case mi.LiteralType() if value in wanted.values:
            return value
        case mi.CustomType() | mi.DataclassType() if isinstance(value, str):
            return _from_text(value, wanted.cls, base)
    raise ValueError(f"must be {_text(wanted)}")


def _bounded(value: float, wanted: mi.IntType | mi.FloatType) -> float:
    checks: tuple[tuple[float | None, Callable[[float, float], bool], str], ...] = (
        (wanted.ge, operator.ge, "at least"),
        (wanted.gt, operator.gt, "more than"),
        (wanted.le, operator.le, "at most"),
        (wanted.lt, operator.lt, "less than"),
    )
    for bound, holds, words in checks:
        if bound is not None and not holds(value, bound):
            raise ValueError(f"out of range: must be {words} {bound}")
    return value


def _checked_text(value: str, wanted: mi.StrType) -> str:
    if reason := _size_reason(len(value), wanted.min_length, wanted.max_length, "characters"):
        raise ValueError(reason)
    if wanted.pattern is not None and not re.search(wanted.pattern, value):
        raise ValueError(f"must match {wanted.pattern}")
    return value


def _from_text(value: str, kind: type, base: Path) -> object:
    if issubclass(kind, Path):
        if not value or "\0" in value:
            raise ValueError("must be a path")
        return base / value
    if kind not in _TEXT:
        raise TypeError(f"settings cannot hold a {kind}")
    wanted, parse = _TEXT[kind]
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"must be {wanted}: {error}") from error


def _size_reason(size: int, least: int | None, most: int | None, what: str) -> str:
    if least is not None and size < least:
        return f"must have at least {least} {what}"
    if most is not None and size > most:
        return f"must have at most {most} {what}"
    return ""


def _plain_key(name: str, wanted: mi.Type) -> object:
    """Return the key of a table as what it spells: TOML has text keys only, a Struct may want numbers."""
    number = isinstance(wanted.type if isinstance(wanted, mi.Metadata) else wanted, mi.IntType)
    return int(name) if number and re.fullmatch(r"0|-?[1-9][0-9]{0,17}", name) else name


def _text(wanted: mi.Type) -> str:
    """Return what a type is called in a sentence."""
    match wanted:
        case mi.Metadata():
            return str((wanted.extra_json_schema or {}).get("description") or _text(wanted.type))
        case mi.UnionType():
            return " or ".join(_text(choice) for choice in wanted.types if not isinstance(choice, mi.NoneType))
        case mi.ListType() | mi.VarTupleType():
            return "a list of tables" if isinstance(wanted.item_type, mi.StructType) else "a list"
        case mi.EnumType():
            return "one of " + ", ".join(repr(member.value) for member in wanted.cls)
        case mi.LiteralType():
            return "one of " + ", ".join(map(repr, wanted.values))
        case mi.CustomType() | mi.DataclassType() if wanted.cls in _TEXT:
            return _TEXT[wanted.cls][0]
        case mi.CustomType():
            return "a path"
    return _PLAIN.get(type(wanted), "another type")


_PLAIN: Final[dict[type, str]] = {
    mi.BoolType: "true or false",
    mi.IntType: "a whole number",
    mi.FloatType: "a number",
    mi.StrType: "text",
    mi.StructType: "a table",
    mi.DictType: "a table",
}


def _join(key: str, name: str) -> str:
    """Return the path of `name` in the table `key`, in TOML's spelling."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        name = '"' + name[:80].encode("unicode_escape").decode().replace('"', '\\"') + '"'
    return f"{key}.{name}" if key else name


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:80], list(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else f"; known here: {', '.join(sorted(known))}"


def _value_at(value: object, key: str) -> object:
    """Return what stands at a relative key in plain data; None where nothing does."""
    for name, number in re.findall(r"([A-Za-z0-9_-]+)|\[([0-9]+)\]", key):
        if name and isinstance(value, dict):
            value = value.get(name)
        elif number and isinstance(value, list) and 0 < int(number) <= len(value):
            value = value[int(number) - 1]
        else:
            return None
    return value

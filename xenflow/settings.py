"""Settings: a TOML file becomes a checked, typed value, or a ConfigError that names everything that is wrong with it.

Place in the flow: each program declares a `msgspec.Struct` and calls `load(path, Type)` at start and at reload.
`msgspec.convert` stops at the first error; a person wants all of them, so `xenflow.typed` converts, and each problem
becomes a line `FILE: KEY: reason (value)`.

What types mean: Structs are tables, lists of Structs are lists of tables, bounds come from `Annotated[int,
msgspec.Meta(ge=..., le=...)]`, and the `description` of a Meta says what is wanted ("must be DESCRIPTION"). `Path` is
taken relative to the file's directory; `Address`, `Identity` and the classes of `ipaddress` are text. A key that no
Struct has is an error. A Struct may check more than types with a method `problems(self) -> Iterable[tuple[str, str]]`
that yields a key (relative to its table, items counted from 1, such as ``interface[2].mac``; empty: the table itself)
and a reason; it is called when all values of the table have the right type.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec

from xenflow.errors import ConfigError
from xenflow.typed import Problem, convert

MAX_FILE_BYTES: Final = 1 << 20

Name: TypeAlias = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z",
        description="a name of 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit",
    ),
]
"""The name of a node, router, host or network."""
Mac: TypeAlias = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}\Z",
        description="the MAC address of one interface, such as 02:00:00:00:00:01",
    ),
]
"""A unicast MAC address as text; `xenflow.model.pack_mac` packs it."""
Vid: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=4094, description="a VLAN id, 1 to 4094")]

T = TypeVar("T", bound=msgspec.Struct)


def load(path: Path, kind: type[T]) -> T:
    """Return the settings in the file `path`. Raises ConfigError with every problem that was found."""
    return parse(_read(path), kind, path)


def load_all(paths: Iterable[Path], kind: type[T]) -> list[T]:
    """Return the settings in each of several files. Raises ConfigError with the problems of all of them."""
    loaded: list[T] = []
    problems: list[str] = []
    for path in paths:
        try:
            loaded.append(load(path, kind))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return loaded


def parse(text: str, kind: type[T], path: Path) -> T:
    """Return the settings in `text`, which came from `path`. Raises ConfigError with every problem."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: is not TOML: {error}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: is nested too deeply"]) from error
    value, problems = convert(document, kind, path.parent)
    if value is None:
        raise ConfigError([_line(path, problem) for problem in problems])
    return value


def duplicates(values: Sequence[Hashable], key: Callable[[int], str]) -> Iterator[tuple[str, str]]:
    """Yield a problem for each value that stands earlier in `values`; `key(n)` names the n-th, counted from 1."""
    first: dict[Hashable, int] = {}
    for number, value in enumerate(values, start=1):
        earlier = first.setdefault(value, number)
        if earlier != number:
            yield key(number), f"is the same as {key(earlier)}"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError([f"{path}: has more than {MAX_FILE_BYTES} bytes"])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 (byte {error.start})"]) from error


def _line(path: Path, problem: Problem) -> str:
    shown = f" ({problem.value!r:.80})" if isinstance(problem.value, str | int | float) else ""
    return f"{path}: {problem.key}: {problem.reason}{shown}" if problem.key else f"{path}: {problem.reason}"

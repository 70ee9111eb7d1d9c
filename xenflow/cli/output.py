"""How every command prints: a table for people, JSON for programs.

Rules: results go to standard output and nothing else does; with --json it is one JSON document. A table that does not
go to a terminal is never cut to a width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

Command = TypeVar("Command", bound=Callable[..., object])

_WIDE: Final = 100_000


def json_option(command: Command) -> Command:
    """Give a command the switch --json, as its argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")(command)


def print_json(document: object) -> None:
    """Print what msgspec can encode (plain data, Structs, dataclasses, enums, times) as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "none") -> None:
    """Print rows under headers, every cell as it is; `empty` if there are no rows."""
    table = Table(*headers, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    if not table.row_count:
        click.echo(empty)
        return
    _console().print(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line, the values under each other; nothing is shown as "-"."""
    lines = [(name.replace("_", " "), "-" if value is None else str(value)) for name, value in fields]
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        click.echo(f"{name:<{width}}  {value}")


def _console() -> Console:
    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, width=None if terminal else _WIDE, highlight=False, soft_wrap=not terminal)

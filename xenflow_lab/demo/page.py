"""What the demo prints: sections, steps with their time, tables, and at the end every check with a verdict.

On a terminal a running step shows its clock; elsewhere the same lines come without colors, one at the end of each step.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

WIDTH: Final = 100
INDENT: Final = 3
TIME_COLUMN: Final = 80
NAME_COLUMN: Final = 26
UNFOLDED: Final = 10_000
FOLDED_INDENT: Final = 4


@dataclass(frozen=True, slots=True)
class Check:
    """Something that has to be so, and what was found."""

    name: str
    holds: bool
    words: str


@dataclass(slots=True)
class Step:
    """A step under way: `detail` is shown behind its name, `result` once it is done."""

    name: str
    began_s: float = field(default_factory=time.monotonic)
    detail: str = ""
    result: str = ""

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.began_s

    def __rich__(self) -> Text:
        detail = f": {self.detail}" if self.detail else ""
        return Text.assemble(f"{self.name}{detail}", (f"  {self.seconds:.1f} s", "dim"))


class Page:
    """The demo's output, from top to bottom."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._console.width = min(self._console.width, WIDTH) if self._console.is_terminal else WIDTH
        self._sections = 0
        self.began_s = time.monotonic()
        self.checks: list[Check] = []

    def title(self, name: str, words: str) -> None:
        """Print the head."""
        self._console.print(Text.assemble((name, "bold cyan"), f"  {words}"))

    def section(self, name: str, words: str = "") -> None:
        """Begin a section."""
        self._sections += 1
        self._console.print()
        words = f"  {words}" if words else ""
        self._console.print(Text.assemble((f"{self._sections}  {name}", "bold cyan"), (words, "dim")), soft_wrap=True)

    def text(self, words: str, style: str = "") -> None:
        """Print a paragraph."""
        for line in Text(words, style).wrap(self._console, self._console.width - INDENT):
            line.rstrip()
            self._line(line)

    def listing(self, words: str) -> None:
        """Print the output of a command as it is; on a terminal long lines are folded under their beginning."""
        width = self._console.width - INDENT if self._console.is_terminal else UNFOLDED
        for line in words.splitlines():
            indent = " " * (len(line) - len(line.lstrip()) + FOLDED_INDENT)
            for part in textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False) or [""]:
                self._line(Text(part))

    def _line(self, line: Text) -> None:
        self._console.print(Text.assemble(" " * INDENT, line) if line else "", soft_wrap=True)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str | Text]], right: Sequence[int] = ()) -> None:
        """Print a table; the columns `right` are aligned to the right."""
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for number, header in enumerate(headers):
            table.add_column(header, justify="right" if number in right else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
        with self._console.capture() as captured:
            self._console.print(table)
        for line in captured.get().splitlines():
            self._line(Text.from_ansi(line.rstrip()))

    @contextmanager
    def step(self, name: str, *, quiet: bool = False) -> Iterator[Step]:
        """Show a step while it runs, and a line with its time afterwards (`quiet`: no line)."""
        step = Step(name)
        spinner = Padding(Spinner("line", step, style="cyan"), (0, 0, 0, INDENT))
        if self._console.is_terminal:
            with Live(spinner, console=self._console, transient=True, refresh_per_second=8):
                yield step
        else:
            yield step
        if not quiet:
            words = f"{name}: {step.result}" if step.result else name
            line = Text.assemble(f"{words:<{TIME_COLUMN}}", (f"{step.seconds:>6.1f} s", "dim"))
            self._line(line)

    def check(self, name: str, holds: bool, words: str) -> None:
        """Note and print whether something is as it has to be."""
        self.checks.append(Check(name, holds, words))
        self._line(Text.assemble(mark(holds), f"  {words}"))

    def verdict(self, closing: str) -> bool:
        """Print all checks and what follows from them; return whether all hold."""
        self._console.print()
        self._console.print(Text("Summary", "bold cyan"))
        for check in self.checks:
            sign = mark(check.holds)
            sign.pad_right(8 - len(sign))
            self._line(Text.assemble(sign, f"{check.name:<{NAME_COLUMN}}{check.words}"))
        failed = sum(not check.holds for check in self.checks)
        seconds = time.monotonic() - self.began_s
        self._console.print()
        if failed or not self.checks:
            self._console.print(Text(f"{failed} of {len(self.checks)} do not hold. {seconds:.0f} s.", "bold red"))
            return False
        self._console.print(Text(f"All of it holds. {seconds:.0f} s.", "bold green"))
        self.text(closing, "dim")
        return True


def mark(holds: bool) -> Text:
    """Return the sign of a check."""
    return Text("ok", "green") if holds else Text("FAILED", "bold red")


def number(count: int) -> str:
    """Return a number as people read it."""
    return f"{count:,}"

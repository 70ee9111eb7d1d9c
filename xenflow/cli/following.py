"""What the commands that move routers have in common: one migration asked after again, and Ctrl-C.

The first Ctrl-C is noted and never cuts a question short, so that no migration is begun that nobody follows; a second
one ends the command, and what is under way goes on without it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from xenflow.answers import MigrationStatus
from xenflow.cli.client import App, ask
from xenflow.errors import ConfigError

POLL_S = 0.1
DONE = "done"


class Interrupts:
    """Whether somebody has pressed Ctrl-C."""

    def __init__(self) -> None:
        self._noted = False
        self._taken = False

    def take(self) -> bool:
        """Return whether Ctrl-C was pressed, once."""
        taken, self._taken = self._taken, self._noted
        return self._noted and not taken

    def note(self, _number: int, _frame: FrameType | None) -> None:
        """Take the signal. Raises KeyboardInterrupt at the second one."""
        if self._noted:
            click.echo("what is under way goes on; to see it: xenflow migrations", err=True)
            raise KeyboardInterrupt
        self._noted = True


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Note SIGINT instead of raising KeyboardInterrupt while the block runs; where it is ignored it stays so."""
    found = Interrupts()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, found.note)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)


def again(app: App, status: MigrationStatus) -> MigrationStatus:
    """Return a migration as it is now. Raises ConfigError, also if the controller does not know it (any more)."""
    found = ask(app, "migrations", list[MigrationStatus], number=str(status.number))
    if not found:
        where = f"where {status.router} runs: xenflow routers {status.router}"
        raise ConfigError([f"the controller has been started anew and knows nothing of this migration; {where}"])
    return found[0]


def take_back(app: App, router: str) -> None:
    """Have a router go back where it comes from, or say why it cannot."""
    try:
        ask(app, "abort", MigrationStatus, router=router)
    except ConfigError as error:
        click.echo(f"{router} cannot be taken back: {error}", err=True)
    else:
        click.echo(f"{router} is taken back", err=True)


def times(status: MigrationStatus) -> str:
    """Return when a migration came to each of its states."""
    return ", ".join(f"{item.state} {item.after_s:.3f} s" for item in status.reached[1:])

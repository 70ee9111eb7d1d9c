"""`python -m xenflow_server.migrate`: has the hypervisor live-migrate one machine, and says how it goes.

What `mover` runs: "42%" on standard output, again every few seconds as long as the hypervisor gets on, exit code 0 when
the machine runs on the target, else the reason on standard error and 1. SIGTERM cancels: the machine stays. When
libvirtd goes away in the middle, the machine's place tells the end, once it is certain (`verdict`).
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from xenflow.errors import DataplaneError

LOOK_S = 0.2
"""How often to look how far it is, and where the machine is."""
WORD_S = 5.0
"""How often to say the same percentage again, if the hypervisor has got on meanwhile: the move is not stuck."""
CERTAIN_S = 60.0
"""How long to look for the machine when the hypervisor has said nothing of its end."""
CANCELLED = "cancelled: the machine stays here"
UNKNOWN = "nobody knows where the machine is"


class Migration(Protocol):
    """`LibvirtMove` and `XlMove`."""

    def run(self) -> None:
        """Return when the machine is on the target. Raises DataplaneError with the reason why it is not."""

    def percent(self) -> int:
        """Return how much is done."""

    def moved(self) -> int:
        """Return a number that changes as long as the hypervisor gets on, such as bytes sent."""

    def cancel(self) -> bool:
        """Ask for the machine to stay; False if that has to be asked for again."""

    def here(self) -> bool | None:
        """Whether the machine is active on the source; None if that cannot be known."""

    def there(self) -> bool | None:
        """As `here`, on the target."""

    def recover(self) -> str:
        """Have a machine that stays go on; return why it does not, empty if it does."""


def verdict(here: bool | None, there: bool | None) -> bool | None:
    """Return whether a move is done, by where the machine is active; None while that is not certain.

    On both sides, it is under way or being undone; on none, it is lost. Where the target cannot be asked, a source that
    does not have it any more has let it go.
    """
    if here is None or (here and there):
        return None
    return not here and there is not False


def follow(
    migration: Migration,
    cancelled: threading.Event,
    say: Callable[[str], None],
    certain_s: float = CERTAIN_S,
    look_s: float = LOOK_S,
    word_s: float = WORD_S,
) -> str:
    """Move a machine; return why it has not moved, empty if it has."""
    failure: list[str] = []

    def work() -> None:
        try:
            migration.run()
        except DataplaneError as error:
            failure.append(str(error) or "the migration failed")

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    told, moved, asked, due = 0, 0, False, time.monotonic() + word_s
    while worker.is_alive():
        worker.join(look_s)
        if cancelled.is_set() and not asked:
            asked = migration.cancel()
        percent = migration.percent()
        word = percent > told
        if time.monotonic() >= due:
            due = time.monotonic() + word_s
            before, moved = moved, migration.moved()
            word = word or moved != before
        if word:
            told = max(told, percent)
            say(f"{told}%")
    if not failure:
        return ""
    end = time.monotonic() + certain_s
    while (arrived := verdict(migration.here(), migration.there())) is None:
        if time.monotonic() > end:
            return f"{failure[0]}; {UNKNOWN}"
        time.sleep(look_s)
    if arrived:
        return ""
    if stands := migration.recover():
        return f"{failure[0]}; {stands}"
    return CANCELLED if asked else failure[0]


def migration_of(hypervisor: str, uuid: str, target: str, stream: str) -> Migration:
    """Return the move for a hypervisor's URI."""
    if hypervisor == "xl:":
        from xenflow_server.xl_move import XlMove

        return XlMove(uuid, target)
    from xenflow_server.libvirt_adapter import LibvirtMove, prepare, serve_events

    prepare()
    serve_events()
    return LibvirtMove(hypervisor, uuid, target, stream)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one migration; ends the process."""
    parser = argparse.ArgumentParser(prog="xenflow_server.migrate", description="live-migrate one machine")
    parser.add_argument("--hypervisor", required=True, metavar="URI", help="libvirt's URI of this host, or xl:")
    parser.add_argument("--machine", required=True, metavar="UUID")
    parser.add_argument("--to", required=True, metavar="URI", help="the target's libvirt; for xl: ssh:// or tcp://")
    parser.add_argument("--stream", default="", metavar="URI", help="where the target's libvirt takes the memory")
    options = parser.parse_args(arguments)
    cancelled = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: cancelled.set())
    migration = migration_of(options.hypervisor, options.machine, options.to, options.stream)
    why_not = follow(migration, cancelled, lambda line: print(line, flush=True))
    if why_not:
        print(why_not, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

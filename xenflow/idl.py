"""`ovs.db.idl` on asyncio's loop: what the programs that watch and write Open vSwitch's database share.

Place in the flow: OVSDB rows <- this -> an adapter of the program, which knows the tables. It decides nothing. The only
file here that imports `ovs`.

Only needed columns are asked for (the library's JSON parser does 2 MB/s), by a schema of our own that lists just them.
The library polls with select(), which dies past descriptor 1023: poll() is put in its place. Its reconnection (back-off
0.1 to 1 s) is kept; rows stay as they were until a new connection has all of them, so no view is partial.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Mapping
from typing import Any, Final

import ovs.db.idl
import ovs.poller
import ovs.timeval

from xenflow.errors import ConfigError

log = logging.getLogger(__name__)
ovs.poller.SelectPoll = select.poll

BACKOFF_MS: Final = (100, 1000)
MAP: Final = {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}}
OPTIONAL_TEXT: Final = {"type": {"key": "string", "min": 0, "max": 1}}
TEXT: Final = {"type": "string"}

Tables = Mapping[str, Mapping[str, object]]
"""Table -> column -> type, as in vswitch.ovsschema."""


def rows_of(table: str, minimum: int, maximum: int | str = "unlimited") -> dict[str, object]:
    """Return the type of a column that refers to rows of `table`."""
    return {"type": {"key": {"type": "uuid", "refTable": table}, "min": minimum, "max": maximum}}


def schema(tables: Tables) -> dict[str, object]:
    """Return the part of vswitch.ovsschema that has these tables and columns; see ovs-vswitchd.conf.db(5)."""
    described = {table: {"columns": dict(columns)} for table, columns in tables.items()}
    return {"name": "Open_vSwitch", "version": "8.0.0", "tables": described}


class _Wakeups:
    """Stands in for ovs.poller.Poller: collects what would wake it, instead of blocking."""

    def __init__(self) -> None:
        self.descriptors: dict[int, int] = {}
        self.timeout_ms: int | None = None

    def fd_wait(self, fd: Any, events: int) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        self.descriptors[number] = self.descriptors.get(number, 0) | events

    def timer_wait(self, msec: int) -> None:
        self.timeout_ms = max(msec, 0) if self.timeout_ms is None else min(self.timeout_ms, max(msec, 0))

    def timer_wait_until(self, msec: int) -> None:
        self.timer_wait(msec - ovs.timeval.msec())

    def immediate_wake(self) -> None:
        self.timeout_ms = 0


class Idl(ovs.db.idl.Idl):  # type: ignore[misc]
    """The library's replica; `departed` has the rows that were deleted from the tables in `remembered`.

    One run may take in a change of a row and its deletion together: who has to see the last state finds it there.
    """

    remembered: frozenset[str] = frozenset()
    departed: list[Any]

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """Called by the library for each change of a row."""
        if event == ovs.db.idl.ROW_DELETE and row._table.name in self.remembered:
            self.departed.append(row)


class Connection:
    """A replica of some tables, kept by `turn`; `wait` returns when there is something to do."""

    def __init__(self, remote: str, tables: Tables, remembered: frozenset[str] = frozenset()) -> None:
        """`remote` is OVSDB's own form: ``unix:PATH`` (or ``tcp:``); raises ConfigError for another form."""
        helper = ovs.db.idl.SchemaHelper(None, schema(tables))
        for table, columns in tables.items():
            helper.register_columns(table, list(columns))
        try:
            self.idl = Idl(remote, helper, leader_only=False)
        except ValueError as error:
            raise ConfigError([f"ovs.database: must look like unix:/run/openvswitch/db.sock ({remote!r})"]) from error
        self.idl.remembered, self.idl.departed = remembered, []
        self.idl._session.reconnect.set_backoff(*BACKOFF_MS)
        self._remote = remote
        self._poke = asyncio.Event()
        self._away = False

    @property
    def in_sync(self) -> bool:
        """Whether the rows are those of the database, as far as is known."""
        return bool(self.idl.state == self.idl.IDL_S_MONITORING)

    def rows(self, table: str) -> list[Any]:
        """Return the rows of a table."""
        return list(self.idl.tables[table].rows.values())

    def transaction(self) -> Any:
        """Return a new transaction."""
        return ovs.db.idl.Transaction(self.idl)

    def poke(self) -> None:
        """Make `wait` return."""
        self._poke.set()

    def close(self) -> None:
        """Free the connection."""
        self.idl.close()

    def turn(self) -> bool:
        """Take in what has come; return whether the rows are in sync. Going away and coming back are logged once."""
        self.idl.run()
        if self.idl._session.is_connected():
            if self.in_sync and self._away:
                log.info("ovsdb from=away to=in-sync remote=%s", self._remote)
                self._away = False
        elif not self._away and self.idl._session.reconnect.state.name == "BACKOFF":
            advice = "is Open vSwitch running, and may this user use its socket? Trying again until it answers"
            log.warning("ovsdb to=away remote=%s: %s", self._remote, advice)
            self._away = True
        return self.in_sync

    async def wait(self, transaction: Any = None) -> None:
        """Return when the library has something to do (for a transaction, too), or after a `poke`."""
        wakeups = _Wakeups()
        self.idl.wait(wakeups)
        if transaction is not None:
            transaction.wait(wakeups)
        loop = asyncio.get_running_loop()
        for fd, events in wakeups.descriptors.items():
            if events & select.POLLIN:
                loop.add_reader(fd, self._poke.set)
            if events & select.POLLOUT:
                loop.add_writer(fd, self._poke.set)
        try:
            async with asyncio.timeout(None if wakeups.timeout_ms is None else wakeups.timeout_ms / 1000):
                await self._poke.wait()
        except TimeoutError:
            pass
        finally:
            self._poke.clear()
            for fd in wakeups.descriptors:
                loop.remove_reader(fd)
                loop.remove_writer(fd)


INCOMPLETE: Final = ovs.db.idl.Transaction.INCOMPLETE
ERROR: Final = ovs.db.idl.Transaction.ERROR

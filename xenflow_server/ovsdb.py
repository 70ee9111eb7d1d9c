"""Adapter: Open vSwitch's database, watched and written through `ovs.db.idl` on asyncio's loop.

Place in the flow: OVSDB rows -> `BridgeView`. It decides nothing. The only file of this program that imports `ovs`.

Only needed columns are asked for (the library's JSON parser does 2 MB/s), by a schema of our own that lists just
them. The library polls with select(), which dies past descriptor 1023: poll() is put in its place. Its reconnection
(back-off 0.1 to 1 s) is kept; rows stay as they were until a new connection has all of them, so no view is partial.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import select
from collections.abc import Callable
from typing import Any

import ovs.db.idl
import ovs.poller
import ovs.timeval

from xenflow.errors import ConfigError
from xenflow_server.view import BFD_MARK, BFD_SETTINGS, DRAINED_MARK, BridgeView, PortView, plan_bfd, plan_marks

log = logging.getLogger(__name__)
ovs.poller.SelectPoll = select.poll

BACKOFF_MS = (100, 1000)
_MAP = {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}}
_OPTIONAL_TEXT = {"type": {"key": "string", "min": 0, "max": 1}}
_TEXT = {"type": "string"}


def _rows(table: str, minimum: int) -> dict[str, object]:
    return {"type": {"key": {"type": "uuid", "refTable": table}, "min": minimum, "max": "unlimited"}}


SCHEMA = {
    "name": "Open_vSwitch",
    "version": "8.0.0",
    "tables": {
        "Bridge": {
            "columns": {
                "name": _TEXT,
                "datapath_id": _OPTIONAL_TEXT,
                "datapath_type": _TEXT,
                "ports": _rows("Port", 0),
            }
        },
        "Port": {"columns": {"name": _TEXT, "interfaces": _rows("Interface", 1)}},
        "Interface": {
            "columns": {
                "name": _TEXT,
                "ofport": {"type": {"key": "integer", "min": 0, "max": 1}},
                "external_ids": _MAP,
                "bfd": _MAP,
                "bfd_status": _MAP,
                "link_state": _OPTIONAL_TEXT,
                "error": _OPTIONAL_TEXT,
            }
        },
    },
}
"""The part of vswitch.ovsschema that is watched; see ovs-vswitchd.conf.db(5)."""


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


class _Idl(ovs.db.idl.Idl):  # type: ignore[misc]
    """Remembers interfaces that are deleted: one run may take in a change of a row and its deletion together."""

    departed: list[PortView]

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        if event == ovs.db.idl.ROW_DELETE and row._table.name == "Interface":
            self.departed.append(_port(row))


class Monitor:
    """Keeps a `BridgeView` up to date, and BFD on the trunks that are wanted."""

    def __init__(self, remote: str, bridge: str) -> None:
        """`remote` is OVSDB's own form: ``unix:PATH`` (or ``tcp:``); raises ConfigError for another form."""
        helper = ovs.db.idl.SchemaHelper(None, SCHEMA)
        for table, columns in SCHEMA["tables"].items():  # type: ignore[attr-defined]
            helper.register_columns(table, list(columns["columns"]))
        try:
            self._idl = _Idl(remote, helper, leader_only=False)
        except ValueError as error:
            raise ConfigError([f"ovs.database: must look like unix:/run/openvswitch/db.sock ({remote!r})"]) from error
        self._idl.departed = []
        self._idl._session.reconnect.set_backoff(*BACKOFF_MS)
        self._remote, self._bridge = remote, bridge
        self._trunks: frozenset[str] | None = None
        self._marks: dict[str, bool] = {}
        self._transaction: Any = None
        self._poke = asyncio.Event()
        self._view: BridgeView | None = None
        self._away = False

    def want_bfd(self, trunks: frozenset[str]) -> None:
        """Make BFD run on exactly these ports, as far as it is ours to decide."""
        self._trunks = trunks
        self._poke.set()

    def mark_drained(self, port: str, *, drained: bool) -> None:
        """Write the mark of a drained trunk, or take it off; the view shows when that is done."""
        self._marks[port] = drained
        self._poke.set()

    def close(self) -> None:
        """Free the connection."""
        self._idl.close()

    async def run(self, on_view: Callable[[BridgeView], None]) -> None:
        """Call `on_view` with the whole bridge when it is first known and after each change, for ever."""
        while True:
            self._idl.run()
            self._say_state()
            if self._in_sync():
                view = self._observe()
                departed, self._idl.departed = tuple(self._idl.departed), []
                if departed or view != self._view:
                    self._view = view
                    on_view(dataclasses.replace(view, departed=departed))
                self._write()
            await self._wait()

    def _in_sync(self) -> bool:
        return bool(self._idl.state == self._idl.IDL_S_MONITORING)

    def _say_state(self) -> None:
        """Log when the database goes away (or is not there at start) and when it is back, once each."""
        if self._idl._session.is_connected():
            if self._in_sync() and self._away:
                log.info("ovsdb from=away to=in-sync remote=%s", self._remote)
                self._away = False
        elif not self._away and self._idl._session.reconnect.state.name == "BACKOFF":
            advice = "is Open vSwitch running, and may this user use its socket? Trying again until it answers"
            log.warning("ovsdb to=away remote=%s: %s", self._remote, advice)
            self._away = True

    def _observe(self) -> BridgeView:
        for bridge in self._idl.tables["Bridge"].rows.values():
            if bridge.name == self._bridge:
                ports = [_port(row) for port in bridge.ports for row in port.interfaces]
                dpid = int(bridge.datapath_id[0], 16) if bridge.datapath_id else 0
                ports.sort(key=lambda port: port.name)
                return BridgeView(bridge.name, dpid, bridge.datapath_type, tuple(ports))
        return BridgeView(self._bridge, exists=False)

    def _write(self) -> None:
        """Bring BFD and marks towards what is wanted: one transaction at a time."""
        if self._transaction is not None:
            status = self._transaction.commit()
            if status == ovs.db.idl.Transaction.INCOMPLETE:
                return
            if status == ovs.db.idl.Transaction.ERROR:
                log.error("ovsdb refused to set BFD or marks: %s", self._transaction.get_error())
                self._trunks, self._marks = None, {}
            self._transaction = None
        if self._trunks is None or self._view is None:
            return
        view = self._observe()
        enable, undo = plan_bfd(view, self._trunks)
        self._marks = plan_marks(view, self._marks)
        if not enable and not undo and not self._marks:
            return
        self._transaction = ovs.db.idl.Transaction(self._idl)
        for row in self._idl.tables["Interface"].rows.values():
            if row.name in enable:
                _enable_bfd(row)
            elif row.name in undo:
                row.bfd = {}
                row.delkey("external_ids", BFD_MARK)
            if row.name in self._marks:
                _mark_drained(row, drained=self._marks[row.name])
        if enable or undo:
            log.info("bfd on=%s off=%s", ",".join(enable), ",".join(undo))
        self._transaction.commit()

    async def _wait(self) -> None:
        """Return when the library has something to do, or somebody wants something."""
        wakeups = _Wakeups()
        self._idl.wait(wakeups)
        if self._transaction is not None:
            self._transaction.wait(wakeups)
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


def _port(row: Any) -> PortView:
    number = row.ofport[0] if row.ofport else 0
    return PortView(
        row.name,
        number if 0 < number < 0xFFFF else 0,
        dict(row.external_ids),
        dict(row.bfd),
        dict(row.bfd_status),
        row.link_state[0] if row.link_state else "",
        row.error[0] if row.error else "",
    )


def _enable_bfd(row: Any) -> None:
    for key, value in BFD_SETTINGS.items():
        row.setkey("bfd", key, value)
    row.setkey("external_ids", BFD_MARK, "true")


def _mark_drained(row: Any, *, drained: bool) -> None:
    if drained:
        row.setkey("external_ids", DRAINED_MARK, "true")
    else:
        row.delkey("external_ids", DRAINED_MARK)

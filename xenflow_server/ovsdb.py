"""Adapter: Open vSwitch's database as the server needs it: the bridge, watched, and BFD, written.

Place in the flow: OVSDB rows -> `BridgeView`. It decides nothing. `xenflow.idl` has the library on asyncio's loop.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, Final

from xenflow.idl import ERROR, INCOMPLETE, MAP, OPTIONAL_TEXT, TEXT, Connection, rows_of
from xenflow_server.view import BFD_MARK, BFD_SETTINGS, DRAINED_MARK, BridgeView, PortView, plan_bfd, plan_marks

log = logging.getLogger(__name__)

TABLES: Final = {
    "Bridge": {
        "name": TEXT,
        "datapath_id": OPTIONAL_TEXT,
        "datapath_type": TEXT,
        "ports": rows_of("Port", 0),
    },
    "Port": {"name": TEXT, "interfaces": rows_of("Interface", 1)},
    "Interface": {
        "name": TEXT,
        "ofport": {"type": {"key": "integer", "min": 0, "max": 1}},
        "external_ids": MAP,
        "bfd": MAP,
        "bfd_status": MAP,
        "link_state": OPTIONAL_TEXT,
        "link_speed": {"type": {"key": "integer", "min": 0, "max": 1}},
        "error": OPTIONAL_TEXT,
    },
}
"""What is watched."""


class Monitor:
    """Keeps a `BridgeView` up to date, and BFD on the trunks that are wanted."""

    def __init__(self, remote: str, bridge: str) -> None:
        """`remote` is OVSDB's own form: ``unix:PATH`` (or ``tcp:``); raises ConfigError for another form.

        Interfaces that are deleted are remembered: one run may take in a change of a row and its deletion together.
        """
        self._connection = Connection(remote, TABLES, frozenset({"Interface"}))
        self._bridge = bridge
        self._trunks: frozenset[str] | None = None
        self._marks: dict[str, bool] = {}
        self._transaction: Any = None
        self._view: BridgeView | None = None

    def want_bfd(self, trunks: frozenset[str]) -> None:
        """Make BFD run on exactly these ports, as far as it is ours to decide."""
        self._trunks = trunks
        self._connection.poke()

    def mark_drained(self, port: str, *, drained: bool) -> None:
        """Write the mark of a drained trunk, or take it off; the view shows when that is done."""
        self._marks[port] = drained
        self._connection.poke()

    def close(self) -> None:
        """Free the connection."""
        self._connection.close()

    async def run(self, on_view: Callable[[BridgeView], None]) -> None:
        """Call `on_view` with the whole bridge when it is first known and after each change, for ever."""
        idl = self._connection.idl
        while True:
            if self._connection.turn():
                view = self._observe()
                departed, idl.departed = tuple(map(_port, idl.departed)), []
                if departed or view != self._view:
                    self._view = view
                    on_view(dataclasses.replace(view, departed=departed))
                self._write()
            await self._connection.wait(self._transaction)

    def _observe(self) -> BridgeView:
        for bridge in self._connection.rows("Bridge"):
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
            if status == INCOMPLETE:
                return
            if status == ERROR:
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
        self._transaction = self._connection.transaction()
        for row in self._connection.rows("Interface"):
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
        row.link_speed[0] if row.link_speed else 0,
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

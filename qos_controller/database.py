"""Adapter: Open vSwitch's database as qos-controller needs it; `xenflow.idl` has the library on asyncio's loop.

Place in the flow: OVSDB rows -> `BridgeRows`, and `rows.Change`s -> one transaction at a time. It decides nothing but
when to try again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from qos_controller import rows
from qos_controller.rows import BridgeRows, Change, QosRow, QueueRow
from xenflow.bandwidth import PortQueues
from xenflow.idl import ERROR, INCOMPLETE, MAP, TEXT, Connection, Tables, rows_of

log = logging.getLogger(__name__)

TABLES: Final[Tables] = {
    "Bridge": {"name": TEXT, "datapath_type": TEXT, "ports": rows_of("Port", 0)},
    "Port": {"name": TEXT, "qos": rows_of("QoS", 0, 1)},
    "QoS": {
        "type": TEXT,
        "external_ids": MAP,
        "queues": {
            "type": {
                "key": {"type": "integer", "minInteger": 0, "maxInteger": 4294967295},
                "value": {"type": "uuid", "refTable": "Queue"},
                "min": 0,
                "max": "unlimited",
            }
        },
    },
    "Queue": {"other_config": MAP, "external_ids": MAP},
}
"""What is watched and written."""


class Database:
    """Keeps the rows of one bridge's queues as wanted, and tells what there is."""

    def __init__(self, remote: str, bridge: str) -> None:
        """`remote` is OVSDB's own form: ``unix:PATH`` (or ``tcp:``); raises ConfigError for another form."""
        self._connection = Connection(remote, TABLES)
        self._bridge = bridge
        self._wanted: Mapping[str, PortQueues] | None = None
        self._transaction: Any = None
        self._said = ""

    def want(self, wanted: Mapping[str, PortQueues]) -> None:
        """Make the rows say exactly this from now on."""
        self._wanted = dict(wanted)
        self._connection.poke()

    def close(self) -> None:
        """Free the connection."""
        self._connection.close()

    async def run(self, on_rows: Callable[[BridgeRows], None]) -> None:
        """Call `on_rows` when the rows are first known and after each change, for ever; write what is wanted."""
        known: BridgeRows | None = None
        while True:
            if self._connection.turn():
                found = self._observe()
                if found != known:
                    known = found
                    on_rows(found)
                self._write(found)
            await self._connection.wait(self._transaction)

    def _observe(self) -> BridgeRows:
        bridges = self._connection.rows("Bridge")
        bridge = next((row for row in bridges if row.name == self._bridge), None)
        elsewhere = frozenset(port.name for row in bridges if row is not bridge for port in row.ports)
        if bridge is None:
            return BridgeRows()
        ports = {port.name: str(port.qos[0].uuid) if port.qos else "" for port in bridge.ports}
        qos = {
            str(row.uuid): QosRow(
                row.type, dict(row.external_ids), {queue: str(item.uuid) for queue, item in row.queues.items()}
            )
            for row in self._connection.rows("QoS")
        }
        queues = {
            str(row.uuid): QueueRow(dict(row.other_config), dict(row.external_ids))
            for row in self._connection.rows("Queue")
        }
        return BridgeRows(True, bridge.datapath_type, ports, qos, queues, elsewhere)

    def _write(self, found: BridgeRows) -> None:
        """Bring the rows towards what is wanted: one transaction at a time, and nothing if there is no difference."""
        if self._transaction is not None:
            status = self._transaction.commit()
            if status == INCOMPLETE:
                return
            if status == ERROR and self._transaction.get_error() != self._said:
                self._said = self._transaction.get_error()
                log.error("ovsdb refused the rows of queues: %s", self._said)
            self._transaction = None
            found = self._observe()
        if self._wanted is None or not (changes := rows.plan_rows(self._wanted, found, self._bridge)):
            return
        self._transaction = self._connection.transaction()
        writer = _Writer(self._connection, self._transaction, self._bridge)
        for change in changes:
            writer.write(change)
        log.info("ovsdb rows changes=%d", len(changes))
        self._transaction.commit()


class _Writer:
    """Puts changes into a transaction."""

    def __init__(self, connection: Connection, transaction: Any, bridge: str) -> None:
        self._transaction, self._bridge = transaction, bridge
        self._connection = connection
        self._tables: dict[str, Any] = {table: connection.idl.tables[table] for table in TABLES}
        self._rows = {table: {str(row.uuid): row for row in connection.rows(table)} for table in ("QoS", "Queue")}
        row = next(row for row in connection.rows("Bridge") if row.name == bridge)
        self._ports = {port.name: port for port in row.ports}

    def write(self, change: Change) -> None:
        """Add one change; deletions may come in any order, the database looks at the whole."""
        match change:
            case rows.NewQos(port, queues):
                qos = self._transaction.insert(self._tables["QoS"])
                qos.type, qos.external_ids = rows.TYPE, {rows.MARK: self._bridge}
                qos.queues = {queue: self._queue(row) for queue, row in queues.items()}
                self._ports[port].qos = [qos]
            case rows.AddQueue(name, queue, row):
                self._rows["QoS"][name].setkey("queues", queue, self._queue(row))
            case rows.SetQueue(name, row):
                found = self._rows["Queue"][name]
                found.other_config, found.external_ids = row.other_config, row.external_ids
            case rows.RemoveQueue(name, queue):
                self._rows["QoS"][name].delkey("queues", queue)
            case rows.Detach(port):
                self._ports[port].qos = []
            case rows.DeleteQos(name):
                self._rows["QoS"][name].delete()
            case rows.DeleteQueue(name):
                self._rows["Queue"][name].delete()

    def _queue(self, row: QueueRow) -> Any:
        queue = self._transaction.insert(self._tables["Queue"])
        queue.other_config, queue.external_ids = row.other_config, row.external_ids
        return queue

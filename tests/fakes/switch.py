"""A working model of a switch's control side: flow-mods change a table, dumps and barriers are answered, in order.

What it does not have is a datapath. `drop_next` makes it lose messages as a connection that breaks does; `refuse` holds
keys that it answers with an error; `counters` are packets by key.
"""

from __future__ import annotations

import struct

from xenflow_app.openflow.encode import ALL_TABLES, NONE, Command
from xenflow_app.openflow.values import BarrierReply, ErrorMessage, Flow, FlowStats, SwitchMessage

_FLOW_MOD = struct.Struct(">8sBB2sH2sIH2sH6x")
COOKIE_LENGTH = 20


class FakeSwitch:
    """Flows by key, what was sent out as packets, and how many flow-mods came."""

    def __init__(self) -> None:
        self.flows: dict[bytes, bytes] = {}
        self.flow_mods = 0
        self.packets: list[tuple[int, bytes, bytes]] = []
        self.refuse: set[bytes] = set()
        self.counters: dict[bytes, int] = {}

    def receive(self, data: bytes) -> list[SwitchMessage]:
        """Take whole messages; return the answers."""
        answers: list[SwitchMessage] = []
        at = 0
        while at < len(data):
            _version, kind, length, xid = struct.unpack_from(">BBHI", data, at)
            answers += self._message(kind, xid, data[at + 8 : at + length])
            at += length
        assert at == len(data)
        return answers

    def _message(self, kind: int, xid: int, body: bytes) -> list[SwitchMessage]:
        if kind == 18:
            return [BarrierReply(xid)]
        if kind == 16:
            return self._dump(xid, body)
        if kind == 13:
            _buffer, port, length = struct.unpack_from(">IHH", body)
            self.packets.append((port, body[8 : 8 + length], body[8 + length :]))
            return []
        assert kind == 4
        vendor, subtype = struct.unpack_from(">II", body)
        assert (vendor, subtype) == (0x2320, 13)
        return self._flow_mod(xid, body[8:])

    def _flow_mod(self, xid: int, body: bytes) -> list[SwitchMessage]:
        cookie, table, command, idle, _hard, priority, _buffer, port, flags, length = _FLOW_MOD.unpack_from(body)
        assert port == NONE
        match = body[_FLOW_MOD.size : _FLOW_MOD.size + length]
        acts = body[_FLOW_MOD.size + length + -length % 8 :]
        self.flow_mods += 1
        if command == Command.DELETE_STRICT:
            expected, mask = match[-16:-8], match[-8:]
            assert mask == bytes.fromhex("ffffff00ffffffff")
            key = bytes([table]) + priority + match[:-COOKIE_LENGTH]
            if key in self.flows and self.flows[key][:8] == expected:
                del self.flows[key]
            return []
        assert command == Command.ADD
        key = bytes([table]) + priority + match
        if key in self.refuse:
            return [ErrorMessage(xid, 3, 1, b"")]
        self.flows[key] = cookie + idle + flags + acts
        return []

    def _dump(self, xid: int, body: bytes) -> list[SwitchMessage]:
        """Answer with the flows of the table and the cookie (value and mask) that were asked for."""
        _port, length, table = struct.unpack_from(">HHB", body, 16)
        cookie, mask = struct.unpack_from(">QQ", body, 28) if length else (0, 0)
        flows = [
            Flow(key, value, self.counters.get(key, 0), 0, 0.0, 0, 0)
            for key, value in self.flows.items()
            if table in (key[0], ALL_TABLES) and int.from_bytes(value[:8], "big") & mask == cookie
        ]
        half = len(flows) // 2
        return [FlowStats(xid, tuple(flows[:half]), more=True), FlowStats(xid, tuple(flows[half:]), more=False)]

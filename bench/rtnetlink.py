"""Routes put into this namespace's kernel by rtnetlink(7), as fast as it takes them; what a routing daemon would do."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from collections.abc import Iterable

_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_REQUEST, _ACK, _REPLACE, _CREATE = 0x1, 0x4, 0x100, 0x400
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH4s")
_RTA_DST, _RTA_GATEWAY = 1, 5
_TABLE_MAIN, _PROTO_STATIC, _SCOPE_UNIVERSE, _UNICAST = 254, 4, 0, 1
_BATCH = 200
_FIRST = int(ipaddress.IPv4Address("20.0.0.0"))


def prefixes(count: int, first: int = 0, length: int = 24) -> list[tuple[bytes, int]]:
    """Return `count` prefixes next to each other (packed address, length) from the `first`-th on, above 20.0.0.0."""
    size = 32 - length
    return [((_FIRST + (index << size)).to_bytes(4, "big"), length) for index in range(first, first + count)]


class Routes:
    """A netlink socket for routes. Raises OSError for a route that the kernel refuses."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._seq = 0

    def put(self, targets: Iterable[tuple[bytes, int]], gateway: str) -> int:
        """Add or replace routes by way of `gateway`; return when the first one was given to the kernel (ns)."""
        flags = _REQUEST | _CREATE | _REPLACE
        via = ipaddress.IPv4Address(gateway).packed
        return self._send([self._message(_RTM_NEWROUTE, flags, target, via) for target in targets])

    def drop(self, targets: Iterable[tuple[bytes, int]]) -> int:
        """Remove routes; return when the first one was taken out (ns)."""
        return self._send([self._message(_RTM_DELROUTE, _REQUEST, target, b"") for target in targets])

    def _message(self, kind: int, flags: int, target: tuple[bytes, int], via: bytes) -> bytearray:
        address, length = target
        body = _ROUTE.pack(
            socket.AF_INET, length, 0, 0, _TABLE_MAIN, _PROTO_STATIC, _SCOPE_UNIVERSE, _UNICAST, 0
        ) + _ATTRIBUTE.pack(8, _RTA_DST, address)
        if via:
            body += _ATTRIBUTE.pack(8, _RTA_GATEWAY, via)
        self._seq += 1
        return bytearray(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._seq, 0) + body)

    def _send(self, messages: list[bytearray]) -> int:
        began = time.monotonic_ns()
        for start in range(0, len(messages), _BATCH):
            batch = messages[start : start + _BATCH]
            length, kind, flags, seq, port = _HEADER.unpack_from(batch[-1])
            _HEADER.pack_into(batch[-1], 0, length, kind, flags | _ACK, seq, port)
            self._socket.send(b"".join(batch))
            self._await(seq)
        return began

    def _await(self, wanted: int) -> None:
        while True:
            data = self._socket.recv(1 << 16)
            while data:
                length, kind, _flags, seq, _port = _HEADER.unpack_from(data)
                if kind == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", data, _HEADER.size)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    if seq == wanted:
                        return
                data = data[(length + 3) & ~3 :]

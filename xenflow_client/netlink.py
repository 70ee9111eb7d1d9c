"""The one socket to the kernel: a plain AF_NETLINK socket in the event loop. Does I/O, decides nothing.

    kernel == socket -read-> Observer.receive, .settle; timer -> Observer.tick -> socket

Rules: a batch is bounded, so that nothing else waits for more than some milliseconds while a big table is dumped.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections.abc import Callable
from typing import Final

from xenflow.errors import ConfigError
from xenflow_client.observer import Observer
from xenflow_client.rtnetlink import GROUPS

logger = logging.getLogger(__name__)

RECEIVE_BUFFER_BYTES: Final = 16 << 20
_DATAGRAM_BYTES: Final = 1 << 16
_BATCH: Final = 8
_SO_RCVBUFFORCE: Final = 33
_SOL_NETLINK: Final = 270
_NETLINK_GET_STRICT_CHK: Final = 12


def open_socket() -> socket.socket:
    """Return a non-blocking socket that is told of all changes in this network namespace.

    Raises ConfigError where the kernel does not allow it.
    """
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except OSError as error:
        raise ConfigError([f"netlink: {error.strerror}; the client must run where it may read the routes"]) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    with contextlib.suppress(OSError):  # before Linux 4.20 the kernel dumps all tables; they are filtered here then
        sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, struct.pack("=i", 1))
    sock.bind((0, sum(1 << (group - 1) for group in GROUPS)))
    return sock


class Netlink:
    """Runs an Observer on a socket; `changed` is called after each batch that was taken in."""

    def __init__(self, observer: Observer, changed: Callable[[], None]) -> None:
        self._observer = observer
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._socket = open_socket()
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self._loop.call_soon(self._tick)

    def close(self) -> None:
        """Stop observing."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        now = self._loop.time()
        for _ in range(_BATCH):
            try:
                data, (port, _groups) = self._socket.recvfrom(_DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._observer.lost(now)
                continue
            if port == 0:  # the kernel; anybody else may write to us as well
                self._observer.receive(data, now)
        self._observer.settle(now)
        self._changed()
        self._tick()

    def _tick(self) -> None:
        now = self._loop.time()
        for request in self._observer.tick(now):
            self._send(request)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._observer.next_deadline(), self._tick)

    def _send(self, request: bytes) -> None:
        """Send a request; what is not sent now is asked for again later (neighbors) or given up as silent (dumps)."""
        try:
            self._socket.send(request)
        except OSError as error:
            if not self._refused:
                logger.warning("netlink request not sent: %s", error.strerror)
            self._refused = True
        else:
            self._refused = False

"""Adapter: sends announcements, raw Ethernet frames, on the router's interfaces. The only file that opens AF_PACKET.

Place in the flow: uplink (Announce, Announced) -> Announcer -> interfaces. What and when is decided in `announcing`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from xenflow.wire import Announce
from xenflow_client.announcing import Announcing, control_link, frames
from xenflow_client.kernel import Kernel

logger = logging.getLogger(__name__)
_ETH_ARP = 0x0806
_TC_PRIO_INTERACTIVE = 6
"""Before the bulk of other packets in the interface's queue; needs no further privilege."""
_NOT_PERMITTED = "announcements cannot be sent: %s; the client needs CAP_NET_RAW, a move waits for it"


class Wire(Protocol):
    """Sends frames."""

    def send(self, interface: str, frame: bytes) -> None:
        """Send one frame; raises OSError."""

    def close(self) -> None:
        """Free it."""


class PacketSocket:
    """A raw socket that receives nothing. Making one raises PermissionError without CAP_NET_RAW."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _TC_PRIO_INTERACTIVE)

    def send(self, interface: str, frame: bytes) -> None:
        """Send one frame, as it is."""
        self._socket.sendto(frame, (interface, _ETH_ARP))

    def close(self) -> None:
        """Free it."""
        self._socket.close()


class Announcer:
    """Announces for as long as it must; runs in the event loop, by timers."""

    def __init__(self, kernel: Kernel, open_wire: Callable[[], Wire] = PacketSocket) -> None:
        self._kernel = kernel
        self._open_wire = open_wire
        self._announcing = Announcing()
        self._control = 0
        self._timer: asyncio.TimerHandle | None = None
        self._wire: Wire | None = None
        self._sent = 0
        self._said: set[str] = set()

    def start(self, order: Announce, local: tuple[str, int]) -> None:
        """Announce. `local` is our end of the session: address, and index of the interface if it is link-local."""
        loop = asyncio.get_running_loop()
        if not self._announcing.start(order, loop.time()):
            return
        self._halt()
        address = ipaddress.ip_address(local[0].partition("%")[0])
        self._control = control_link(self._kernel, address.packed, local[1])
        self._sent, self._said = 0, set()
        logger.info("announcing epoch=%d", order.epoch)
        try:
            self._wire = self._open_wire()
        except OSError as error:
            logger.error(_NOT_PERMITTED, error.strerror)
            self._announcing.stop()
            return
        self._send()

    def confirmed(self, epoch: int) -> None:
        """Every switch that must has it."""
        if self._announcing.confirmed(epoch):
            logger.info("announced epoch=%d frames=%d", epoch, self._sent)
            self._halt()

    def stop(self) -> None:
        """The session is over."""
        self._announcing.stop()
        self._halt()

    def _send(self) -> None:
        order = self._announcing.current
        wire = self._wire
        if order is None or wire is None:
            return
        for interface, frame in frames(self._kernel, order, self._control):
            try:
                wire.send(interface, frame)
            except OSError as error:  # a full queue, an interface that goes: again in a moment
                self._complain(f"{interface}: {error.strerror or error}")
            else:
                self._sent += 1
        loop = asyncio.get_running_loop()
        pause_s = self._announcing.next(loop.time())
        if pause_s is None:
            logger.warning("announcing epoch=%d given up: nobody confirmed it (frames=%d)", order.epoch, self._sent)
            self._halt()
            return
        self._timer = loop.call_later(pause_s, self._send)

    def _complain(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            logger.warning("announcement not sent on %s; trying again", reason)

    def _halt(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None

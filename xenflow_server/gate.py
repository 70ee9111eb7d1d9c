"""Adapter: where clients come in: listens as soon as the address is there, and anew when its interface is another one.

    waiting --address is there--> listening --interface has gone, or is another one of that name--> waiting

Rules: the node is served meanwhile: its ports and hosts need no client. Why there is no listener is told for as long as
there is none; what cannot come by itself (an address in use, a certificate) is raised.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from xenflow.address import Address
from xenflow.errors import UnavailableError
from xenflow.listener import Listener

log = logging.getLogger(__name__)
LOOK_S = 0.5


class Gate:
    """`open` returns a listener, or raises ConfigError; `tell` takes why there is none, empty when there is one."""

    def __init__(self, address: Address, open: Callable[[], Awaitable[Listener]], tell: Callable[[str], None]) -> None:
        self._address, self._open, self._tell = address, open, tell
        self._listener: Listener | None = None

    async def run(self) -> None:
        """Listen, for ever. Raises ConfigError, and what serving a client failed with."""
        told = ""
        while True:
            try:
                index = interface_of(self._address)
                listener = self._listener = await self._open()
            except UnavailableError as error:
                reason = "; ".join(error.problems)
                if reason != told:
                    log.warning("clients cannot connect: %s; tried again every %g s", reason, LOOK_S)
                    self._tell(reason)
                    told = reason
                await asyncio.sleep(LOOK_S)
                continue
            told = ""
            self._tell("")
            await self._watch(listener, index)
            await self.close("the interface has gone")

    async def close(self, reason: str) -> None:
        """Listen no more."""
        if self._listener is not None:
            await self._listener.close(reason)
            self._listener = None

    async def _watch(self, listener: Listener, index: int) -> None:
        """Return when the interface is not the one that the socket is bound to. Raises what serving failed with."""
        serving = asyncio.create_task(listener.wait())
        try:
            while interface_of(self._address) == index:
                done, _ = await asyncio.wait({serving}, timeout=LOOK_S)
                if done:
                    await serving
                    return
        finally:
            serving.cancel()


def interface_of(address: Address) -> int:
    """Return the index of the interface that a link-local address names, 0 if it names none or that is not there."""
    _, _, zone = address.host.partition("%")
    try:
        return socket.if_nametoindex(zone) if zone else 0
    except OSError:
        return 0

"""What comes from a switch by way of the terminator: to POX at first, then straight to the core.

    switch == TLS ==> Terminator --- until diverted, whole bytes ---> POX --> core
                          |- MARK, when diverted -------------------> POX --> core: all before it has come
                          `- from then on, message by message --------------> core      (PORT_STATUS to POX as well)

By way of POX a message costs four changes of thread and a connection more, which reactive forwarding would pay for each
first packet. Keeps true: the core gets each message once, in the order in which the switch sent them. While messages
before the mark are still under way in POX, those behind it wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from xenflow_app.openflow import encode
from xenflow_app.openflow.encode import Type
from xenflow_app.openflow.stream import Framer

MARK = encode.echo(0, os.urandom(16), reply=True)
"""Sent to POX's side only; no switch can know it."""


class Diversion:
    """See the module. `to_pox` takes bytes for POX."""

    def __init__(self, to_pox: Callable[[bytes], None]) -> None:
        self._to_pox = to_pox
        self._framer = Framer()
        self._take: Callable[[bytes], None] | None = None
        self._held: list[bytes] | None = []
        self._split_bytes = 0

    def receive(self, data: bytes) -> None:
        """Pass on what the switch sent. Raises RemoteProtocolError for what is not OpenFlow 1.0."""
        messages = self._framer.receive(data)
        if self._take is None:
            self._to_pox(data)
            return
        for message in messages:
            if self._split_bytes:  # its beginning is on its way already
                self._to_pox(message[self._split_bytes :] + MARK)
                self._split_bytes = 0
            elif self._held is None:
                self._hand_over(message)
            else:
                self._held.append(message)

    def divert(self, take: Callable[[bytes], None]) -> None:
        """From now on messages go to `take`; not before `marked`, though."""
        self._take = take
        self._split_bytes = self._framer.waiting_bytes
        if not self._split_bytes:
            self._to_pox(MARK)

    def marked(self) -> None:
        """The mark has come out of POX: all that was sent before it has been taken."""
        held, self._held = self._held or [], None
        for message in held:
            self._hand_over(message)

    def _hand_over(self, message: bytes) -> None:
        if message[1] == Type.PORT_STATUS:
            self._to_pox(message)  # for POX's list of ports
        if self._take is not None:
            self._take(message)

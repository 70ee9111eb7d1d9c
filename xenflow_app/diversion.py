"""What comes from a switch by way of the terminator: to POX at first, then straight to the core.

    switch == TLS ==> Terminator --- until diverted, whole bytes ---> POX --> core
                          |- MARK, when diverted -------------------> POX --> core: all before it has come
                          `- from then on, whole messages --------------------> core      (PORT_STATUS to POX as well)

What is read at once is handed on at once, so that the host sees what is urgent in it before it does the rest.

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
        if self._split_bytes and messages:  # its beginning is on its way already
            self._to_pox(messages[0][self._split_bytes :] + MARK)
            self._split_bytes = 0
            messages = messages[1:]
        if self._held is None:
            self._hand_over(messages)
        else:
            self._held += messages

    def divert(self, take: Callable[[bytes], None]) -> None:
        """From now on whole messages go to `take`, several at once; not before `marked`, though."""
        self._take = take
        self._split_bytes = self._framer.waiting_bytes
        if not self._split_bytes:
            self._to_pox(MARK)

    def marked(self) -> None:
        """The mark has come out of POX: all that was sent before it has been taken."""
        held, self._held = self._held or [], None
        self._hand_over(held)

    def _hand_over(self, messages: list[bytes]) -> None:
        for message in messages:
            if message[1] == Type.PORT_STATUS:
                self._to_pox(message)  # for POX's list of ports
        if self._take is not None and messages:
            self._take(b"".join(messages))

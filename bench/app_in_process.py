"""The app's core in this process, between a server that is played and a real switch."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from xenflow.identity import Identity
from xenflow.tls import TlsFiles
from xenflow.wire import VERSION, Ack, Hello, Message, Role
from xenflow_app.controller import Controller
from xenflow_app.effects import ToPeer, ToSwitch
from xenflow_app.openflow.connection import SwitchSession, Up
from xenflow_app.settings import AppSettings

_PEER, _SWITCH = 1, 2
_TIMEOUT_S = 60
_READ_BYTES = 1 << 18


class AppInProcess:
    """Controller and session with one switch; `say` is what the node's server says."""

    def __init__(self, node: str, switch: Path) -> None:
        nowhere = Path("/nonexistent")
        files = TlsFiles(ca=nowhere, certificate=nowhere, key=nowhere)
        self._core = Controller(AppSettings(tls=files, nodes=(node,)))
        self._node = node
        self._session = SwitchSession(time.monotonic())
        self._acknowledged: dict[str, int] = {}
        self.dpid: int | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(switch))
        self._socket.setblocking(False)
        self._unsent = b""
        identity = Identity(Role.NODE, node)
        self._core.peer_opened(_PEER, identity, Hello(VERSION, Role.NODE, node), time.monotonic())
        while self.dpid is None:
            self._turn()

    def say(self, messages: Iterable[Message]) -> None:
        """Let the node's server say these; what the app sends meanwhile goes out."""
        for message in messages:
            self._core.peer_message(_PEER, message, time.monotonic())
            self._turn(wait_s=0)

    def until_acknowledged(self, scope: str, seq: int) -> None:
        """Return once the app says that `scope` is installed up to `seq`. Raises TimeoutError."""
        end = time.monotonic() + _TIMEOUT_S
        while self._acknowledged.get(scope, 0) < seq:
            self._turn()
            if time.monotonic() > end:
                raise TimeoutError(f"{scope}: no acknowledgement of {seq} within {_TIMEOUT_S} s")

    def _turn(self, wait_s: float = 0.1) -> None:
        """Let bytes go both ways once."""
        now = time.monotonic()
        if now >= self._core.next_deadline():
            self._core.tick(now)
        self._carry_out(now)
        readable, writable, _ = select.select([self._socket], [self._socket] if self._unsent else [], [], wait_s)
        if readable:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the switch closed the connection")
            for event in self._session.receive(data, now):
                if isinstance(event, Up):
                    self.dpid = event.features.dpid
                    self._core.switch_opened(_SWITCH, event.features, self._node, now)
                else:
                    self._core.switch_message(_SWITCH, event, now)
            while (message := self._session.next_message()) is not None:
                self._core.switch_message(_SWITCH, message, now)
            self._carry_out(now)
        if writable or self._unsent:
            self._push()

    def _carry_out(self, now: float) -> None:
        while effects := self._core.effects():
            for effect in effects:
                if isinstance(effect, ToSwitch):
                    self._session.send(effect.data)
                elif isinstance(effect, ToPeer) and isinstance(effect.message, Ack):
                    self._acknowledged[effect.message.scope] = effect.message.seq
        self._unsent += self._session.output(now)
        self._push()

    def _push(self) -> None:
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                return
            self._unsent = self._unsent[sent:]

    def __enter__(self) -> AppInProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

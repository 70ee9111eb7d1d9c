"""What the core wants done, as values, and how a host calls the core.

    host -> Core: who connected, what was said, who left, what time it is
    Core -> host: effects, in order, to be drained after each call

`peer` (a server or an operator) and `switch` are small numbers that the host gives to connections; none is used twice.
The core does no I/O and has no clock: `now` is in seconds of any steady clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from xenflow.errors import Fault
from xenflow.identity import Identity
from xenflow.wire import Hello, Message, Welcome
from xenflow_app.openflow.values import Features, SwitchMessage


@dataclass(frozen=True, slots=True)
class ToPeer:
    """Send a message to a server or an operator."""

    peer: int
    message: Message


@dataclass(frozen=True, slots=True)
class ToSwitch:
    """Send whole OpenFlow messages to a switch."""

    switch: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseSwitch:
    """End the connection to a switch; `switch_closed` follows."""

    switch: int
    reason: str


@dataclass(frozen=True, slots=True)
class ClosePeer:
    """End the session with a server or an operator; `peer_closed` follows."""

    peer: int
    reason: str


Effect: TypeAlias = ToPeer | ToSwitch | CloseSwitch | ClosePeer


class Core(Protocol):
    """The controller's core, as hosts see it; `xenflow_app.controller.Controller` is one.

    What was opened without an error is closed exactly once, whoever ends it.
    """

    def watch_door(self, where: str, refused: Mapping[Fault, int]) -> None:
        """Note a listener of the host's, with its counts of refused peers, which go on counting."""

    def peer_opened(self, peer: int, identity: Identity, hello: Hello, now: float) -> Welcome:
        """Return the answer to a verified peer's Hello. Raises RemoteProtocolError to refuse it."""

    def peer_message(self, peer: int, message: Message, now: float) -> None:
        """Take a message in. Raises RemoteProtocolError if the session has to end."""

    def peer_closed(self, peer: int, now: float) -> None:
        """Note that the session has ended."""

    def switch_opened(self, switch: int, features: Features, node: str | None, now: float) -> None:
        """Note a switch that is ready for flows; `node` is its verified name (None: plain TCP on loopback).

        Raises RemoteProtocolError to refuse it.
        """

    def switch_message(self, switch: int, message: SwitchMessage, now: float) -> None:
        """Take a message in. Raises RemoteProtocolError if the connection has to end."""

    def switch_closed(self, switch: int, now: float) -> None:
        """Note that the connection has ended."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    def next_deadline(self) -> float:
        """Return when `tick` is due (infinity: never)."""

    def effects(self) -> Sequence[Effect]:
        """Return what is to be done, once."""

"""One end of one connection between two of XenFlow's processes, without I/O: bytes and time in, messages and bytes out.

Place in the flow: `xenflow.channel` owns the socket and calls this; programs see messages only. docs/design/session.md
has the picture:

    connecting   HANDSHAKE --Welcome--> OPEN --Bye, fault--> CLOSED        (sends Hello first)
    accepting    HANDSHAKE --Hello----> OPEN --Bye, fault--> CLOSED        (answers Welcome, or Bye with the reason)

Rules: what the other side sends is looked up in the transition table before anything else happens with it; any split
of the same bytes gives the same messages and the same error; a fault ends the session, with one Bye that says why.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from xenflow import wire
from xenflow.errors import Fault, LocalProtocolError, RemoteProtocolError
from xenflow.frames import FrameBuffer
from xenflow.limits import Limits
from xenflow.wire import Bye, Hello, Message, Ping, Pong, Role, Welcome

if TYPE_CHECKING:
    from xenflow.identity import Identity


__all__ = ["TRANSITIONS", "Limits", "Session", "Side", "State"]


class State(enum.Enum):
    """Where a session stands."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSED = "closed"


class Side(enum.Enum):
    """Who began."""

    CONNECTING = "connecting"
    ACCEPTING = "accepting"


_OPENING: Final[dict[Side, dict[type[Message], State]]] = {
    Side.CONNECTING: {Welcome: State.OPEN, Bye: State.CLOSED},
    Side.ACCEPTING: {Hello: State.OPEN, Bye: State.CLOSED},
}
_ALWAYS: Final[dict[type[Message], State]] = {Ping: State.OPEN, Pong: State.OPEN, Bye: State.CLOSED}
_REPORTS: Final[tuple[type[Message], ...]] = (wire.Begin, wire.Update, wire.End)
_FROM: Final[dict[Role, tuple[type[Message], ...]]] = {
    Role.ROUTER: _REPORTS,
    Role.NODE: (
        *(*_REPORTS, wire.Close, wire.Ack, wire.Confirmed, wire.Answer, wire.Problem),
        *(wire.Progress, wire.Announce, wire.Announced, wire.Query, wire.Refused),
    ),
    Role.CONTROLLER: (
        *(*_REPORTS, wire.Close, wire.Ack, wire.Confirm, wire.Answer, wire.Problem, wire.Query),
        *(wire.Define, wire.Undefine, wire.Move, wire.CancelMove, wire.Announce, wire.Announced, wire.Drain),
    ),
    Role.OPERATOR: (wire.Query,),
}
TRANSITIONS: Final[dict[Role, dict[type[Message], State]]] = {
    role: {**dict.fromkeys(messages, State.OPEN), **_ALWAYS} for role, messages in _FROM.items()
}
"""Open session: sender's role -> message -> state after it. What is not here may not be sent."""

_REASON_CHARACTERS: Final = 500


class Session:
    """One end of one connection.

    The side that connects gives `hello`, the side that accepts gives `welcome`, which turns the other side's Hello
    into the answer or refuses it with RemoteProtocolError. `peer` is the identity in the other side's certificate;
    None (a local socket) means that whatever it says is true. Times are seconds of any steady clock.
    """

    def __init__(
        self,
        *,
        hello: Hello | None,
        welcome: Callable[[Hello], Welcome] | None,
        peer: Identity | None,
        now: float,
        limits: Limits = Limits(),  # noqa: B008 - immutable
    ) -> None:
        if (hello is None) == (welcome is None):
            raise LocalProtocolError("a session has either a hello or a welcome")
        self.side = Side.CONNECTING if hello is not None else Side.ACCEPTING
        self.state = State.HANDSHAKE
        self.limits = limits
        self.peer_hello: Hello | None = None
        self.peer_welcome: Welcome | None = None
        self.bye = ""
        """Why the other side closed the session, once it has said so."""
        self.fault: RemoteProtocolError | None = None
        self._hello, self._welcome, self._peer = hello, welcome, peer
        self._incoming = FrameBuffer()
        self._outgoing = bytearray()
        self._role: Role | None = hello.role if hello is not None else None
        self._peer_role: Role | None = None
        self._now = self._began = self._received = self._sent = self._pinged = now
        self._frame_began: float | None = None
        self._pings = 0

    def start(self) -> bytes:
        """Return the bytes to send first: the Hello of the connecting side."""
        return wire.encode(self._hello) if self._hello is not None else b""

    def receive(self, data: bytes, now: float) -> list[Message]:
        """Take bytes in and return the messages for the program; then `output` may have something to send.

        Raises RemoteProtocolError for a fault. Messages before the fault are returned first; it is then in `fault`,
        and raised by the next call. Bytes after the end are ignored.
        """
        self._now = now
        if self.fault is not None:
            raise self.fault
        if self.state is State.CLOSED or not data:
            return []
        self._received = now
        self._incoming.add(data)
        messages: list[Message] = []
        try:
            self._take_frames(messages)
        except RemoteProtocolError as fault:
            self.fail(fault)
            if not messages:
                raise
        if not len(self._incoming):
            self._frame_began = None
        return messages

    def send(self, message: Message) -> bytes:
        """Return the bytes of `message`.

        Raises LocalProtocolError unless the session is open, our role may send it and it fits into a frame.
        """
        if self.state is not State.OPEN or self._role is None:
            raise LocalProtocolError(f"{type(message).__name__} cannot be sent: the session is {self.state.value}")
        if type(message) is Bye or TRANSITIONS[self._role].get(type(message)) is None:
            raise LocalProtocolError(f"a {self._role} does not send {type(message).__name__}")
        frame = wire.encode(message)
        if len(frame) - 4 > self.limits.frame_bytes:
            raise LocalProtocolError(f"{type(message).__name__} of {len(frame)} bytes does not fit into a frame")
        self._sent = self._now
        return frame

    def close(self, reason: str) -> bytes:
        """End the session; return the Bye to send (nothing if it has ended already)."""
        if self.state is State.CLOSED:
            return b""
        self.state = State.CLOSED
        return wire.encode(Bye(reason[:_REASON_CHARACTERS]))

    def tick(self, now: float, *, reading: bool = True) -> bytes:
        """Return the Ping that is due, if any.

        Raises RemoteProtocolError when a deadline has passed. `reading` is False while we leave the other side's
        bytes unread: then its silence is our doing, and only the Pings go on.
        """
        self._now = max(self._now, now)
        if self.fault is not None:
            raise self.fault
        if reading and (late := self._late()) is not None:
            self.fail(late)
            raise late
        if self.state is not State.OPEN or self._now < self._next_ping():
            return b""
        self._pings += 1
        self._pinged = self._sent = self._now
        return wire.encode(Ping(self._pings))

    def resume(self, paused_s: float) -> None:
        """We read again after not reading for `paused_s`, which the other side's deadlines do not count."""
        self._received += paused_s
        if self._frame_began is not None:
            self._frame_began += paused_s

    def fail(self, fault: RemoteProtocolError) -> None:
        """End the session for a fault of the other side; `output` has the Bye. The first fault counts."""
        if self.fault is not None:
            return
        if self.state is not State.CLOSED:
            self._outgoing += wire.encode(Bye(fault.reason[:_REASON_CHARACTERS]))
        self.state = State.CLOSED
        self.fault = fault
        self._incoming.clear()
        self._frame_began = None

    def output(self) -> bytes:
        """Return what `receive` or a fault wants sent (Welcome, Pong, Bye), once."""
        if not self._outgoing:
            return b""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        self._sent = self._now
        return data

    def next_deadline(self, *, reading: bool = True) -> float:
        """Return when `tick` has to be called at the latest; infinity once closed."""
        if self.state is State.CLOSED:
            return float("inf")
        if not reading:
            return self._next_ping()
        frame = self._frame_began + self.limits.frame_s if self._frame_began is not None else float("inf")
        if self.state is State.HANDSHAKE:
            return min(self._began + self.limits.handshake_s, frame)
        return min(self._received + self.limits.idle_s, frame, self._next_ping())

    def _next_ping(self) -> float:
        return max(min(self._sent, self._received), self._pinged) + self.limits.keepalive_s

    def _late(self) -> RemoteProtocolError | None:
        limits, now = self.limits, self._now
        if self.state is State.CLOSED:
            return None
        if self.state is State.HANDSHAKE and now >= self._began + limits.handshake_s:
            return RemoteProtocolError(f"no handshake within {limits.handshake_s:g} s", Fault.HANDSHAKE_TIMEOUT)
        if self._frame_began is not None and now >= self._frame_began + limits.frame_s:
            return RemoteProtocolError(f"half a frame for {limits.frame_s:g} s", Fault.FRAME_TIMEOUT)
        if self.state is State.OPEN and now >= self._received + limits.idle_s:
            return RemoteProtocolError(f"silent for {limits.idle_s:g} s", Fault.IDLE_TIMEOUT)
        return None

    def _take_frames(self, messages: list[Message]) -> None:
        if self._frame_began is None:
            self._frame_began = self._now
        while self.state is not State.CLOSED:
            opening = self.state is State.HANDSHAKE
            body = self._incoming.pop(self.limits.handshake_frame_bytes if opening else self.limits.frame_bytes)
            if body is None:
                return
            self._frame_began = self._now
            try:
                message = wire.decode(body)
            except msgspec.DecodeError as error:
                raise RemoteProtocolError(f"not a message: {error}", Fault.GARBAGE) from error
            if opening:
                self._open(message)
            elif not self._answered(message):
                messages.append(message)
        self._incoming.clear()

    def _open(self, message: Message) -> None:
        state = _OPENING[self.side].get(type(message))
        if state is None:
            raise RemoteProtocolError(f"{type(message).__name__} instead of a handshake", Fault.SEQUENCE)
        if isinstance(message, Bye):
            self.state = state
            raise RemoteProtocolError(f"refused by the other side: {_clean(message.reason)}", Fault.REFUSED)
        assert isinstance(message, Hello | Welcome)  # by the table
        self._check_peer(message)
        if isinstance(message, Hello):
            assert self._welcome is not None  # by the table: only the accepting side takes Hello
            answer = self._welcome(message)
            self.peer_hello = message
            self._role = answer.role
            self._outgoing += wire.encode(answer)
        else:
            self.peer_welcome = message
        self._peer_role = message.role
        self.state = state

    def _check_peer(self, message: Hello | Welcome) -> None:
        if message.version != wire.VERSION:
            reason = f"protocol version {message.version}, this side speaks {wire.VERSION}: install the same release"
            raise RemoteProtocolError(reason, Fault.VERSION)
        peer = self._peer
        if peer is not None and (message.role, message.name) != (peer.role, peer.name):
            claim = _clean(f"{message.role}/{message.name}"[:100])
            raise RemoteProtocolError(f"says to be {claim}, its certificate says {peer}", Fault.IDENTITY)

    def _answered(self, message: Message) -> bool:
        """Handle what is not for the program; True if it was not."""
        assert self._peer_role is not None  # set with OPEN
        state = TRANSITIONS[self._peer_role].get(type(message))
        if state is None:
            raise RemoteProtocolError(f"a {self._peer_role} does not send {type(message).__name__}", Fault.SEQUENCE)
        self.state = state
        if isinstance(message, Ping):
            self._outgoing += wire.encode(Pong(message.number))
        elif isinstance(message, Pong):
            if not 1 <= message.number <= self._pings:
                raise RemoteProtocolError("an answer to a question that was not asked (Pong)", Fault.SEQUENCE)
        elif isinstance(message, Bye):
            self.bye = _clean(message.reason) or "no reason given"
        else:
            return False
        return True


def _clean(text: str) -> str:
    """Return text of the other side as it may be shown: one line, no control characters, not endless."""
    return "".join(c if c.isprintable() else "?" for c in text[:_REASON_CHARACTERS])

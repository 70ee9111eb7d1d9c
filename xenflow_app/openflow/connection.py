"""A session with one switch, without I/O: bytes and time in, values and bytes out.

    HELLO --Hello--> SETUP --Features, BarrierReply--> UP          (any fault: RemoteProtocolError, and it is over)

Setup turns on what the pipeline needs: NXM, tables in flow-mods, Nicira's packet-ins, whole packets. A switch that
refuses one of them is of no use. Probes (echo) keep the session honest in both directions: at the end of every
`chunk_bytes` that we send there is one, no more than `window_bytes` are sent beyond the last one answered, and one that
stays unanswered for `silence_s` ends the session. So a switch is never flooded, whichever way its bytes take.

Nor does it flood us: its packet-ins wait in lanes (packet_ins.py) until somebody takes them, one at a time. So do flows
that have aged, which come by thousands a while after a flood, and what comes behind them, in order. All else that it
says is returned at once. While more than `unsent_bytes` wait to be sent, only urgent packet-ins are given: each
other one would add an answer, and what is urgent to send must not wait behind ever more of those.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from xenflow.errors import Fault, RemoteProtocolError
from xenflow_app.openflow import encode
from xenflow_app.openflow.decode import decode
from xenflow_app.openflow.encode import Type
from xenflow_app.openflow.packet_ins import PacketIns, is_flow_removed, is_packet_in
from xenflow_app.openflow.stream import Framer
from xenflow_app.openflow.values import BarrierReply, Echo, ErrorMessage, Features, Hello, SwitchMessage

OWN_XIDS = 0xFFFF0000
"""Transaction ids from here on are the session's; the core counts from 1 and may use all below."""
_SETUP_XID = OWN_XIDS
_OWN_TYPES = frozenset({Type.HELLO, Type.ECHO_REQUEST, Type.ECHO_REPLY})


@dataclass(frozen=True, slots=True)
class Pace:
    """Times in seconds and sizes in bytes of a session with a switch."""

    probe_s: float = 5.0
    """A probe after so much silence of the switch."""
    silence_s: float = 15.0
    """How long a probe may stay unanswered."""
    setup_s: float = 10.0
    chunk_bytes: int = 1 << 16
    window_bytes: int = 1 << 18
    unsent_bytes: int = 1 << 21
    """More than planned flow-mods ever let wait (datapath.py): only answers to packet-ins make it so much."""


@dataclass(frozen=True, slots=True)
class Up:
    """The switch is ready; comes once and first."""

    features: Features


Event: TypeAlias = Up | SwitchMessage


class State(enum.Enum):
    """Where a session stands."""

    HELLO = "hello"
    SETUP = "setup"
    UP = "up"


class SwitchSession:
    """One switch. `greeted`: somebody else (POX) has exchanged hellos already, so setup begins at once.

    Keeps true: what `send` takes goes out in order and in whole messages, at most a window ahead of the switch.
    """

    def __init__(self, now: float, *, greeted: bool = False, pace: Pace = Pace()) -> None:
        self.state = State.HELLO
        self._pace = pace
        self._framer = Framer()
        self._heard = self._began = now
        self._features: Features | None = None
        self.packet_ins = PacketIns()
        self._ordered: deque[bytes] = deque()
        """A flow that has aged, and what came behind it, in order."""
        self._had_urgent = False
        self._early: list[SwitchMessage] = []
        self._ready: list[bytes] = []
        self._queue: deque[bytes] = deque()
        self.waiting_bytes = 0
        """What has been given to `send` and may not go out yet."""
        self._probes: deque[tuple[int, float, int]] = deque()
        """(xid, when sent, bytes that it confirms) of each probe on its way."""
        self._ahead_bytes = self._since_probe_bytes = 0
        self._next_xid = OWN_XIDS + 1
        if greeted:
            self._begin_setup()
        else:
            self._ready.append(encode.hello())

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take bytes in; return what the switch said, but for what waits for `next_message`.

        Raises RemoteProtocolError; the session is over then.
        """
        self._heard = now
        events: list[Event] = []
        for message in self._framer.receive(data):
            if self.state is not State.HELLO and is_packet_in(message):
                self.packet_ins.put(message)
            elif self._must_wait(message):
                self._ordered.append(message)
            else:
                events += self._take(decode(message), now)
        return events

    @property
    def has_message(self) -> bool:
        """Whether `next_message` has one now."""
        waits = self.packet_ins.urgent or bool(self._ordered) or (bool(self.packet_ins) and not self._behind)
        return self.state is State.UP and waits

    def next_message(self) -> SwitchMessage | None:
        """Return the message whose turn it is; None if none may be dealt with now.

        Urgent packet-ins are first, by turns with aged flows; then come the other packet-ins. Raises
        RemoteProtocolError; the session is over then.
        """
        if self.state is not State.UP:
            return None
        if self._ordered and (self._had_urgent or not self.packet_ins.urgent):
            self._had_urgent = False
            return decode(self._ordered.popleft())
        self._had_urgent = bool(self._ordered)
        message = self.packet_ins.take(only_urgent=self._behind or self._had_urgent)
        return None if message is None else decode(message)

    def _must_wait(self, message: bytes) -> bool:
        """Tell whether a message is an aged flow, or came behind one that waits; what is the session's own does not."""
        if self.state is not State.UP or message[1] in _OWN_TYPES:
            return False
        return bool(self._ordered) or is_flow_removed(message)

    def send(self, data: bytes) -> None:
        """Queue whole messages for the switch."""
        self._queue.extend(_chunks(data, self._pace.chunk_bytes))
        self.waiting_bytes += len(data)

    def output(self, now: float) -> bytes:
        """Return what may go out now; b"" when nothing may."""
        pace = self._pace
        while self._queue and self._ahead_bytes + len(self._queue[0]) <= pace.window_bytes:
            chunk = self._queue.popleft()
            self.waiting_bytes -= len(chunk)
            self._ready.append(chunk)
            self._ahead_bytes += len(chunk)
            self._since_probe_bytes += len(chunk)
            if self._since_probe_bytes >= pace.chunk_bytes or self._blocked():
                self._probe(now)
        data, self._ready = b"".join(self._ready), []
        return data

    def tick(self, now: float) -> None:
        """Probe a silent switch. Raises RemoteProtocolError when it has been silent for too long."""
        if self.state is not State.UP:
            if now >= self._began + self._pace.setup_s:
                reason = f"no OpenFlow 1.0 session within {self._pace.setup_s:g} s"
                raise RemoteProtocolError(reason, Fault.HANDSHAKE_TIMEOUT)
        elif self._probes and now >= self._probes[0][1] + self._pace.silence_s:
            reason = f"a probe was not answered for {self._pace.silence_s:g} s"
            raise RemoteProtocolError(reason, Fault.IDLE_TIMEOUT)
        elif not self._probes and now >= self._heard + self._pace.probe_s:
            self._probe(now)

    def next_deadline(self) -> float:
        """Return when `tick` is due."""
        if self.state is not State.UP:
            return self._began + self._pace.setup_s
        if self._probes:
            return self._probes[0][1] + self._pace.silence_s
        return self._heard + self._pace.probe_s

    @property
    def _behind(self) -> bool:
        return self.waiting_bytes > self._pace.unsent_bytes

    def _blocked(self) -> bool:
        return bool(self._queue) and self._ahead_bytes + len(self._queue[0]) > self._pace.window_bytes

    def _probe(self, now: float) -> None:
        xid = self._next_xid
        self._next_xid = OWN_XIDS + 1 if xid == 0xFFFFFFFF else xid + 1
        self._probes.append((xid, now, self._since_probe_bytes))
        self._since_probe_bytes = 0
        self._ready.append(encode.echo(xid))

    def _begin_setup(self) -> None:
        self.state = State.SETUP
        xid = _SETUP_XID
        self._ready += [
            encode.set_config(xid),
            encode.set_flow_format(xid),
            encode.flow_mod_table_id(xid),
            encode.set_packet_in_format(xid),
            encode.features_request(xid),
            encode.barrier_request(xid),
        ]

    def _take(self, message: SwitchMessage, now: float) -> Iterator[Event]:
        match message:
            case Echo(reply=False):
                self._ready.append(encode.echo(message.xid, message.data, reply=True))
            case Echo():
                self._answered(message.xid)
            case Hello() if self.state is State.HELLO:
                if message.version < encode.VERSION:
                    raise RemoteProtocolError(f"speaks OpenFlow version {message.version} only", Fault.VERSION)
                self._begin_setup()
            case Hello():
                raise RemoteProtocolError("a second hello", Fault.SEQUENCE)
            case _ if self.state is State.UP:
                yield message
            case _:
                yield from self._set_up(message, now)

    def _answered(self, xid: int) -> None:
        """A probe was answered: all before it has been read. Answers to other echoes are nobody's here."""
        if any(probe[0] == xid for probe in self._probes):
            while True:
                answered, _sent, confirmed_bytes = self._probes.popleft()
                self._ahead_bytes -= confirmed_bytes
                if answered == xid:
                    return

    def _set_up(self, message: SwitchMessage, now: float) -> Iterator[Event]:
        match message:
            case ErrorMessage(xid=xid):
                if self.state is State.HELLO or xid == _SETUP_XID:
                    reason = (
                        f"the switch refused to set up OpenFlow 1.0 with Nicira extensions (type {message.type}, "
                        f"code {message.code}); the bridge needs protocols=OpenFlow10"
                    )
                    raise RemoteProtocolError(reason, Fault.VERSION)
            case _ if self.state is State.HELLO:
                raise RemoteProtocolError(f"{type(message).__name__} instead of a hello", Fault.SEQUENCE)
            case Features():
                self._features = message
            case BarrierReply(xid=xid) if xid == _SETUP_XID and self._features is not None:
                self.state = State.UP
                self._heard = now
                yield Up(self._features)
                yield from self._early
                self._early = []
            case _ if len(self._early) < 1024:
                self._early.append(message)


def _chunks(data: bytes, size: int) -> Iterator[bytes]:
    """Yield `data`, whole messages, in pieces of whole messages and about `size` bytes."""
    start = offset = 0
    while len(data) - start > size:
        while offset - start < size and offset < len(data):
            offset += int.from_bytes(data[offset + 2 : offset + 4], "big") or len(data)
        yield data[start:offset]
        start = offset
    if start < len(data):
        yield data[start:]

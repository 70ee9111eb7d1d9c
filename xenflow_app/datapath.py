"""One node's switch as the planner sees it: what is sent, what is confirmed (sans-IO).

Place in the flow: FlowTable (desired - actual) -> *batches, barriers* -> bytes; dump, barrier replies, errors -> back.

A batch is flow-mods and one barrier. A few batches are on their way at a time, so that a full table neither fills the
memory nor keeps a later change waiting for long. When all that was due at some moment has been confirmed by a barrier,
what waited for it is called.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from xenflow_app.flowtable import FlowKey, FlowTable, FlowValue, Owner, is_ours, kind_of
from xenflow_app.openflow import actions, encode
from xenflow_app.openflow.encode import Command
from xenflow_app.openflow.values import BarrierReply, ErrorMessage, Flow, FlowStats
from xenflow_app.pipeline import Kind

BATCH_FLOWS = 2000
BATCHES_UNDER_WAY = 3


@dataclass(slots=True)
class Question:
    """A dump of some flows that is under way, and who waits for it."""

    tell: Callable[[list[Flow] | None], None]
    flows: list[Flow] = field(default_factory=list)


class Datapath:
    """See the module. `send` takes bytes for the switch."""

    def __init__(self, flows: FlowTable, send: Callable[[bytes], None], in_sync: Callable[[Owner], bool]) -> None:
        self.flows = flows
        self.sent_flow_mods = 0
        self.confirmed_flow_mods = 0
        self._send = send
        self._in_sync = in_sync
        self._xid = 1
        self._dump: dict[FlowKey, FlowValue] = {}
        self._dump_xid = 0
        self._under_way: deque[tuple[int, int, list[Callable[[], None]]]] = deque()
        self._waiting: list[Callable[[], None]] = []
        self._sent: dict[int, FlowKey] = {}
        self._unconfirmed: dict[FlowKey, int] = {}
        self._questions: dict[int, Question] = {}

    def start(self) -> None:
        """The switch is connected: ask what it has."""
        self.flows.lost()
        self._dump = {}
        self._dump_xid = self._next_xid()
        self._send(encode.flow_dump_request(self._dump_xid))

    def dump(self, part: FlowStats) -> bool:
        """Take in a part of the dump; True when it is complete and the differences are known."""
        if part.xid in self._questions:
            self._answer(part)
        if part.xid != self._dump_xid:
            return False
        for flow in part.flows:
            if is_ours(flow.value) and kind_of(flow.value) != Kind.LIMIT:
                self._dump[flow.key] = flow.value
        if part.more:
            return False
        self._dump_xid = 0
        self.flows.resync(self._dump, self._in_sync)
        self._dump = {}
        return True

    def ask(self, tell: Callable[[list[Flow] | None], None], table: int, cookie: tuple[int, int]) -> None:
        """Ask for flows as they are now, with counters: those of a table whose cookie is (value, mask).

        `tell` gets them, or None when the connection is lost before.
        """
        xid = self._next_xid()
        self._questions[xid] = Question(tell)
        self._send(encode.flow_dump_request(xid, table, cookie))

    def _answer(self, part: FlowStats) -> None:
        question = self._questions[part.xid]
        question.flows.extend(part.flows)
        if not part.more:
            del self._questions[part.xid]
            question.tell(question.flows)

    def when_confirmed(self, call: Callable[[], None]) -> None:
        """Call once all that is due now is in the switch's tables."""
        self._waiting.append(call)

    def send_out(self, port: int, frame: bytes) -> None:
        """Send a frame out of a port."""
        self._send(encode.packet_out(actions.output(port), frame))

    def when_done(self, call: Callable[[], None]) -> None:
        """Call once the switch has done all that it was sent until now."""
        barrier = self._next_xid()
        self._under_way.append((barrier, barrier, [call]))
        self._send(encode.barrier_request(barrier))

    def flush(self) -> None:
        """Send what is due, as far as the window allows; call what need not wait."""
        flows = self.flows
        while flows.due and len(self._under_way) < BATCHES_UNDER_WAY:
            self._send_batch()
        if not flows.ready or flows.due or not self._waiting:
            return
        calls, self._waiting = self._waiting, []
        if self._under_way:
            self._under_way[-1][2].extend(calls)
        else:
            for call in calls:
                call()

    def _send_batch(self) -> None:
        batch = self.flows.take(BATCH_FLOWS)
        if not len(batch):
            return
        out = []
        first = self._xid
        for key, value in batch.upserts:
            xid = self._next_xid()
            self._sent[xid] = key
            self._unconfirmed[key] = xid
            out.append(encode.flow_mod(Command.ADD, key, value, xid))
        for key, value in batch.deletes:
            out.append(encode.flow_mod(Command.DELETE_STRICT, key, value, self._next_xid()))
        barrier = self._next_xid()
        out.append(encode.barrier_request(barrier))
        self._under_way.append((barrier, first, []))
        self.sent_flow_mods += len(batch)
        self._send(b"".join(out))

    def is_unconfirmed(self, key: FlowKey) -> bool:
        """Tell whether the flow was sent and is not confirmed: what the switch says of it may be of the one before."""
        return key in self._unconfirmed

    def barrier(self, reply: BarrierReply) -> None:
        """A batch is in the tables; send on, and call what waited for it."""
        while self._under_way and self._before(self._under_way[0][0], reply.xid):
            barrier, first, calls = self._under_way.popleft()
            self.confirmed_flow_mods += self._forget(first, barrier)
            for call in calls:
                call()
        self.flush()

    def _forget(self, first: int, last: int) -> int:
        count = 0
        xid = first
        while xid != last:
            key = self._sent.pop(xid, None)
            if key is not None and self._unconfirmed.get(key) == xid:
                del self._unconfirmed[key]
            count += 1
            xid = xid + 1 & 0xFFFFFFFF or 1
        return count

    @staticmethod
    def _before(xid: int, reply: int) -> bool:
        return (reply - xid) & 0xFFFFFFFF < 1 << 31

    def error(self, error: ErrorMessage) -> FlowKey | None:
        """The switch refused a message; return the flow that it was about, which stays out."""
        key = self._sent.pop(error.xid, None)
        if key is not None:
            self._unconfirmed.pop(key, None)
            self.flows.refuse(key, f"error type {error.type} code {error.code}")
        return key

    def lost(self) -> None:
        """The connection is gone; what waited will be called after the next dump."""
        self.flows.lost()
        for _, _, calls in self._under_way:
            self._waiting.extend(calls)
        self._under_way.clear()
        self._sent.clear()
        self._unconfirmed.clear()
        questions, self._questions = self._questions, {}
        for question in questions.values():
            question.tell(None)

    def _next_xid(self) -> int:
        xid = self._xid
        self._xid = xid + 1 & 0xFFFFFFFF or 1
        return xid

"""Pure: one router from its client's session to the app's scope, and the acknowledgements back.

    client -> Door -> Inbox -> Summary -> Outbox -> app
    client <----------- AckMap <----------- Ack <- app

Rules: a scope is begun when its client has begun for the first time, and complete when the client's snapshot is; after
that it stays complete, and a client that connects again only causes what differs.
"""

from __future__ import annotations

from xenflow.errors import Fault, RemoteProtocolError
from xenflow.model import Machine
from xenflow.replica import Inbox, Outbox
from xenflow.wire import Ack, Begin, End, Message, Problem, Update
from xenflow_server.acks import AckMap
from xenflow_server.door import Door
from xenflow_server.summary import Summary

MAX_FACTS = 1_000_000
"""Facts of a router without a cap; more, and its session is closed."""
CAP_FACTOR = 4
"""A router that knows its cap and still reports this many times more is closed."""
MIN_BOUND = 10_000
"""But a session is never closed below this: small caps are for routes, not for sessions."""


class Relay:
    """All that the server keeps of one router that runs here."""

    def __init__(self, machine: Machine, max_routes: int) -> None:
        self.machine = machine
        self.max_routes = max_routes
        self.door = Door()
        self.outbox = Outbox(machine.name)
        self.begun = False
        self._inbox = Inbox(machine.name)
        self._summary = Summary(machine, max_routes, self.outbox)
        self._acks = AckMap()
        self._shed_by_app = 0

    @property
    def scope(self) -> str:
        """The router's name."""
        return self.machine.name

    def connected(self) -> None:
        """A session of the client starts: only Begin may come first, and its numbers start anew."""
        self._inbox.suspend()
        self._acks.restart()

    def receive(self, message: Begin | Update | End) -> list[Message]:
        """Take a message of the client in; return what to answer.

        Raises RemoteProtocolError if the session must end.
        """
        answers: list[Message] = []
        if isinstance(message, Update):
            message, reasons = self.door.admit(message)
            answers.extend(Problem(self.scope, f"refused: {reason}") for reason in reasons)
        change = self._inbox.receive(message)
        self._check_bound()
        if isinstance(message, Begin):
            if not self.begun:
                self.begun = self.outbox.held = True
            return answers
        self._summary.apply(change, self._inbox.facts)
        self.door.forget(change.withdrawals)
        if isinstance(message, End):
            self.outbox.held = False
        self._acks.received(change.seq)
        if not self.outbox.pending:
            answers.extend(self._ack(self._acks.unchanged(self.outbox.last_seq)))
        return answers

    def redefine(self, machine: Machine, max_routes: int) -> None:
        """Take a new definition: the app hears only what differs."""
        self.machine, self.max_routes = machine, max_routes
        wanted = Outbox(self.scope)
        self._summary = Summary(machine, max_routes, wanted)
        self._summary.rewrite(self._inbox.facts)
        self.outbox.replace(wanted.facts.values())
        self._summary.table = self.outbox

    def take(self) -> list[Message]:
        """Return the next messages for the app."""
        messages = self.outbox.take()
        if messages and not self.outbox.pending and not isinstance(messages[-1], Begin):
            self._acks.sent(self.outbox.last_seq)
        return messages

    @property
    def pending(self) -> bool:
        """Whether `take` has something."""
        return self.outbox.pending

    def restart(self) -> None:
        """A connection to the app starts: everything is sent from the beginning."""
        self._acks.disconnected()
        self.outbox.restart()

    def stop(self) -> None:
        """The connection to the app is gone."""
        self._acks.disconnected()
        self.outbox.stop()

    def installed(self, ack: Ack) -> list[Message]:
        """The app has installed up to `ack.seq`: return the acknowledgement for the client, if it says more."""
        changed = ack.shed != self._shed_by_app
        self._shed_by_app = ack.shed
        return self._ack(self._acks.installed(ack.seq), repeat=changed)

    def _ack(self, seq: int | None, *, repeat: bool = False) -> list[Message]:
        if seq is None:
            if not repeat or not self._acks.acked:
                return []
            seq = self._acks.acked
        return [Ack(self.scope, seq, self._shed_by_app + self._summary.shed)]

    def _check_bound(self) -> None:
        bound = max(CAP_FACTOR * self.max_routes, MIN_BOUND) if self.max_routes else MAX_FACTS
        if len(self._inbox.facts) > bound:
            raise RemoteProtocolError(f"more than {bound} facts; the cap is {self.max_routes} routes", Fault.CONTENT)

"""Relays the app's plan of queues to this node's qos-controller, and what that answers to the app.

    app: Begin, Update, End of the scope "queues" -> Inbox -> Outbox -> uplink over a local socket -> qos-controller
    app <- Ack: the links are shaped so <- AckMap <- Ack <-'          app: Query -> ... -> Answer -> app

Rules: nothing is sent on before the app's plan is complete once, so that an empty plan is never a half-known one. While
the qos-controller is away, or not installed, it keeps to the last plan that it has, and nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from xenflow.replica import Inbox, Outbox
from xenflow.wire import QUEUES_SCOPE, Ack, Answer, Begin, End, Message, Query, Update
from xenflow_server.acks import AckMap
from xenflow_server.uplink import Stream, Uplink


class Shaping:
    """See the module. `say` takes a message for the app; as a source of the uplink it is the scope's sending side."""

    scope = QUEUES_SCOPE

    def __init__(self, node: str, connect: Callable[[], Awaitable[Stream]], say: Callable[[Message], None]) -> None:
        self.uplink = Uplink(connect, self._answered, peer="qos-controller")
        self._node = node
        self._say = say
        self._inbox = Inbox(QUEUES_SCOPE)
        self._outbox = Outbox(QUEUES_SCOPE)
        self._acks = AckMap()

    def take_in(self, message: Begin | Update | End | Query) -> None:
        """Take a message of the app's plan, or a question. Raises RemoteProtocolError for one that cannot be."""
        if isinstance(message, Query):
            self._ask(message)
            return
        if isinstance(message, Begin):
            self._acks.restart()
        change = self._inbox.receive(message)
        for fact in change.upserts:
            self._outbox.put(fact)
        for kind, key in change.withdrawals:
            self._outbox.drop(kind, key)
        if isinstance(message, Begin):
            return
        self._acks.received(change.seq)
        if self._inbox.in_sync:
            self.uplink.open(self)
            self.uplink.wake(self.scope)
            if not self._outbox.pending:
                self._acknowledge(self._acks.unchanged(self._outbox.last_seq))

    def _ask(self, query: Query) -> None:
        """Pass a question on, or say that nobody is there to answer it."""
        if self.uplink.connected:
            self.uplink.say(query)
        else:
            way_out = "is it running (systemctl status qos-controller)?"
            self._say(Answer(query.number, error=f"node {self._node}: no connection to its qos-controller; {way_out}"))

    def app_away(self) -> None:
        """The connection to the app is gone; the plan stays."""
        self._inbox.suspend()

    # -- what the uplink asks of a source ---------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether `take` has something."""
        return self._outbox.pending

    def take(self) -> list[Message]:
        """Return the next messages for the qos-controller."""
        messages = self._outbox.take()
        if messages and not self._outbox.pending:
            self._acks.sent(self._outbox.last_seq)
        return messages

    def restart(self) -> None:
        """A connection to the qos-controller starts: it is told everything."""
        self._acks.disconnected()
        self._outbox.restart()

    def stop(self) -> None:
        """The connection to the qos-controller is gone."""
        self._acks.disconnected()
        self._outbox.stop()

    def _answered(self, message: Message) -> None:
        if isinstance(message, Answer):
            self._say(message)
        elif isinstance(message, Ack) and message.scope == self.scope:
            self._acknowledge(self._acks.installed(message.seq))

    def _acknowledge(self, seq: int | None) -> None:
        if seq is not None:
            self._say(Ack(self.scope, seq))

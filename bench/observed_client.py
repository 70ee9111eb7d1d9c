"""The real client, which also says when it sends what and when it is acknowledged: ``python -m bench.observed_client``.

Lines on standard output; times are CLOCK_MONOTONIC in ns, so that they compare with those of other processes:

    sent TIME SEQ KEY,...      an update with few facts (keys in hexadecimal), or `-` for a large one
    end TIME SEQ               the end of a snapshot
    ack TIME SEQ LAST ROUTES   acknowledged up to SEQ; LAST has been taken from the outbox, which holds ROUTES routes;
                               LAST is -1 while there is more to take
"""

from __future__ import annotations

import sys
import time
from typing import Any

from xenflow.model import Route
from xenflow.replica import Outbox
from xenflow.wire import CHUNK_FACTS, Ack, End, Message, Update
from xenflow_client import main as client
from xenflow_client.uplink import Uplink

_FEW = 4


def _say(what: str, *words: object) -> None:
    sys.stdout.write(" ".join([what, str(time.monotonic_ns()), *map(str, words)]) + "\n")
    sys.stdout.flush()


class ObservedOutbox(Outbox):
    """Says what is taken from it."""

    def take(self, max_facts: int = CHUNK_FACTS) -> list[Message]:
        messages = super().take(max_facts)
        for message in messages:
            if isinstance(message, Update):
                keys = [fact.key for fact in message.upserts[:_FEW]] + [key for _, key in message.withdrawals[:_FEW]]
                few = len(message.upserts) + len(message.withdrawals) <= _FEW
                _say("sent", message.seq, ",".join(key.hex() for key in keys) if few else "-")
            elif isinstance(message, End):
                _say("end", message.seq)
        return messages


class ObservedUplink(Uplink):
    """Says when something is acknowledged."""

    def _take_in(self, message: Message, *others: Any) -> None:
        super()._take_in(message, *others)
        if isinstance(message, Ack):
            outbox = self._report.outbox
            last = -1 if outbox.pending else outbox.last_seq
            _say("ack", message.seq, last, len(outbox.facts.of(Route.KIND)))


if __name__ == "__main__":
    client.Outbox = ObservedOutbox  # type: ignore[misc]
    client.Uplink = ObservedUplink  # type: ignore[misc]
    sys.exit(client.main())

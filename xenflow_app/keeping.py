"""Neighbors that a router's kernel gives up while the router moves: kept until the move has ended (pure).

Place in the flow: Facts -> *what is withdrawn, less what is kept* -> Router on all nodes that have its tables.

Forwarded packets do not pass the VM, so its client has the kernel verify stale neighbors: three questions, a second
apart (RFC 4861, section 7.3.3; Linux does the same for ARP). A VM whose new node is cut off gets no answer, while the
node that still forwards reaches the very same neighbors. If their flows went, packets would go to the VM, which can
reach nobody. What is really gone costs nothing by staying: its packets are lost either way.
"""

from __future__ import annotations

from dataclasses import replace

from xenflow.model import Key, Neighbor
from xenflow.replica import Change
from xenflow.wire import Begin, End, Update


class Keeping:
    """See the module: for each router that is concerned, the neighbors that it has given up."""

    def __init__(self) -> None:
        self._given_up: dict[str, dict[Key, None]] = {}

    def begin(self, name: str) -> None:
        """From now on no neighbor of the router's goes."""
        self._given_up.setdefault(name, {})

    def end(self, name: str) -> list[Key]:
        """Return the neighbors that go now."""
        return list(self._given_up.pop(name, ()))

    def keep(self, name: str, message: Begin | Update | End, change: Change) -> Change:
        """Return what of a change counts now; `message` is what brought it: a neighbor in it is there again."""
        given_up = self._given_up.get(name)
        if given_up is None:
            return change
        for fact in message.upserts if isinstance(message, Update) else ():
            if type(fact) is Neighbor:
                given_up.pop((Neighbor.KIND, fact.key), None)
        given_up |= dict.fromkeys(where for where in change.withdrawals if where[0] == Neighbor.KIND)
        return replace(change, withdrawals=[where for where in change.withdrawals if where[0] != Neighbor.KIND])

"""Reactive forwarding: an exact flow for each kind of packet that has been seen (paper, section II-A).

Place in the flow: packet-in -> *exact flow, from the RIB* -> switch; and change of a route -> the exact flows that it
changes. What a neighbor's MAC is does not matter here: an exact flow names a next hop, as a route's flow does.

Exact flows age in the switch (idle timeout). After a restart of the controller they are taken over from the dump.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xenflow.model import Prefix
from xenflow_app import pipeline, routing
from xenflow_app.flowtable import FlowKey, cookie, kind_of, owner_of
from xenflow_app.openflow import actions, fields
from xenflow_app.openflow.decode import entries

if TYPE_CHECKING:
    from xenflow_app.router import Router


class ExactFlows:
    """The exact flows of one router, by destination: what a route concerns is found without looking at the others.

    There may be very many. A dict of bytes, unlike a set, is no work for the garbage collector, for which all waits.
    """

    def __init__(self, router: Router, idle_timeout_s: int, max_flows: int) -> None:
        self._router = router
        self._idle_timeout_s = idle_timeout_s
        self._max_flows = max_flows
        self._by_destination: dict[bytes, dict[FlowKey, None]] = {}
        self._destination: dict[FlowKey, bytes] = {}
        self._sorted: dict[int, list[bytes]] = {4: [], 16: []}  # the destinations of each family
        self._full = False

    @property
    def count(self) -> int:
        """How many exact flows there are."""
        return len(self._destination)

    @property
    def shed(self) -> int:
        """1 while packets without a flow go to the VM because the cap is reached, else 0."""
        return int(self._full)

    def first(self, packet: routing.Packet) -> FlowKey | None:
        """Want the flow for a packet that had none; None where the cap leaves it to the VM."""
        router = self._router
        self._set_full(self.count >= self._max_flows)
        if self._full:
            return None
        route = router.value_for(router.rib.lookup(packet.destination))
        key, value = routing.exact(router.number, packet, route, self._idle_timeout_s)
        self._note(key, packet.destination)
        router.flows.want(key, value)
        return key

    def changed(self, prefix: Prefix) -> None:
        """The route to `prefix` is new, changed or gone: decide anew for the destinations under it."""
        first = prefix[:-1]
        host_bits = len(first) * 8 - prefix[-1]
        last = (int.from_bytes(first, "big") | (1 << host_bits) - 1).to_bytes(len(first), "big")
        known = self._sorted[len(first)]
        for destination in known[bisect_left(known, first) : bisect_right(known, last)]:
            self._decide(destination, self._by_destination[destination])

    def _decide(self, destination: bytes, keys: Iterable[FlowKey]) -> None:
        router = self._router
        acts = router.value_for(router.rib.lookup(destination))[actions.VALUE_HEAD.size :]
        owner = cookie(pipeline.Kind.EXACT, router.number)
        value = actions.value(owner, acts, self._idle_timeout_s)
        for key in keys:
            router.flows.want(key, value)

    def adopt(self) -> None:
        """Take over what the switch has of this router: the flows stay, with what the routes now say."""
        for key, value in list(self._router.flows.actual.items()):
            if kind_of(value) == pipeline.Kind.EXACT and owner_of(value) == self._router.number:
                matched = dict(entries(key[3:]))
                destination = matched.get(fields.IP_DST) or matched.get(fields.IPV6_DST)
                if destination is not None:
                    self._note(key, destination)
                    self._decide(destination, (key,))

    def aged(self, key: FlowKey) -> None:
        """The switch removed the flow: nobody has used it for the idle timeout."""
        self._router.flows.unwant(key)
        destination = self._destination.pop(key, None)
        if destination is not None:
            keys = self._by_destination[destination]
            keys.pop(key, None)
            if not keys:
                del self._by_destination[destination]
                known = self._sorted[len(destination)]
                del known[bisect_left(known, destination)]
        self._set_full(self.count >= self._max_flows)

    def clear(self) -> None:
        """Want none any more."""
        for key in self._destination:
            self._router.flows.unwant(key)
        self._by_destination.clear()
        self._destination.clear()
        for known in self._sorted.values():
            known.clear()

    def _note(self, key: FlowKey, destination: bytes) -> None:
        keys = self._by_destination.get(destination)
        if keys is None:
            keys = self._by_destination[destination] = {}
            insort(self._sorted[len(destination)], destination)
        keys[key] = None
        self._destination[key] = destination

    def _set_full(self, full: bool) -> None:
        if full != self._full:
            self._full = full
            wildcard = routing.wildcard(self._router.number, reactive=True) if full else {}
            self._router.flows.want_group((self._router.number, "wildcard"), wildcard)

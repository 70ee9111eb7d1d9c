"""Looking after neighbors: none goes stale for lack of traffic, no gateway stays unresolved. Pure, time is an argument.

    NeighborSeen, gateways in use -> Upkeep -due(now)-> Request(probe | resolve) -> the kernel, which does the rest

The switch forwards in the VM's stead, so the VM's kernel sees no traffic: its neighbors go STALE, and its garbage
collector removes what is stale and unused for 60 s once there are more than gc_thresh1 (128) of them. So a stale
neighbor is verified by the kernel itself, by unicast (NUD_PROBE), `refresh_s` after it went stale at the latest. A
gateway that no packet asks for is not resolved at all: it is asked for (NTF_USE), and again with growing pauses as
long as it does not answer. Any other neighbor that the kernel has given up is asked for a few times more: its packets
do not pass the kernel, which would ask for their sake, and a VM that has moved may just have been out of reach.

Rules: at most `rate_hz` requests a second; an entry that somebody else keeps (PERMANENT, NOARP, NTF_EXT_LEARNED,
NTF_EXT_MANAGED) is left alone.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Protocol

from xenflow.model import Hop, neighbor_key
from xenflow_client.seen import NUD_FAILED, NUD_RESOLVED, NUD_STALE, NeighborSeen

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0
_LAST_TRY_S = 8.0
"""The last pause before a neighbor that was given up, and is no gateway, is asked for."""
_BURST = 64
_ONE = 1 - 1e-6
"""A whole request of the allowance, short of what rounding takes from it."""


class Random(Protocol):
    """The source of what spreads requests over time."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number between a and b."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the kernel is asked: to verify a known neighbor (`resolve` false), or to find an unknown one."""

    link: int
    address: bytes
    resolve: bool


@dataclass(slots=True)
class _Gateway:
    """A gateway in use: by how many kinds of routes, and how it goes with finding it."""

    hop: Hop
    users: int = 0
    resolved: bool = False
    retry_s: float = _FIRST_RETRY_S


@dataclass(slots=True)
class _GivenUp:
    """A neighbor that the kernel knew and knows no more, though nobody removed it."""

    link: int
    address: bytes
    pause_s: float = _FIRST_RETRY_S


@dataclass(slots=True)
class Upkeep:
    """Says what to ask the kernel, and when. `now` is set by whoever passes events in, before it does.

    With `refresh_s` 0 stale neighbors are left alone, without `resolve` unresolved gateways and what was given up.
    """

    refresh_s: float = 20.0
    resolve: bool = True
    rate_hz: float = 200.0
    random: Random = field(default_factory=random.Random)
    now: float = 0.0
    _stale: dict[bytes, NeighborSeen] = field(default_factory=dict)
    _gateways: dict[bytes, _Gateway] = field(default_factory=dict)
    _given_up: dict[bytes, _GivenUp] = field(default_factory=dict)
    _resolved: set[bytes] = field(default_factory=set)
    _up: set[int] = field(default_factory=set)
    _queue: list[tuple[float, int, bytes]] = field(default_factory=list)  # due, number, key
    _due: dict[bytes, int] = field(default_factory=dict)  # the number that counts for a key
    _numbers: int = 0
    _allowance: float = _BURST
    _allowed_at: float = 0.0

    def use(self, hop: Hop) -> None:
        """A next hop with a gateway came into use."""
        key = neighbor_key(hop.link, hop.gateway)
        gateway = self._gateways.get(key)
        if gateway is None:
            gateway = self._gateways[key] = _Gateway(hop, resolved=key in self._resolved)
            self._given_up.pop(key, None)
            if not gateway.resolved and self.resolve:
                self._schedule(key, self.now)
        gateway.users += 1

    def disuse(self, hop: Hop) -> None:
        """It is not used any longer."""
        key = neighbor_key(hop.link, hop.gateway)
        gateway = self._gateways[key]
        gateway.users -= 1
        if not gateway.users:
            del self._gateways[key]
            if key not in self._stale:
                self._unschedule(key)

    def neighbor(self, seen: NeighborSeen) -> None:
        """The kernel changed, listed or removed a neighbor."""
        key = neighbor_key(seen.link, seen.address)
        resolved = bool(not seen.gone and seen.mac and seen.state & NUD_RESOLVED)
        if resolved or seen.gone:
            self._forget_given_up(key)
        elif self._is_given_up(key, seen):
            lost = self._given_up[key] = _GivenUp(seen.link, seen.address)
            self._schedule(key, self.now + lost.pause_s)
        if resolved:
            self._resolved.add(key)
        else:
            self._resolved.discard(key)
        if resolved and seen.state == NUD_STALE and not seen.kept and self.refresh_s:
            if key not in self._stale:
                self._stale[key] = seen
                self._schedule(key, self.now + self.refresh_s * self.random.uniform(0.5, 1.0))
        elif self._stale.pop(key, None) is not None and key not in self._given_up:
            self._unschedule(key)
        if (gateway := self._gateways.get(key)) is not None:
            self._gateway_changed(key, gateway, resolved)

    def _is_given_up(self, key: bytes, seen: NeighborSeen) -> bool:
        """Tell whether the kernel has given up what it knew, and neither somebody else keeps it nor it is a gateway."""
        lost = key in self._resolved and seen.state == NUD_FAILED and not seen.kept
        return lost and self.resolve and key not in self._gateways

    def _forget_given_up(self, key: bytes) -> None:
        if self._given_up.pop(key, None) is not None:
            self._unschedule(key)

    def _gateway_changed(self, key: bytes, gateway: _Gateway, resolved: bool) -> None:
        lost = gateway.resolved and not resolved
        gateway.resolved = resolved
        if resolved:
            gateway.retry_s = _FIRST_RETRY_S
            if key not in self._stale:
                self._unschedule(key)
        elif lost and self.resolve:
            self._schedule(key, self.now)

    def link(self, index: int, up: bool) -> None:
        """A link came up or went down; its gateways are tried at once when it comes up."""
        if not up:
            self._up.discard(index)
        elif index not in self._up:
            self._up.add(index)
            if not self.resolve:
                return
            for key, gateway in self._gateways.items():
                if gateway.hop.link == index and not gateway.resolved:
                    gateway.retry_s = _FIRST_RETRY_S
                    self._schedule(key, self.now)

    def next_deadline(self) -> float | None:
        """Return when `due` will have something, None for: not before something happens."""
        self._skip_outdated()
        if not self._queue:
            return None
        ready = self._allowed_at + max(0.0, 1 - self._allowance) / self.rate_hz
        return max(self._queue[0][0], ready)

    def due(self, now: float) -> list[Request]:
        """Return what to ask the kernel now."""
        self.now = now
        self._allowance = min(_BURST, self._allowance + (now - self._allowed_at) * self.rate_hz)
        self._allowed_at = now
        requests = []
        self._skip_outdated()
        while self._queue and self._queue[0][0] <= now and self._allowance >= _ONE:
            _, _, key = heapq.heappop(self._queue)
            self._due.pop(key, None)
            if (request := self._request(key)) is not None:
                self._allowance -= 1
                requests.append(request)
            self._skip_outdated()
        return requests

    def _request(self, key: bytes) -> Request | None:
        if (seen := self._stale.get(key)) is not None:
            self._schedule(key, self.now + self.refresh_s)
            return Request(seen.link, seen.address, resolve=False) if seen.link in self._up else None
        if (lost := self._given_up.get(key)) is not None:
            return self._ask_again(key, lost)
        gateway = self._gateways.get(key)
        if gateway is None or gateway.resolved or gateway.hop.link not in self._up:
            return None
        self._schedule(key, self.now + gateway.retry_s * self.random.uniform(0.8, 1.2))
        gateway.retry_s = min(2 * gateway.retry_s, _LAST_RETRY_S)
        return Request(gateway.hop.link, gateway.hop.gateway, resolve=True)

    def _ask_again(self, key: bytes, lost: _GivenUp) -> Request | None:
        """Ask for a neighbor that was given up, after 1, 2, 4 and 8 seconds more; then it is left alone."""
        lost.pause_s *= 2
        if lost.pause_s <= _LAST_TRY_S:
            self._schedule(key, self.now + lost.pause_s)
        else:
            del self._given_up[key]
        return Request(lost.link, lost.address, resolve=True) if lost.link in self._up else None

    def _schedule(self, key: bytes, at: float) -> None:
        self._numbers += 1
        self._due[key] = self._numbers
        heapq.heappush(self._queue, (at, self._numbers, key))

    def _unschedule(self, key: bytes) -> None:
        self._due.pop(key, None)

    def _skip_outdated(self) -> None:
        while self._queue and self._due.get(self._queue[0][2]) != self._queue[0][1]:
            heapq.heappop(self._queue)

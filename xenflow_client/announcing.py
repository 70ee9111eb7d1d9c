"""What is announced after a move, and when: the frames from the mirror of the kernel, the pauses between them. Pure.

    Announce(epoch, key) -> all interfaces at once, every 5 ms for 0.1 s, then after 10, 20 ... 500, 500 ... ms
    until Announced(epoch), a newer Announce, the end of the session, or 60 s

Rules: an interface is announced if it is up, has a MAC address and is not the one that the server is reached by. The
frames are built anew each time, so an interface that comes up meanwhile is announced too.
"""

from __future__ import annotations

from collections.abc import Iterator

from xenflow.announcement import NO_ADDRESS, Announcement, build
from xenflow.wire import Announce
from xenflow_client.kernel import Kernel

FIRST_PAUSE_S = 0.005
DENSE_S = 0.1
"""How long the pauses do not grow: a flood at the vif may cost many of the first frames, and none is to cost more."""
LONGEST_PAUSE_S = 0.5
LASTS_S = 60.0
_IPV4_BYTES = 5
"""Of a packed IPv4 address with its length."""


class Announcing:
    """The announcement that runs; times are seconds of any steady clock."""

    def __init__(self) -> None:
        self.current: Announce | None = None
        self._ends = self._grows = 0.0
        self._pause_s = FIRST_PAUSE_S

    def start(self, order: Announce, now: float) -> bool:
        """Take an order; False if it is the one that runs already, or an older one."""
        if self.current is not None and (order == self.current or order.epoch < self.current.epoch):
            return False
        self.current, self._pause_s = order, FIRST_PAUSE_S
        self._grows, self._ends = now + DENSE_S, now + LASTS_S
        return True

    def confirmed(self, epoch: int) -> bool:
        """All switches have it; return whether that ends what runs."""
        if self.current is None or epoch < self.current.epoch:
            return False
        self.current = None
        return True

    def stop(self) -> None:
        """The session is over."""
        self.current = None

    def next(self, now: float) -> float | None:
        """Return how long to wait before sending again; None when it has lasted long enough (and ends)."""
        if now >= self._grows:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        pause_s = self._pause_s
        if now + pause_s > self._ends:
            self.current = None
            return None
        return pause_s


def frames(kernel: Kernel, order: Announce, control: int) -> Iterator[tuple[str, bytes]]:
    """Yield interface name and frame; `control` is the index of the interface that the server is reached by."""
    first: dict[int, bytes] = {}
    for seen in kernel.addresses.values():
        if seen.usable and len(seen.address) == _IPV4_BYTES:
            first.setdefault(seen.link, seen.address[:-1])
    for link in kernel.links.values():
        if link.index != control and link.up and not link.internal and any(link.mac):
            announcement = Announcement(link.mac, first.get(link.index, NO_ADDRESS), order.epoch)
            yield link.name, build(announcement, order.key)


def control_link(kernel: Kernel, address: bytes, scope: int) -> int:
    """Return the index of the interface that has our end of the connection; 0 if none has it.

    `scope` is that of a link-local address: the interface itself.
    """
    if scope:
        return scope
    return next((seen.link for seen in kernel.addresses.values() if seen.address[:-1] == address), 0)

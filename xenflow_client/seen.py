"""What a netlink message says about the kernel's tables, as values: the border between bytes and the mirror.

    bytes -rtnetlink, rtroute-> Seen -kernel-> facts

Rules: addresses are packed, flags and states are the kernel's own numbers. `gone` says that the kernel removed it.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from xenflow.model import Hop, Prefix, RouteKind

IFF_UP = 1 << 0
IFF_LOOPBACK = 1 << 3
IFF_NOARP = 1 << 7
IFF_LOWER_UP = 1 << 16

NUD_INCOMPLETE = 0x01
NUD_REACHABLE = 0x02
NUD_STALE = 0x04
NUD_DELAY = 0x08
NUD_PROBE = 0x10
NUD_FAILED = 0x20
NUD_NOARP = 0x40
NUD_PERMANENT = 0x80
NUD_RESOLVED = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT

NLM_F_MULTI = 0x02
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800


class LinkSeen(msgspec.Struct, frozen=True, gc=False):
    """An interface; `flags` are IFF_*."""

    index: int
    name: str
    mac: bytes
    mtu: int
    flags: int
    gone: bool = False

    @property
    def ethernet(self) -> bytes:
        """The MAC address; zeros for what is no Ethernet interface."""
        return self.mac if len(self.mac) == 6 else bytes(6)

    @property
    def loopback(self) -> bool:
        """Whether it is a loopback interface, which is never reported."""
        return bool(self.flags & IFF_LOOPBACK)

    @property
    def internal(self) -> bool:
        """Whether no neighbor can be reached through it (loopback, dummy, tunnels): it is in no virtual network."""
        return bool(self.flags & (IFF_LOOPBACK | IFF_NOARP)) or len(self.mac) != 6

    @property
    def up(self) -> bool:
        """Whether it is up and has a carrier."""
        return self.flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP


class AddressSeen(msgspec.Struct, frozen=True, gc=False):
    """An address of an interface, its prefix length as the last byte (host bits kept)."""

    link: int
    address: bytes
    usable: bool = True
    """False for an IPv6 address that duplicate address detection refused, or still looks at (RFC 4862, section 5.4)."""
    gone: bool = False


class NeighborSeen(msgspec.Struct, frozen=True, gc=False):
    """A neighbor; `state` is NUD_*. `kept` says that another program or the kernel keeps it fresh (NTF_EXT_*)."""

    link: int
    address: bytes
    mac: bytes
    state: int
    kept: bool = False
    gone: bool = False


class Candidate(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """One route to some prefix, as the kernel's table has it; the prefix is kept beside it.

    Many prefixes share one Candidate. `order` is what the kernel compares first (most particular type of service
    first, then the lowest metric). `selective`: it is for some packets only (type of service, source prefix).
    `joins`: an IPv6 route whose next hops are one with those of another of the same metric.
    """

    order: tuple[int, int]
    kind: RouteKind
    hops: tuple[Hop, ...] = ()
    protocol: int = 0
    selective: bool = False
    joins: bool = False


class RouteSeen(msgspec.Struct, frozen=True, gc=False):
    """A route of table main; `flags` are NLM_F_* of the message that made it."""

    prefix: Prefix
    candidate: Candidate
    flags: int = 0
    gone: bool = False


class NexthopsChanged(msgspec.Struct, frozen=True, gc=False):
    """A nexthop object was removed: the kernel drops its routes without a word."""


class DumpEnd(msgspec.Struct, frozen=True, gc=False):
    """The kernel's answer to the dump with number `seq` is over; `error` is an errno, 0 for success."""

    seq: int
    error: int = 0
    interrupted: bool = False


Seen: TypeAlias = LinkSeen | AddressSeen | NeighborSeen | RouteSeen | NexthopsChanged | DumpEnd

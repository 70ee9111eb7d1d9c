"""The client's core: netlink bytes in, facts and requests out. Sans-I/O, time is an argument.

    netlink bytes -receive-> Seen -Kernel-> Sink
    time -tick-> Resync: dumps, Upkeep: neighbors -output-> request bytes -> netlink

Rules: events and dumps share one socket, so that they arrive in the order in which the kernel made them, and a dump
goes on only as fast as it is read. `ready`: every table has been dumped once, so what is missing is not there.
"""

from __future__ import annotations

import errno
import logging
from typing import Final

from xenflow_client.kernel import Kernel, Sink
from xenflow_client.neighbors import Upkeep
from xenflow_client.resync import Resync
from xenflow_client.rtnetlink import (
    RTM_DELROUTE,
    RTM_NEWROUTE,
    MalformedError,
    Table,
    decode,
    dump_request,
    is_dump_part,
    messages,
    probe_request,
    resolve_request,
)
from xenflow_client.rtroute import RouteDecoder
from xenflow_client.seen import DumpEnd, NexthopsChanged, Seen

logger = logging.getLogger(__name__)

_REQUEST_SEQ: Final = 0x4000_0000
"""Sequence numbers of requests other than dumps; the kernel's answers to them are of no interest."""
_NO_TABLE = (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
"""Answers to a dump of routes where there is no table main yet, or no IPv6: it is empty."""


class Observer:
    """Keeps a Kernel equal to the kernel."""

    def __init__(self, sink: Sink, upkeep: Upkeep, resync: Resync) -> None:
        self.kernel = Kernel(sink, upkeep)
        self._upkeep = upkeep
        self._resync = resync
        self._routes = RouteDecoder()
        self._requests = 0
        self._denied = False

    @property
    def ready(self) -> bool:
        """Whether all tables are known."""
        return self._resync.ready

    def receive(self, data: bytes, now: float) -> None:
        """Take in one datagram of the kernel. Malformed ones count as lost events."""
        self._upkeep.now = now
        try:
            self._take_in(data, now)
        except MalformedError as error:
            logger.warning("netlink message ignored: %s", error)
            self._resync.overrun(now)

    def settle(self, now: float) -> None:
        """Bring the sink up to date; call it when a batch of datagrams has been received."""
        self._upkeep.now = now
        self.kernel.settle()
        if self.kernel.recheck:
            wanted, self.kernel.recheck = self.kernel.recheck, set()
            self._resync.want(wanted, "silent changes", now)

    def lost(self, now: float) -> None:
        """The socket's buffer overran: events are missing."""
        logger.warning("netlink events lost; all tables are read again")
        self._resync.overrun(now)

    def tick(self, now: float) -> list[bytes]:
        """Return the requests to send now."""
        if self._resync.silent(now):
            logger.warning("the kernel did not finish listing %s; trying again", self._resync.dumping)
            self._end_dump(0, False, now)
        requests = []
        if (start := self._resync.start(now)) is not None:
            table, seq = start
            logger.debug("dump table=%s why=%s", table.name, self._resync.why)
            self.kernel.begin(table)
            requests.append(dump_request(table, seq))
        for request in self._upkeep.due(now):
            self._requests = (self._requests + 1) & 0xFFFF
            encode = resolve_request if request.resolve else probe_request
            requests.append(encode(request.link, request.address, _REQUEST_SEQ | self._requests))
        return requests

    def next_deadline(self) -> float:
        """Return when `tick` has something to do, unless something is received before."""
        upkeep = self._upkeep.next_deadline()
        resync = self._resync.next_deadline()
        return resync if upkeep is None else min(upkeep, resync)

    def _take_in(self, data: bytes, now: float) -> None:
        resync = self._resync
        for kind, flags, seq, start, end in messages(data):
            dumped = seq == resync.seq and is_dump_part(flags)
            seen: Seen | None
            if kind in (RTM_NEWROUTE, RTM_DELROUTE):
                seen = self._routes.decode(data, kind, flags, start, end)
            else:
                seen = decode(data, kind, flags, seq, start, end)
            if dumped:
                resync.progress(now)
            if seen is None:
                continue
            if isinstance(seen, DumpEnd):
                if seen.seq == resync.seq:
                    self._end_dump(seen.error, not seen.interrupted, now)
                elif seen.error == errno.EPERM and not self._denied:
                    self._denied = True
                    logger.warning("neighbors are not kept fresh: the kernel refuses (CAP_NET_ADMIN is needed)")
            elif isinstance(seen, NexthopsChanged):
                self.kernel.recheck.update((Table.ROUTES_IPV4, Table.ROUTES_IPV6))
            else:
                self.kernel.apply(seen, dumped)

    def _end_dump(self, error: int, complete: bool, now: float) -> None:
        table = self._resync.dumping
        if table is None:
            return
        if error and not (table in (Table.ROUTES_IPV4, Table.ROUTES_IPV6) and error in _NO_TABLE):
            logger.warning("the kernel refused to list %s: %s", table.name, errno.errorcode.get(error, error))
            complete = False
        trusted = self.kernel.end(table, complete and self._resync.complete)
        was_ready = self._resync.ready
        self._resync.end(trusted, now)
        if self._resync.ready and not was_ready:
            logger.info(
                "tables known: links=%d addresses=%d neighbors=%d routes=%d",
                len(self.kernel.links),
                len(self.kernel.addresses),
                len(self.kernel.neighbors),
                len(self.kernel.ipv4.routes) + len(self.kernel.ipv6.routes),
            )

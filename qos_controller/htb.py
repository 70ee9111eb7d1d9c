"""Adapter: HTB in the kernel, read and written over rtnetlink by pyroute2. The only file here that imports it.

Place in the flow: `tree.Operation` -> kernel -> `tree.Tree`, and for each measurement one dump of a port's classes.
It decides nothing. A device is known by its index, which a device of the same name that comes later does not have; one
that is gone reads as None.
"""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_MULTI
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nlsocket import NetlinkRequest
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from qos_controller import rtnl
from qos_controller.filters import PREFERENCES
from qos_controller.rtnl import Counters, FoundClass, FoundQdisc, Request
from qos_controller.tree import OUR_ROOT, HtbClass, Operation, Ownership, Program, Root, Tree, as_inner, ownership
from xenflow.errors import DataplaneError

log = logging.getLogger(__name__)
RCVBUF_BYTES: Final = 16 << 20
_BATCH: Final = 100
"""Requests that are sent before their answers are read."""


class _Message(tcmsg):  # type: ignore[misc]
    nla_map = (("TCA_UNSPEC", "none"), ("TCA_KIND", "cdata"), ("TCA_OPTIONS", "cdata"))


@dataclass(frozen=True, slots=True)
class Device:
    """A network device: its index, the largest payload of a frame, and of a segment before offload cuts it."""

    index: int
    mtu: int
    gso_bytes: int
    speed_bps: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One dump of a device's classes: what they are, without their queues' bounds, and what they have counted."""

    classes: dict[int, HtbClass]
    counters: dict[int, Counters]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An operation that was not carried out, and the kernel's reason."""

    operation: Operation
    reason: str

    def __str__(self) -> str:
        return f"{self.operation}: {self.reason}"


class Kernel:
    """Traffic control of the devices in the network namespace in which it is opened."""

    def __init__(self) -> None:
        self._route = AsyncIPRoute(rcvbuf=RCVBUF_BYTES)

    async def open(self) -> None:
        """Connect; call it once, first."""
        await self._route.setup_endpoint()
        await self._route.bind()

    async def close(self) -> None:
        """Free the socket."""
        self._route.close()

    async def device(self, name: str) -> Device | None:
        """Return a device by name, None if there is none. Raises DataplaneError."""
        try:
            links = await self._route.link("get", ifname=name)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise DataplaneError(f"{name}: {error}") from error
        except OSError as error:
            raise DataplaneError(f"{name}: cannot be read: {error}") from error
        link = links[0]
        return Device(link["index"], link.get_attr("IFLA_MTU"), link.get_attr("IFLA_GSO_MAX_SIZE") or 1 << 16)

    async def ours(self) -> dict[str, int]:
        """Return the devices that have our qdisc, by name, with their index. Raises DataplaneError."""
        indexes: set[int] = set()

        def take(data: bytes, offset: int, length: int) -> None:
            each = rtnl.parse_qdisc(data, offset, length)
            if each.parent == rtnl.ROOT and ownership(each.root) is Ownership.OURS:
                indexes.add(each.index)

        await self._dump(Request(rtnl.GET_QDISC, rtnl.REQUEST | rtnl.DUMP, 0, 0), 0, rtnl.NEW_QDISC, take)
        if not indexes:
            return {}
        try:
            links = [link async for link in await self._route.link("dump")]
        except (NetlinkError, OSError) as error:
            raise DataplaneError(f"devices cannot be read: {error}") from error
        return {link.get_attr("IFLA_IFNAME"): link["index"] for link in links if link["index"] in indexes}

    async def measure(self, index: int) -> Reading:
        """Return the classes of a device and their counters in one dump; none if the device is gone."""
        found: dict[int, FoundClass] = {}

        def take(data: bytes, offset: int, length: int) -> None:
            if (each := rtnl.parse_class(data, offset, length)) is not None:
                found[each.item.minor] = each

        await self._dump(Request(rtnl.GET_CLASS, rtnl.REQUEST | rtnl.DUMP, 0, 0), index, rtnl.NEW_CLASS, take)
        return Reading(
            {minor: each.item for minor, each in found.items()}, {minor: each.counters for minor, each in found.items()}
        )

    async def read(self, index: int) -> Tree | None:
        """Return all that is ours, or could be, on a device; None if it is gone."""
        root: Root | None = None
        queues: dict[int, FoundQdisc] = {}
        programs: list[Program] = []

        def take_qdisc(data: bytes, offset: int, length: int) -> None:
            nonlocal root
            each = rtnl.parse_qdisc(data, offset, length)
            if each.index != index:
                return
            if each.parent == rtnl.ROOT:
                root = each.root
            else:
                queues[each.parent & 0xFFFF] = each

        def take_filter(data: bytes, offset: int, length: int) -> None:
            each = rtnl.parse_filter(data, offset, length)
            if each is not None and each.preference in PREFERENCES:
                programs.append(each)

        dump = rtnl.REQUEST | rtnl.DUMP
        reading = await self.measure(index)
        await self._dump(Request(rtnl.GET_QDISC, dump, 0, 0), index, rtnl.NEW_QDISC, take_qdisc)
        if root is None:
            return None
        if ownership(root) is Ownership.OURS:
            parent = OUR_ROOT.handle
            await self._dump(Request(rtnl.GET_FILTER, dump, 0, parent), index, rtnl.NEW_FILTER, take_filter)
        classes = {
            minor: replace(item, limit_bytes=queue.limit_bytes, head_drop=queue.head_drop)
            if (queue := queues.get(minor)) and queue.limit_bytes
            else as_inner(item)
            for minor, item in reading.classes.items()
        }
        return Tree(root, classes, tuple(sorted(programs, key=lambda program: program.preference)))

    async def apply(self, index: int, operations: Sequence[Operation]) -> list[Refusal]:
        """Carry out operations in their order; return what was refused. The others are done."""
        refused: list[Refusal] = []
        for first in range(0, len(operations), _BATCH):
            refused += await self._apply_batch(index, operations[first : first + _BATCH])
        return refused

    async def _apply_batch(self, index: int, operations: Iterable[Operation]) -> list[Refusal]:
        pending = [(each, self._request(rtnl.encode(each), index)) for each in operations]
        for _, request in pending:
            await request.prepare()
        refused = []
        try:
            self._route.send(b"".join(bytes(request.msg.data) for _, request in pending))
            for operation, request in pending:
                try:
                    async for _ in request.response():
                        pass
                except NetlinkError as error:
                    refused.append(Refusal(operation, str(error)))
        except OSError as error:
            raise DataplaneError(f"device {index}: cannot be written: {error}") from error
        return refused

    async def _dump(self, request: Request, index: int, kind: int, take: Callable[[bytes, int, int], Any]) -> None:
        """Give `take` the place of each message of a type in the answer. Raises DataplaneError."""

        # The library ends a dump with the first part in which no message, or none that says "more", comes from here.
        seen = {"header": {"type": kind, "flags": NLM_F_MULTI, "error": None}, "event": ""}

        def parse(data: bytes, offset: int, length: int) -> dict[str, Any]:
            (answer,) = struct.unpack_from("=H", data, offset + 4)
            if answer == kind:
                take(data, offset, length)
                return seen
            parsed: dict[str, Any] = self._route.marshal.parse_one_message(answer, 0, 0, data, offset, length)
            return parsed

        sent = self._request(request, index, parse)
        try:
            await sent.send()
            async for _ in sent.response():
                pass
        except (NetlinkError, OSError) as error:
            raise DataplaneError(f"device {index}: cannot be read: {error}") from error

    def _request(self, request: Request, index: int, parser: Callable[..., Any] | None = None) -> NetlinkRequest:
        message = _Message()
        message["family"], message["index"], message["info"] = 0, index, request.info
        message["handle"], message["parent"] = request.handle, request.parent
        names = ("", "TCA_KIND", "TCA_OPTIONS")
        message["attrs"] = [(names[kind], value) for kind, value in request.attributes]
        return NetlinkRequest(self._route, message, msg_type=request.kind, msg_flags=request.flags, parser=parser)

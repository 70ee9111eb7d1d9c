"""The adapter of the kernel: a socket that fails is a DataplaneError, which one link survives."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from qos_controller import rtnl
from qos_controller.htb import Kernel
from qos_controller.rtnl import FoundQdisc
from qos_controller.tree import OUR_ROOT
from xenflow.errors import DataplaneError


class BrokenRoute:
    """What pyroute2 has, on a socket whose buffer is full."""

    async def link(self, _command: str, **_wanted: str) -> list[Any]:
        raise OSError(errno.ENOBUFS, "No buffer space available")


class BrokenDump:
    """The same in the midst of a dump."""

    async def link(self, _command: str) -> AsyncIterator[Any]:
        return self._broken()

    async def _broken(self) -> AsyncIterator[Any]:
        yield {"index": 1}
        raise OSError(errno.ENOBUFS, "No buffer space available")


def kernel_on(route: object) -> Kernel:
    kernel = Kernel.__new__(Kernel)
    kernel._route = route
    return kernel


def test_a_device_that_cannot_be_asked_for_is_a_dataplane_error() -> None:
    with pytest.raises(DataplaneError, match=r"p1: .* No buffer space"):
        asyncio.run(kernel_on(BrokenRoute()).device("p1"))


@pytest.mark.parametrize("route", [BrokenRoute(), BrokenDump()])
def test_devices_that_cannot_be_listed_are_a_dataplane_error(route: object, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernel_on(route)

    async def dump(_request: object, _index: int, _kind: int, take: Callable[[bytes, int, int], Any]) -> None:
        take(b"", 0, 0)

    found = FoundQdisc(3, rtnl.ROOT, OUR_ROOT, 0)
    monkeypatch.setattr(kernel, "_dump", dump)
    monkeypatch.setattr(rtnl, "parse_qdisc", lambda *_place: found)
    with pytest.raises(DataplaneError, match="No buffer space"):
        asyncio.run(kernel.ours())

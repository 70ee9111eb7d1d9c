"""Adapter: processor and memory of one machine by libvirt -> `granting`. Everything counts for the running machine.

QEMU's machines are in control groups, Xen's have weight and cap themselves. libvirt's Xen driver knows only the credit
scheduler; of credit2, Xen's default, weight and cap go by xl.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt

from xenflow.errors import DataplaneError
from xenflow.resources import Resources
from xenflow_server.granting import Adjustable
from xenflow_server.libvirt_adapter import KEEPALIVE_COUNT, KEEPALIVE_S, prepare
from xenflow_server.scheduling import CGROUP_1, CGROUP_2, PERIOD_US, Shares, cap_of, quota_of
from xenflow_server.xl_machine import XlMachine

UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers")
"""There if the kernel's control groups are those of version 2."""
_SHARES, _QUOTA, _PERIOD = "cpu_shares", "global_quota", "global_period"
_PROCESSOR = {"cpu_weight": "weight", "cpu_cap": "cap"}


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    try:
        yield
    except (libvirt.libvirtError, LookupError, OverflowError) as error:
        raise DataplaneError(str(error)) from error


class LibvirtMachines:
    """Finds machines of one libvirtd, over a connection that is opened when it is needed."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._connection: Any = None

    def find(self, uuid: str) -> Adjustable:
        """Return the machine. Raises DataplaneError if it is not here, or libvirt does not answer."""
        try:
            with _reasons():
                if self._connection is None:
                    self._connection = self._open()
                return LibvirtMachine(self._connection.lookupByUUIDString(uuid))
        except DataplaneError:
            self._connection = None  # whatever it is: the next question has a fresh one
            raise

    def _open(self) -> Any:
        prepare()
        connection = libvirt.open(self._uri)
        with contextlib.suppress(libvirt.libvirtError):  # a driver without a daemon has none
            connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        return connection


class LibvirtMachine:
    """See `granting.Adjustable`."""

    def __init__(self, domain: Any, shares: Shares | None = None) -> None:
        self._domain = domain
        self._shares = shares or (CGROUP_2 if UNIFIED.exists() else CGROUP_1)

    def read(self) -> Resources:
        """Return what it has; without weight and cap if its scheduler cannot be asked."""
        with _reasons():
            _, _, memory_kib, vcpus, _ = self._domain.info()
        weight = cap = None
        with contextlib.suppress(DataplaneError):
            if (by_xl := self._by_xl()) is not None:
                own = by_xl.read()
                weight, cap = own.cpu_weight, own.cpu_cap
            else:
                known = self._scheduler()
                shares, quota = known.get(_SHARES), known.get(_QUOTA)
                weight = known.get("weight") if shares is None else self._shares.weight(shares)
                cap = known.get("cap") if quota is None else cap_of(quota, known.get(_PERIOD, PERIOD_US))
        return Resources(memory_kib // 1024, vcpus, weight, cap)

    def change(self, key: str, value: int) -> None:
        """Give it so much of one resource. Raises DataplaneError."""
        with _reasons():
            if key == "memory_mib":
                self._domain.setMemoryFlags(value * 1024, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            elif key == "vcpus":
                self._domain.setVcpusFlags(value, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            elif (by_xl := self._by_xl()) is not None:
                by_xl.change(key, value)
            else:
                self._domain.setSchedulerParameters(self._parameters(key, value))

    def nearest(self, key: str, value: int) -> int:
        """Return what becomes of a value: cgroups have a scale of their own."""
        if key != "cpu_weight":
            return value
        with contextlib.suppress(DataplaneError):
            if self._by_xl() is None and _SHARES in self._scheduler():
                return self._shares.weight(self._shares.of(value))
        return value

    def _parameters(self, key: str, value: int) -> dict[str, int]:
        """Return what libvirt's driver calls weight or cap. Raises DataplaneError if it has no word for it."""
        known = self._scheduler()
        if key == "cpu_weight" and _SHARES in known:
            return {_SHARES: self._shares.of(value)}
        if key == "cpu_cap" and _QUOTA in known:
            return {_PERIOD: PERIOD_US, _QUOTA: quota_of(value, PERIOD_US)}
        if _PROCESSOR[key] not in known:
            kind = self._domain.schedulerType()[0]
            raise DataplaneError(f"libvirt's scheduler {kind!r} of this machine has no such setting")
        return {_PROCESSOR[key]: value}

    def _scheduler(self) -> dict[str, int]:
        with _reasons():
            return dict(self._domain.schedulerParameters())

    def _by_xl(self) -> XlMachine | None:
        with _reasons():
            kind, _ = self._domain.schedulerType()
            return XlMachine(self._domain.ID(), kind) if kind == "credit2" else None

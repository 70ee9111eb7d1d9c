"""A working model of Open vSwitch's database and daemon, as far as the server's `Database` seam shows them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping

from xenflow_server.view import BFD_MARK, BFD_SETTINGS, DRAINED_MARK, BridgeView, PortView, plan_bfd

DPID = 0x0000020000000001


class FakeDatabase:
    """Ports get a number when they are added, BFD starts when it is set up, a restart loses nothing."""

    def __init__(self, bridge: str = "xenbr0", *, running: bool = True) -> None:
        self._bridge = bridge
        self._ports: dict[str, PortView] = {}
        self._numbers: dict[str, int] = {}
        self._departed: list[PortView] = []
        self._running = running
        self._changed = asyncio.Event()
        self._trunks: frozenset[str] | None = None
        self._exists = True

    async def run(self, on_view: Callable[[BridgeView], None]) -> None:
        told: BridgeView | None = None
        while True:
            if self._running:
                self._write_bfd()
                view = self._view()
                departed, self._departed = tuple(self._departed), []
                if departed or view != told:
                    told = view
                    on_view(dataclasses.replace(view, departed=departed))
            await self._changed.wait()
            self._changed.clear()

    def want_bfd(self, trunks: frozenset[str]) -> None:
        self._trunks = trunks
        self._changed.set()

    def mark_drained(self, port: str, *, drained: bool) -> None:
        if port in self._ports:
            ids = {key: value for key, value in self._ports[port].external_ids.items() if key != DRAINED_MARK}
            self._replace(port, external_ids=ids | {DRAINED_MARK: "true"} if drained else ids)

    def close(self) -> None:
        self._running = False

    # what a person, a hypervisor or the wire does

    def add_port(self, name: str, external_ids: Mapping[str, str] | None = None, *, numbered: bool = True) -> None:
        number = self._numbers.setdefault(name, len(self._numbers) + 1) if numbered else 0
        self._ports[name] = PortView(name, number, dict(external_ids or {}), link_state="up")
        self._changed.set()

    def remove_port(self, name: str) -> None:
        self._departed.append(self._ports.pop(name))
        self._changed.set()

    def set_external_ids(self, name: str, external_ids: Mapping[str, str]) -> None:
        self._replace(name, external_ids={**self._ports[name].external_ids, **external_ids})

    def set_bfd(self, name: str, settings: Mapping[str, str]) -> None:
        self._replace(name, bfd=dict(settings), bfd_status=_silent(0) if settings else {})

    def far_end_speaks(self, name: str) -> None:
        flaps = int(self._ports[name].bfd_status.get("flap_count", "0")) + 1
        status = {"forwarding": "true", "state": "up", "remote_state": "up", "flap_count": str(flaps)}
        self._replace(name, bfd_status=status)

    def far_end_is_silent(self, name: str) -> None:
        flaps = int(self._ports[name].bfd_status.get("flap_count", "0")) + 1
        self._replace(name, bfd_status=_silent(flaps))

    def restart(self) -> None:
        self._changed.set()

    def start(self) -> None:
        self._running = True
        self._changed.set()

    def remove_bridge(self) -> None:
        self._exists = False
        self._changed.set()

    def row(self, name: str) -> PortView:
        return self._ports[name]

    def _view(self) -> BridgeView:
        if not self._exists:
            return BridgeView(self._bridge, exists=False)
        ports = tuple(self._ports[name] for name in sorted(self._ports))
        return BridgeView(self._bridge, DPID, "netdev", ports)

    def _write_bfd(self) -> None:
        if self._trunks is None:
            return
        enable, undo = plan_bfd(self._view(), self._trunks)
        for name in enable:
            port = self._ports[name]
            status = port.bfd_status if port.bfd.get("enable") else _silent(0)
            ids = {**port.external_ids, BFD_MARK: "true"}
            self._replace(name, bfd={**port.bfd, **BFD_SETTINGS}, external_ids=ids, bfd_status=status)
        for name in undo:
            ids = {key: value for key, value in self._ports[name].external_ids.items() if key != BFD_MARK}
            self._replace(name, bfd={}, bfd_status={}, external_ids=ids)

    def _replace(self, name: str, **fields: object) -> None:
        self._ports[name] = dataclasses.replace(self._ports[name], **fields)  # type: ignore[arg-type]
        self._changed.set()


def _silent(flaps: int) -> dict[str, str]:
    return {"forwarding": "false", "state": "down", "remote_state": "down", "flap_count": str(flaps)}

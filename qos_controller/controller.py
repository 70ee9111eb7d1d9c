"""The daemon's loop: keeps every link's classes as the plan and the measurements want them.

    plan (socket or disk) --+                      +--> database: rows that say whose the port is
    OVSDB: ports, rows -----+--> sync (a link) ----+--> kernel: read, difference, write
    clock, every t_med ---------> measure (a link) --> decide --> kernel: difference, write

Rules: one task alone writes to the kernel. Each measurement is also a check: classes that are not as they were written
are read and put right at once. Nothing is written where somebody else has a qdisc or a QoS row, nor before the row is
there that keeps ovs-vswitchd from deleting ours. What is away (server, app, database) changes nothing in the kernel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from qos_controller import rows, tree
from qos_controller.config import Settings
from qos_controller.database import Database
from qos_controller.filters import KERNEL_DATAPATH, USERSPACE_DATAPATH, Classifier, NoClassifier, classifier
from qos_controller.htb import Device, Kernel, Refusal
from qos_controller.link import Link, Standing
from qos_controller.rows import BridgeRows
from qos_controller.settings import Sharing
from qos_controller.tree import Operation, Ownership, PutProgram, Tree
from xenflow.bandwidth import PortQueues
from xenflow.errors import DataplaneError

log = logging.getLogger(__name__)

RECHECK_S: Final = 1.0
"""How often a link that waits or is refused is looked at again without a reason."""
MAX_FRAME_BYTES: Final = 1 << 17
_VLAN_FRAME_BYTES: Final = 22
"""What a frame has beyond the payload: Ethernet header and two tags."""


class Clock(Protocol):
    """A clock that never runs backwards, in seconds."""

    def __call__(self) -> float:
        """Return the time."""


class Controller:
    """Owns the links. `want` takes a plan; `on_installed` hears the token of the latest plan that is carried out.

    That is: every link whose port is there is shaped, but for foreign ones and those that cannot be by this plan.
    Whenever links have been looked at, `on_looked` is called first.
    """

    def __init__(self, kernel: Kernel, database: Database, settings: Settings, clock: Clock) -> None:
        self.links: dict[str, Link] = {}
        self.sharing: Sharing = settings
        self.on_installed: Callable[[int], None] = lambda _token: None
        self.on_looked: Callable[[], None] = lambda: None
        self._kernel, self._database, self._clock = kernel, database, clock
        self._bridge, self._frame_bytes = settings.ovs.bridge, settings.frame_bytes
        self._facts: dict[str, PortQueues] = {}
        self._rows: BridgeRows | None = None
        self.datapath_type = ""
        """The bridge's, as far as is known; set it before `run` to what it was when the database was last there."""
        self._has_programs = True
        self._token = 0
        self.has_plan = False
        """Whether a plan has come, from the server or the disk: only then what it does not name is an orphan."""
        self._due: set[str] = set()
        self._sweep = True
        self._recheck_s = self._measure_s = 0.0
        self._poke = asyncio.Event()

    def want(self, facts: Iterable[PortQueues], token: int = 0) -> None:
        """Carry out this plan from now on."""
        wanted = {fact.port: fact for fact in facts}
        self._due |= {port for port in wanted.keys() | self._facts.keys() if wanted.get(port) != self._facts.get(port)}
        self._facts, self._token, self.has_plan = wanted, token, True
        self._database.want(wanted)
        self._poke.set()

    def share(self, sharing: Sharing) -> None:
        """Share links by these settings from now on, at once; what was measured by others is forgotten."""
        is_same_measure = (sharing.k_med, sharing.t_med_s) == (self.sharing.k_med, self.sharing.t_med_s)
        self.sharing = sharing
        for link in self.links.values():
            if not is_same_measure:
                link.measure_by(sharing.k_med, sharing.t_med_s)
        self._measure_s = min(self._measure_s, self._clock() + sharing.t_med_s)
        self._due |= self.links.keys()
        self._poke.set()

    @property
    def has_rows(self) -> bool:
        """Whether the database has told of the bridge."""
        return self._rows is not None and self._rows.exists

    @property
    def awaits_rows(self) -> bool:
        """Whether a port that is there has no row yet that says that it is ours."""
        if self._rows is None or not self._rows.exists:
            return bool(self._facts)
        found = self._rows
        return any(port in found.ports and not found.ports[port] for port in self._facts)

    async def run(self) -> None:
        """Work for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._database.run(self._observe), name="ovsdb")
            tasks.create_task(self._work(), name="links")

    def _observe(self, found: BridgeRows) -> None:
        """Take in what the database says; links whose port, row or device may have changed are due."""
        before, self._rows = self._rows, found
        if found.exists:
            self.datapath_type = found.datapath_type or KERNEL_DATAPATH
        if before is None or before.datapath_type != found.datapath_type or before.exists != found.exists:
            self._due |= self._facts.keys()
        else:
            now, then = found.ports, before.ports
            self._due |= {port for port in self._facts if now.get(port) != then.get(port)}
        self._sweep = True
        self._poke.set()

    async def _work(self) -> None:
        self._measure_s = self._clock() + self.sharing.t_med_s
        while True:
            self._look_again()
            if self._poke.is_set():
                await self._sync()
            if (now_s := self._clock()) >= self._measure_s:
                await self._measure_all()
                t_med_s = self.sharing.t_med_s
                self._measure_s = max(self._measure_s + t_med_s, now_s + t_med_s / 2)
            until_s = min(self._measure_s, self._recheck_s) if self._pending() else self._measure_s
            try:
                async with asyncio.timeout(max(until_s - self._clock(), 0)):
                    await self._poke.wait()
            except TimeoutError:
                continue

    def _pending(self) -> set[str]:
        """Return the links that are to be looked at again without a reason."""
        return self._due | {port for port, link in self.links.items() if link.standing is not Standing.SHAPED}

    def _look_again(self) -> None:
        """Let links that wait or are refused be looked at, if that is due."""
        now_s = self._clock()
        if now_s < self._recheck_s:
            return
        self._recheck_s = now_s + RECHECK_S
        if pending := self._pending():
            self._due |= pending
            self._poke.set()

    async def _sync(self) -> None:
        """Bring every link that is due to where it belongs."""
        self._poke.clear()
        token = self._token
        due, self._due = self._due, set()
        for port in sorted(due):
            try:
                await self._sync_link(port)
            except DataplaneError as error:
                log.error("link %s: %s", port, error)
                self._due.add(port)
        if self._sweep and self.has_plan and self._rows is not None and self._rows.exists:
            self._sweep = False
            try:
                await self._collect_orphans(self._rows)
            except DataplaneError as error:
                log.error("orphans cannot be looked for: %s", error)
        self.on_looked()
        is_undone = bool(self._due) or any(link.is_tried_again for link in self.links.values())
        if token and not self.awaits_rows and not is_undone:
            self.on_installed(token)

    async def _sync_link(self, port: str) -> None:
        fact = self._facts.get(port)
        device = await self._kernel.device(port)
        if fact is None:
            self.links.pop(port, None)
            if device is not None and port not in self._foreign_ports():
                await self._release(port, device.index)
            return
        link = self.links.get(port)
        if link is None:
            link = self.links[port] = Link(self.sharing.k_med, self.sharing.t_med_s)
        found = await self._kernel.read(device.index) if device else None
        standing, why = self._may_shape(fact, device, found)
        if standing is Standing.SHAPED and device and found:
            problems = link.redefine(fact, self._largest_frame(device), self._classifier())
            if not problems:
                link.index = device.index
                await self._shape(link, found)
                return
            standing, why = Standing.REFUSED, "; ".join(problems)
        elif device and self._has_left(port):
            await self._release(port, device.index)
        link.fact = fact
        link.stand(standing, why)

    def _may_shape(self, fact: PortQueues, device: Device | None, found: Tree | None) -> tuple[Standing, str]:
        """Return whether a port's egress is ours to shape now, or what is in the way."""
        known = self._rows
        owner = tree.ownership(found.root) if found else Ownership.NOBODY
        if known is not None and known.exists:
            if fact.port not in known.ports:
                return Standing.WAITING, "no such port on the bridge"
            if foreign := rows.foreign_type(known, fact.port, self._bridge):
                way_out = f"ovs-vsctl clear port {fact.port} qos"
                return Standing.REFUSED, f"the port has a QoS of type {foreign} that is not ours: {way_out}"
        if device is None or found is None:
            return Standing.WAITING, "no such device"
        if owner is Ownership.FOREIGN and found.root is not None:
            way_out = f"tc qdisc del dev {fact.port} root"
            return Standing.REFUSED, f"the device has a qdisc ({found.root.kind}) that is not ours: {way_out}"
        if known is None or not known.exists:
            if owner is Ownership.OURS and self.datapath_type:
                return Standing.SHAPED, ""
            return Standing.WAITING, "the database is away, or has no such bridge"
        if not rows.has_row(known, fact.port, self._bridge) and owner is Ownership.NOBODY:
            return Standing.WAITING, "its row in the database is on the way"
        return Standing.SHAPED, ""

    async def _shape(self, link: Link, found: Tree) -> None:
        """Make the kernel's tree what is decided; `found` is what is there."""
        link.decide(self._clock(), self.sharing.policy_of(link.plan.port))
        wanted = link.tree()
        await self._write(link, tree.changes(wanted, found), wanted)

    async def _write(self, link: Link, operations: list[Operation], wanted: Tree) -> None:
        refused = await self._kernel.apply(link.index, operations) if operations else []
        if self._can_do_without(refused):
            self._has_programs = False
            log.warning("no classifier for the switch's own BFD, which is served like other frames: %s", refused[0])
            wanted, refused = replace(wanted, programs=()), []
            link.forget_programs()
        if refused:
            link.applied = Tree()
            more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
            link.stand(Standing.REFUSED, f"the kernel refused {refused[0]}{more}", is_tried_again=True)
            return
        link.applied = wanted
        link.stand(Standing.SHAPED)

    def _can_do_without(self, refused: Sequence[Refusal]) -> bool:
        """Return whether only programs were refused, on a datapath where `set_queue` picks the class."""
        is_program = all(isinstance(each.operation, PutProgram) for each in refused)
        return bool(refused) and is_program and self.datapath_type != USERSPACE_DATAPATH

    def _classifier(self) -> Classifier:
        return classifier(self.datapath_type) if self._has_programs else NoClassifier()

    async def _measure_all(self) -> None:
        for port, link in list(self.links.items()):
            if link.standing is not Standing.SHAPED:
                continue
            try:
                await self._measure(port, link)
            except DataplaneError as error:
                log.error("link %s: %s", port, error)
                self._due.add(port)
        if self._due:
            self._poke.set()

    async def _measure(self, port: str, link: Link) -> None:
        reading = await self._kernel.measure(link.index)
        now_s = self._clock()
        if link.differs(reading.classes):
            log.warning("link %s: its classes are not as written; putting them right", port)
            await self._sync_link(port)
            return
        link.observe(now_s, reading.counters)
        if link.decide(now_s, self.sharing.policy_of(port)):
            wanted = link.tree()
            await self._write(link, tree.changes(wanted, link.applied), wanted)

    def _largest_frame(self, device: Device) -> int:
        """Return the bytes of the largest frame that HTB sees: with offload, of a segment that is cut later."""
        if self._frame_bytes:
            return self._frame_bytes
        is_userspace = self.datapath_type == USERSPACE_DATAPATH
        payload = device.mtu if is_userspace else max(device.mtu, device.gso_bytes)
        return min(payload + _VLAN_FRAME_BYTES, MAX_FRAME_BYTES)

    def _foreign_ports(self) -> frozenset[str]:
        return self._rows.elsewhere if self._rows is not None else frozenset()

    def _has_left(self, port: str) -> bool:
        """Return whether a device is no port of the bridge any more, nor of another one."""
        known = self._rows
        return known is not None and known.exists and port not in known.ports and port not in known.elsewhere

    async def _collect_orphans(self, known: BridgeRows) -> None:
        """Remove our qdiscs from devices that the plan does not name, whoever left them there."""
        for name, index in (await self._kernel.ours()).items():
            if name not in self._facts and name not in known.elsewhere:
                await self._release(name, index)

    async def _release(self, port: str, index: int) -> None:
        found = await self._kernel.read(index)
        if found is not None and (operations := tree.changes(Tree(), found)):
            refused = await self._kernel.apply(index, operations)
            log.info("link %s to=released%s", port, f" refused={refused[0]}" if refused else "")

"""Pure: what the hypervisor says of its machines -> whose each MAC address is, and which have moved away.

Place in the flow: `libvirt_adapter` or `xl` -> Snapshot, Seen, Ended, Lost -> Domains -> `hypervisor`.

A machine is told by its uuid and found by its MAC addresses; names of machines and of vifs decide nothing. What
becomes of one, by what is said of it (a machine that is not listed is *absent*):

    is \\ said    RUNNING    INCOMING   LEAVING   Ended(moved)  Ended    missing in a Snapshot
    absent        running    incoming   leaving   -             -        -
    incoming      running    incoming   incoming  absent        absent   absent: it never ran here
    running       running    running    leaving   moved         absent   absent, or moved if the Snapshot says so
    leaving       running    leaving    leaving   moved         absent   moved

A paused machine is *running*: it is here. A MAC address that several machines claim belongs to the one that had it
first; if that cannot be known, to none of them.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping


class Phase(enum.Enum):
    """Where a machine is in its life, as far as it matters here."""

    RUNNING = "running"
    INCOMING = "incoming"
    """A live migration brings it: it does not run here yet, and may never."""
    LEAVING = "leaving"
    """A live migration takes it: it has stopped here for the last time, unless it comes back."""


@dataclasses.dataclass(frozen=True, slots=True)
class Domain:
    """A machine as the hypervisor knows it; `uuid` in lower case with dashes."""

    uuid: str
    name: str
    macs: frozenset[bytes]
    phase: Phase = Phase.RUNNING


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """All machines that are here; `moved` are the uuids of those that are known to have left for another node."""

    domains: tuple[Domain, ...]
    moved: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """A machine has started, gone on, changed its interfaces or its phase."""

    domain: Domain


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """A machine does not run here any more; `moved` if it goes on elsewhere."""

    uuid: str
    moved: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Lost:
    """The hypervisor cannot be asked. What was known stays."""

    reason: str


Saying = Snapshot | Seen | Ended | Lost


class Domains:
    """Keeps true: `owners` has a MAC address once, for a machine that runs here.

    `known` is False until the first Snapshot. `lost` is why the hypervisor cannot be asked now, empty if it can.
    """

    def __init__(self) -> None:
        self.known = False
        self.lost = ""
        self.owners: dict[bytes, str] = {}
        self.moved: frozenset[bytes] = frozenset()
        self._domains: dict[str, Domain] = {}

    def take(self, saying: Saying) -> None:
        """Take what the hypervisor says. Applied twice, it is as applied once."""
        match saying:
            case Lost(reason):
                self.lost = reason
            case Ended(uuid, moved):
                self._end(uuid, moved=moved)
            case Seen(domain):
                self._see(domain)
            case Snapshot(domains, moved):
                self.known, self.lost = True, ""
                present = {domain.uuid for domain in domains}
                for uuid in [uuid for uuid in self._domains if uuid not in present]:
                    self._end(uuid, moved=uuid in moved or self._domains[uuid].phase is Phase.LEAVING)
                for domain in domains:
                    self._see(domain)
        self._settle()

    def name(self, uuid: str) -> str:
        """Return the present name of a machine that is here."""
        return self._domains[uuid].name

    def phase(self, uuid: str) -> Phase | None:
        """Return where a machine is in its life, None if it is not here."""
        domain = self._domains.get(uuid)
        return None if domain is None else domain.phase

    def conflicts(self) -> dict[bytes, tuple[str, ...]]:
        """Return by MAC address the machines that claim it and do not get it."""
        return {
            mac: tuple(sorted(uuid for uuid in claimants if self.owners.get(mac) != uuid))
            for mac, claimants in self._claims().items()
            if len(claimants) > 1
        }

    def _see(self, domain: Domain) -> None:
        before = self._domains.get(domain.uuid)
        if before is not None:
            domain = dataclasses.replace(domain, phase=_NEXT[before.phase, domain.phase])
        self._domains[domain.uuid] = domain

    def _end(self, uuid: str, *, moved: bool) -> None:
        """Forget a machine; what it owned has moved with it, or is gone."""
        domain = self._domains.pop(uuid, None)
        if domain is None or domain.phase is Phase.INCOMING:
            return
        owned = frozenset(mac for mac in domain.macs if self.owners.get(mac) == uuid)
        self.moved = self.moved | owned if moved else self.moved - owned

    def _settle(self) -> None:
        owners: dict[bytes, str] = {}
        for mac, claimants in self._claims().items():
            first = self.owners.get(mac, "")
            if len(claimants) == 1:
                owners[mac] = claimants[0]
            elif first in claimants:
                owners[mac] = first
        self.owners = owners
        self.moved -= owners.keys()

    def _claims(self) -> dict[bytes, list[str]]:
        claims: dict[bytes, list[str]] = {}
        for uuid, domain in self._domains.items():
            if domain.phase is not Phase.INCOMING:
                for mac in domain.macs:
                    claims.setdefault(mac, []).append(uuid)
        return claims


_NEXT: Mapping[tuple[Phase, Phase], Phase] = {
    (Phase.INCOMING, Phase.RUNNING): Phase.RUNNING,
    (Phase.INCOMING, Phase.INCOMING): Phase.INCOMING,
    (Phase.INCOMING, Phase.LEAVING): Phase.INCOMING,
    (Phase.RUNNING, Phase.RUNNING): Phase.RUNNING,
    (Phase.RUNNING, Phase.INCOMING): Phase.RUNNING,
    (Phase.RUNNING, Phase.LEAVING): Phase.LEAVING,
    (Phase.LEAVING, Phase.RUNNING): Phase.RUNNING,
    (Phase.LEAVING, Phase.INCOMING): Phase.LEAVING,
    (Phase.LEAVING, Phase.LEAVING): Phase.LEAVING,
}

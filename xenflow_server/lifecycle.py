"""Pure: what libvirt's numbers and XML mean (libvirt-domain.h: virDomainEventType and its details).

Place in the flow: `libvirt_adapter` -> these -> `domains`. libvirt itself is not needed here; the numbers are part of
its stable interface.
"""

from __future__ import annotations

import contextlib
import enum
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping

from xenflow.errors import RemoteProtocolError
from xenflow.model import pack_mac
from xenflow_server.domains import Domain, Phase


class Event(enum.IntEnum):
    """virDomainEventType."""

    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    SUSPENDED = 3
    RESUMED = 4
    STOPPED = 5
    SHUTDOWN = 6
    PMSUSPENDED = 7
    CRASHED = 8


class Gone(enum.Enum):
    """How a machine has left."""

    MOVED = "moved"
    DESTROYED = "destroyed"


STARTED_MIGRATED = 1
SUSPENDED_MIGRATED = 1
SUSPENDED_POSTCOPY = 7
STOPPED_MIGRATED = 3
PAUSED = 3
"""virDomainState."""
PAUSED_MIGRATION = 2
"""virDomainPausedReason."""
SHUTOFF_MIGRATED = 4
"""virDomainShutoffReason: a machine that is defined here and has left for another node."""


def meaning(event: int, detail: int) -> Phase | Gone | None:
    """Return what an event says of its machine, None if it changes nothing.

    A guest that halts (SHUTDOWN) or panics (CRASHED) is here until STOPPED comes. An event that is not known yet counts
    as "look at it again", which the phase RUNNING does.
    """
    match event:
        case Event.DEFINED | Event.UNDEFINED | Event.SHUTDOWN | Event.CRASHED:
            return None
        case Event.STARTED if detail == STARTED_MIGRATED:
            return Phase.INCOMING
        case Event.SUSPENDED if detail in (SUSPENDED_MIGRATED, SUSPENDED_POSTCOPY):
            return Phase.LEAVING
        case Event.STOPPED:
            return Gone.MOVED if detail == STOPPED_MIGRATED else Gone.DESTROYED
    return Phase.RUNNING


def phase_of(state: int, reason: int, *, receives: bool) -> Phase:
    """Return the phase of a machine that is active; `receives` if its memory is on the way to this node."""
    if state == PAUSED and reason == PAUSED_MIGRATION:
        return Phase.INCOMING if receives else Phase.LEAVING
    return Phase.RUNNING


def domain_of(document: str, phase: Phase) -> Domain:
    """Return the machine that an XML description is of. Raises RemoteProtocolError if it is none.

    Interfaces of every kind count, for what they are plugged into is Open vSwitch's database to say.
    """
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError as error:
        raise RemoteProtocolError(f"libvirt's description of a machine is no XML: {error}") from error
    uuid, name = root.findtext("uuid", ""), root.findtext("name", "")
    if not uuid:
        raise RemoteProtocolError("libvirt's description of a machine has no uuid")
    macs = set()
    for element in root.iterfind("devices/interface/mac"):
        with contextlib.suppress(ValueError):
            macs.add(pack_mac(element.get("address", "")))
    return Domain(uuid.strip().lower(), name.strip(), frozenset(macs), phase)


def work_done(job: Mapping[str, object]) -> int:
    """Return what grows while a migration gets on: bytes sent, or the time where a driver counts none (Xen's)."""
    for key in ("data_processed", "time_elapsed"):
        value = job.get(key)
        if isinstance(value, int):
            return value
    return 0


def percent_done(job: Mapping[str, object]) -> int:
    """Return how much of a migration is done by libvirt's job statistics; 100 is for its end alone.

    Memory that is written meanwhile has to be sent again: it may go back.
    """
    total, remaining = job.get("data_total"), job.get("data_remaining")
    if not isinstance(total, int) or not isinstance(remaining, int) or total <= 0:
        return 0
    return max(0, min(99, 100 * (total - remaining) // total))

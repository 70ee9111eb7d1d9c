"""What libvirt's numbers mean, and its descriptions; with libvirt there, that the numbers are its own."""

from __future__ import annotations

import importlib.util

import pytest

from xenflow.errors import RemoteProtocolError
from xenflow_server import lifecycle
from xenflow_server.domains import Domain, Phase
from xenflow_server.lifecycle import Event, Gone, domain_of, meaning, percent_done, phase_of, work_done

XML = """<domain type='xen'><name> r1 </name><uuid>6695EB01-F6A4-8304-79AA-97F2502E193F</uuid><devices>
<interface type='bridge'><mac address='02:00:00:00:00:01'/><virtualport type='openvswitch'/></interface>
<interface type='ethernet'><mac address='02:00:00:00:00:0A'/></interface>
<interface type='bridge'><mac address='nonsense'/></interface></devices></domain>"""


@pytest.mark.parametrize(
    ("event", "detail", "expected"),
    [
        (Event.DEFINED, 0, None),
        (Event.DEFINED, 2, None),  # renamed
        (Event.UNDEFINED, 0, None),
        (Event.STARTED, 0, Phase.RUNNING),
        (Event.STARTED, 1, Phase.INCOMING),
        (Event.STARTED, 2, Phase.RUNNING),  # restored
        (Event.SUSPENDED, 0, Phase.RUNNING),  # paused by somebody: it is here
        (Event.SUSPENDED, 1, Phase.LEAVING),
        (Event.SUSPENDED, 7, Phase.LEAVING),
        (Event.RESUMED, 0, Phase.RUNNING),
        (Event.RESUMED, 1, Phase.RUNNING),  # arrived here, or came back
        (Event.STOPPED, 0, Gone.DESTROYED),
        (Event.STOPPED, 1, Gone.DESTROYED),
        (Event.STOPPED, 3, Gone.MOVED),
        (Event.STOPPED, 4, Gone.DESTROYED),  # saved to a file
        (Event.STOPPED, 5, Gone.DESTROYED),
        (Event.SHUTDOWN, 0, None),
        (Event.PMSUSPENDED, 0, Phase.RUNNING),
        (Event.CRASHED, 0, None),
        (99, 99, Phase.RUNNING),
    ],
)
def test_events(event: int, detail: int, expected: Phase | Gone | None) -> None:
    assert meaning(event, detail) is expected


@pytest.mark.parametrize(
    ("state", "reason", "receives", "expected"),
    [
        (1, 1, False, Phase.RUNNING),
        (3, 1, False, Phase.RUNNING),
        (3, 2, True, Phase.INCOMING),
        (3, 2, False, Phase.LEAVING),
        (1, 1, True, Phase.RUNNING),
    ],
)
def test_states(state: int, reason: int, receives: bool, expected: Phase) -> None:
    assert phase_of(state, reason, receives=receives) is expected


def test_descriptions() -> None:
    macs = frozenset({bytes.fromhex("020000000001"), bytes.fromhex("02000000000a")})
    domain = Domain("6695eb01-f6a4-8304-79aa-97f2502e193f", "r1", macs)
    assert domain_of(XML, Phase.RUNNING) == domain
    for wrong in ("<domain", "<domain/>", ""):
        with pytest.raises(RemoteProtocolError, match="libvirt's description"):
            domain_of(wrong, Phase.RUNNING)


@pytest.mark.parametrize(
    ("job", "percent"),
    [
        ({}, 0),
        ({"data_total": 0, "data_remaining": 0}, 0),
        ({"data_total": 200, "data_remaining": 150}, 25),
        ({"data_total": 200, "data_remaining": 0}, 99),
        ({"data_total": 200, "data_remaining": 900}, 0),
        ({"data_total": "x", "data_remaining": 1}, 0),
    ],
)
def test_percent(job: dict[str, object], percent: int) -> None:
    assert percent_done(job) == percent


@pytest.mark.parametrize(
    ("job", "work"),
    [
        ({}, 0),
        ({"type": 2, "time_elapsed": 7000}, 7000),  # Xen's driver
        ({"type": 2, "time_elapsed": 7000, "data_processed": 4096}, 4096),
        ({"data_processed": "much"}, 0),
    ],
)
def test_what_grows_while_a_migration_gets_on(job: dict[str, object], work: int) -> None:
    assert work_done(job) == work


@pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="needs Python's libvirt: python3-libvirt")
def test_the_numbers_are_libvirts_own() -> None:
    import libvirt

    for event in Event:
        assert getattr(libvirt, f"VIR_DOMAIN_EVENT_{event.name}") == event
    for name in ("STARTED_MIGRATED", "SUSPENDED_MIGRATED", "SUSPENDED_POSTCOPY", "STOPPED_MIGRATED"):
        assert getattr(libvirt, f"VIR_DOMAIN_EVENT_{name}") == getattr(lifecycle, name)
    for name in ("PAUSED", "PAUSED_MIGRATION", "SHUTOFF_MIGRATED"):
        assert getattr(libvirt, f"VIR_DOMAIN_{name}") == getattr(lifecycle, name)

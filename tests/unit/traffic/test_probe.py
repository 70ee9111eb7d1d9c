from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow_lab.traffic import probe

PROBES = st.builds(
    probe.Probe,
    flow=st.integers(0, probe.MAX_FLOWS - 1),
    number=st.integers(0, 2**32 - 1),
    sent_ns=st.integers(0, 2**64 - 1),
    is_end=st.booleans(),
)


@given(PROBES, st.binary(max_size=8))
def test_what_is_encoded_is_parsed(sent: probe.Probe, padding: bytes) -> None:
    assert probe.parse(probe.encode(sent) + padding) == sent


@given(st.binary(max_size=40))
def test_any_bytes_are_a_probe_or_none(payload: bytes) -> None:
    found = probe.parse(payload)
    assert (found is None) == (len(payload) < probe.HEADER.size or not payload.startswith(probe.MAGIC))


def test_a_header_fits_the_smallest_frame() -> None:
    assert len(probe.template(18, None)) == 18


def test_markers_are_found_anywhere() -> None:
    frame = b"abc" + probe.marker("blue") + b"{xf:}" + probe.marker("red-1") + b"{xf:UP}"
    assert probe.markers(memoryview(frame)) == {"blue", "red-1"}


@pytest.mark.parametrize("tenant", ["", "Blue", "a" * 33, "a}b"])
def test_a_bad_tenant_is_refused(tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        probe.marker(tenant)


def test_a_marker_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="need 25 bytes"):
        probe.template(24, "blue")

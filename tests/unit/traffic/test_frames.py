from __future__ import annotations

import argparse
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow_lab.traffic import frames, inject, probe
from xenflow_lab.traffic.command import endpoints, parse_mac
from xenflow_lab.traffic.frames import Tag
from xenflow_lab.traffic.sighting import Expectation, Sightings

A, B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)
TAGS = st.lists(st.builds(Tag, st.integers(0, 65535), st.sampled_from([0x8100, 0x88A8])), max_size=3)


@given(st.one_of(st.tuples(V4, V4), st.tuples(V6, V6)), TAGS, st.binary(max_size=50))
def test_a_udp_frame_is_taken_apart_again(
    ends: tuple[frames.Address, frames.Address], tags: list[Tag], payload: bytes
) -> None:
    packet = frames.udp((ends[0], 1), (ends[1], 2), payload)
    ethertype = 0x0800 if ends[0].version == 4 else 0x86DD
    frame = frames.ethernet(A, B, tags, ethertype, packet)
    assert frames.parse(frame) == frames.Frame(A, B, tuple(tags), ethertype, *ends)
    assert len(frame) >= 60


@given(st.binary(max_size=70))
def test_any_bytes_are_a_frame_or_none(content: bytes) -> None:
    found = frames.parse(content)
    assert found is None or found.destination == content[:6]


def test_a_tag_that_the_kernel_took_off_comes_first() -> None:
    frame = frames.ethernet(A, B, [Tag(20)], 0x0800, bytes(20))
    found = frames.parse(frame, Tag(10, 0x88A8))
    assert found is not None
    assert [tag.vid for tag in found.tags] == [10, 20]


def test_the_checksum_is_that_of_rfc_1071() -> None:
    assert frames.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D


def plan(*options: str) -> inject.InjectPlan:
    return inject.parse(["--interface", "lo", "--source-mac", "02:00:00:00:00:01", *options])[0]


@pytest.mark.parametrize("kind", ["udp", "arp-request", "arp-reply"])
def test_each_kind_carries_the_marker_and_the_claim(kind: str) -> None:
    frame = inject.build(plan("--kind", kind, "--source-ip", "10.1.0.9", "--vlan", "7", "--tenant", "evil"))
    found = frames.parse(frame)
    assert found is not None
    assert found.sender == ipaddress.ip_address("10.1.0.9")
    assert [tag.vid for tag in found.tags] == [7]
    assert probe.markers(frame) == {"evil"}


def test_an_advertisement_claims_its_target() -> None:
    frame = inject.build(plan("--kind", "nd", "--source-ip", "fd00::9", "--sender-mac", "02:00:00:00:00:66"))
    assert ipaddress.ip_address("fd00::9").packed + b"\x02\x01" + bytes.fromhex("020000000066") in frame
    assert probe.markers(frame) == {"intruder"}


@pytest.mark.parametrize(
    "options",
    [
        ("--kind", "nd", "--source-ip", "10.0.0.1"),
        ("--kind", "arp-reply", "--source-ip", "fd00::1"),
        ("--source-ip", "10.0.0.1", "--destination-ip", "fd00::1"),
        ("--source-ip", "10.0.0.1", "--size", "10"),
    ],
)
def test_what_cannot_be_built_is_refused(options: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        inject.build(plan(*options))


def test_tags_from_the_command_line() -> None:
    assert inject.parse_tag("10/5") == Tag(10 | 5 << 13)
    assert inject.parse_tag("0x88a8:0") == Tag(0, 0x88A8)
    for wrong in ("4096", "1/8", "x", "-1", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            inject.parse_tag(wrong)


def test_endpoints_from_the_command_line() -> None:
    assert endpoints("10.0.0.1:5") == [("10.0.0.1", 5)]
    assert endpoints("10.0.0.254-10.0.1.1:5")[-1] == ("10.0.1.1", 5)
    assert endpoints("[fd00::1-fd00::3]:5") == [("fd00::1", 5), ("fd00::2", 5), ("fd00::3", 5)]
    for wrong in ("10.0.0.1", "10.0.0.1:0", "10.0.0.2-10.0.0.1:5", "x:5", "10.0.0.1-fd00::1:5"):
        with pytest.raises(argparse.ArgumentTypeError):
            endpoints(wrong)
    for wrong in ("02:00", "02:00:00:00:00:0g", "2:0:0:0:0:0"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_mac(wrong)


EXPECTED = Expectation("blue", frozenset({A, B}), (ipaddress.ip_network("10.1.0.0/16"),))


@pytest.mark.parametrize(
    ("frame", "reasons"),
    [
        (frames.ethernet(A, B, [], 0x0800, frames.udp(*2 * [(ipaddress.ip_address("10.1.0.1"), 1)], b"x")), []),
        (frames.ethernet(A, b"\x02" * 6, [], 0x9999, b""), ["mac"]),
        (frames.ethernet(b"\x02" * 6, A, [], 0x9999, b""), ["mac"]),
        (frames.ethernet(frames.BROADCAST, A, [], 0x9999, b""), []),
        (frames.ethernet(A, B, [], 0x9999, probe.marker("red") + probe.marker("blue")), ["marker"]),
        (frames.ethernet(A, B, [], 0x9999, probe.marker("blue")), []),
        (frames.ethernet(A, B, [], 0x0806, frames.arp(1, *2 * [(A, ipaddress.ip_address("10.2.0.1"))])), ["address"]),
    ],
)
def test_what_is_foreign(frame: bytes, reasons: list[str]) -> None:
    found = frames.parse(frame)
    assert found is not None
    sightings = Sightings(EXPECTED)
    sightings.add(found, memoryview(frame), len(frame), is_sent=False)
    assert sorted(sightings.received.foreign) == reasons
    assert len(sightings.samples) == bool(reasons)


def test_a_recorded_frame_is_sent_as_it_is() -> None:
    recorded = bytes(range(60))
    assert inject.build(plan("--frame", recorded.hex())) == recorded
    with pytest.raises(SystemExit):
        plan("--count", "1")

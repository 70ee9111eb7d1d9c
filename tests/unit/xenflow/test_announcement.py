"""Announcements: what was signed is believed, nothing else is, and nothing makes the parser fail."""

from hypothesis import given
from hypothesis import strategies as st

from xenflow.announcement import LENGTH_BYTES, Announcement, build, claimed_epoch, parse

announcements = st.builds(
    Announcement, st.binary(min_size=6, max_size=6), st.binary(min_size=4, max_size=4), st.integers(0, 2**64 - 1)
)
keys = st.binary(min_size=16, max_size=32)


@given(announcements, keys, st.binary(max_size=20))
def test_what_was_signed_is_believed(announcement: Announcement, key: bytes, padding: bytes) -> None:
    frame = build(announcement, key)
    assert len(frame) == LENGTH_BYTES
    assert frame[:6] == b"\xaa" * 6
    assert parse(frame + padding, key) == announcement
    assert claimed_epoch(frame + padding) == announcement.epoch
    assert claimed_epoch(frame[:-1]) is None


@given(announcements, keys, keys)
def test_another_key_is_not(announcement: Announcement, key: bytes, other: bytes) -> None:
    assert (parse(build(announcement, key), other) is not None) == (key == other)


@given(announcements, keys, st.integers(0, LENGTH_BYTES - 1), st.integers(1, 255))
def test_a_changed_byte_is_not(announcement: Announcement, key: bytes, place: int, change: int) -> None:
    frame = bytearray(build(announcement, key))
    frame[place] ^= change
    assert parse(bytes(frame), key) is None


@given(st.binary(max_size=100), keys)
def test_garbage_is_not(frame: bytes, key: bytes) -> None:
    assert parse(frame, key) is None

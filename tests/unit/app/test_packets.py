"""What the controller reads of frames, and the advertisement that it makes of a solicitation."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from xenflow_app.packets import advertisement, datagram, solicited
from xenflow_lab.traffic import frames

MACS = st.binary(min_size=6, max_size=6)
ADDRESSES = st.ip_addresses(v=6)
TAGS = st.sampled_from([b"", bytes.fromhex("8100000a"), bytes.fromhex("8100e00a")])


def solicitation(asker: IPv6Address, target: IPv6Address, source: bytes, tag: bytes, more: bytes = b"") -> bytes:
    packet = frames.neighbor_solicitation(asker, IPv6Address("ff02::1:ff00:1"), target, source, more)
    return bytes.fromhex("3333ff000001") + source + tag + b"\x86\xdd" + packet


@given(ADDRESSES, ADDRESSES, MACS, MACS, TAGS, st.sampled_from([b"", bytes(8)]))
def test_a_solicitation_becomes_an_advertisement_of_its_target(
    asker: IPv6Address, target: IPv6Address, source: bytes, mac: bytes, tag: bytes, more: bytes
) -> None:
    """RFC 4861, section 7.2.4: to who asked, solicited and override set, with the target's link-layer address."""
    asked = solicitation(asker, target, source, tag, more)
    assert solicited(asked) == target.packed
    told = advertisement(asked, mac)
    assert told[:12] == source + mac
    assert told[12 : 12 + len(tag)] == tag
    ip = told[12 + len(tag) :]
    assert ip[:2] == b"\x86\xdd"
    ip = ip[2:]
    assert struct.unpack("!IHBB16s16s", ip[:40]) == (6 << 28, 32, 58, 255, target.packed, asker.packed)
    body = ip[40:]
    assert (body[:2], body[4:]) == (b"\x88\x00", b"\xe0\0\0\0" + target.packed + b"\x02\x01" + mac)
    pseudo = target.packed + asker.packed + struct.pack("!II", len(body), 58)
    assert frames.checksum(pseudo + body) == 0


@given(st.binary(max_size=120), st.integers(0, 90))
def test_what_is_no_whole_solicitation_is_none(noise: bytes, cut: int) -> None:
    address = IPv6Address("fe80::1")
    whole = solicitation(address, address, bytes(6), b"")
    assert solicited(whole[: min(cut, 77)]) is None
    advertised = frames.neighbor_advertisement(address, address, address, bytes(6))
    assert solicited(bytes(12) + b"\x86\xdd" + advertised) is None
    assert solicited(bytes(12) + b"\x08\x00" + noise) is None
    solicited(noise)
    datagram(noise)

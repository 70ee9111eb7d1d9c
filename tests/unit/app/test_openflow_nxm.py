"""Matches and keys: one normal form whatever the arguments, and templates that equal it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow_app.openflow import fields, nxm
from xenflow_app.openflow.decode import entries

MAC = bytes.fromhex("020000000001")


def test_the_order_of_arguments_does_not_matter() -> None:
    one = nxm.match(in_port=1, dl_type=0x800, dl_src=MAC, nw_src=b"\x0a\0\0\1", reg2=7)
    other = nxm.match(reg2=7, nw_src=b"\x0a\0\0\1", dl_src=MAC, dl_type=0x800, in_port=1)
    assert one == other
    assert one.hex() == "0000000200010000040602000000000100000602080000000e040a0000010001040400000007"


def test_full_masks_and_empty_masks_have_one_spelling() -> None:
    assert nxm.match(reg0=(5, 0xFFFFFFFF)) == nxm.match(reg0=5)
    assert nxm.match(reg0=(0, 0)) == nxm.match() == b""
    assert nxm.match(dl_dst=(MAC, b"\xff" * 6)) == nxm.match(dl_dst=MAC)
    assert nxm.match(dl_type=0x800, nw_dst=(bytes(4), 0)) == nxm.match(dl_type=0x800)
    assert nxm.match(dl_type=0x800, nw_dst=(b"\x0a\0\0\1", 32)) == nxm.match(dl_type=0x800, nw_dst=b"\x0a\0\0\1")
    assert nxm.match(dl_type=0x800, ip_frag=(1, 3)) == nxm.match(dl_type=0x800, ip_frag=1)


@pytest.mark.parametrize(
    ("matched", "problem"),
    [
        ({"nw_src": b"\x0a\0\0\1"}, "nw_src needs dl_type=0x800"),
        ({"dl_type": 0x800, "ipv6_dst": bytes(16)}, "ipv6_dst needs dl_type=0x86dd"),
        ({"dl_type": 0x806, "nw_ttl": 1}, "nw_ttl needs dl_type=0x800 or dl_type=0x86dd"),
        ({"dl_type": 0x800, "nw_proto": 17, "tcp_dst": 80}, "tcp_dst needs nw_proto=0x6"),
        ({"dl_type": 0x86DD, "nw_proto": 58, "icmp6_type": 136, "nd_sll": MAC}, "nd_sll needs icmp6_type=0x87"),
        ({"in_port": 70000}, "NXM_OF_IN_PORT has 16 bits"),
        ({"in_port": -1}, "NXM_OF_IN_PORT has 16 bits"),
        ({"reg0": (5, 2)}, "has bits outside of the mask"),
        ({"dl_type": 0x800, "nw_dst": (b"\x0a\0\0\1", 24)}, "has bits outside of the mask"),
        ({"dl_type": 0x800, "nw_dst": (b"\x0a\0\0\0", 33)}, "neither address nor"),
        ({"dl_type": 0x800, "nw_dst": bytes(16)}, "takes 4 bytes"),
        ({"dl_src": b"\0"}, "takes 6 bytes"),
        ({"dl_src": "02:00:00:00:00:01"}, "neither bytes nor"),
    ],
)
def test_what_open_vswitch_would_alter_or_refuse_is_refused_here(matched: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        nxm.match(**matched)  # type: ignore[typeddict-item]


@pytest.mark.parametrize(("table", "priority"), [(255, 1), (-1, 1), (0, 65536), (0, -1)])
def test_tables_and_priorities_have_bounds(table: int, priority: int) -> None:
    with pytest.raises(ValueError, match="no such table or priority"):
        nxm.key(table, priority, b"")


@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1))
def test_ipv4_template_equals_the_named_fields(number: int, length: int, router: int) -> None:
    network = ipaddress.ip_network((number, length), strict=False).network_address.packed
    expected = nxm.flow_key(30, 100 + length, dl_type=0x800, nw_dst=(network, length), reg2=router)
    assert nxm.ipv4_route_key(30, 100, router, network, length) == expected


@given(st.integers(0, 2**128 - 1), st.integers(0, 128))
def test_ipv6_template_equals_the_named_fields(number: int, length: int) -> None:
    network = ipaddress.IPv6Network((number, length), strict=False).network_address.packed
    expected = nxm.flow_key(31, 200 + length, dl_type=0x86DD, ipv6_dst=(network, length), reg2=1)
    assert nxm.ipv6_route_key(31, 200, 1, network, length) == expected


def test_entries_reads_what_match_wrote() -> None:
    match = nxm.match(in_port=3, vlan_tci=(0x100A, 0x1FFF))
    assert entries(match) == [(fields.IN_PORT, b"\0\3"), (fields.masked(fields.VLAN_TCI), b"\x10\x0a\x1f\xff")]

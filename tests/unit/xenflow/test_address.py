"""Addresses of processes, spelled as Open vSwitch does."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow.address import Address, Scheme

hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.builds(
        lambda address, zone: f"{address}{zone}", st.ip_addresses(v=6), st.sampled_from(["", "%xfctl", "%eth0.12"])
    ),
    st.sampled_from(["localhost", "app.example.org", "n1"]),
)
addresses = st.one_of(
    st.builds(Address, st.sampled_from([Scheme.SSL, Scheme.TCP]), host=hosts, port=st.integers(0, 65535)),
    st.builds(lambda path: Address(Scheme.UNIX, path=path), st.from_regex(r"/[a-z0-9./:-]{1,100}", fullmatch=True)),
)


@given(addresses)
def test_format_then_parse_gives_the_same(address: Address) -> None:
    assert Address.parse(str(address)) == address


@given(st.text(max_size=150) | st.text(alphabet="sltcpunix:[]%.0123456789abcdef/ ", max_size=60))
def test_what_parses_is_stable(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssl:10.0.0.1:6654", Address(Scheme.SSL, "10.0.0.1", 6654)),
        ("ssl:[fe80::1%xfctl]:6655", Address(Scheme.SSL, "fe80::1%xfctl", 6655)),
        ("ssl:[2001:DB8:0::1]:1", Address(Scheme.SSL, "2001:db8::1", 1)),
        ("tcp:127.0.0.1:0", Address(Scheme.TCP, "127.0.0.1", 0)),
        ("ssl:App.Example.org:6654", Address(Scheme.SSL, "app.example.org", 6654)),
        ("unix:/run/xenflow/app.sock", Address(Scheme.UNIX, path="/run/xenflow/app.sock")),
        ("unix:relative:colon", Address(Scheme.UNIX, path="relative:colon")),
    ],
)
def test_spellings(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssl",
        "ssl:",
        "ssl:10.0.0.1",
        "ssl:10.0.0.1:",
        "ssl::6654",
        "ssl:10.0.0.1:65536",
        "ssl:10.0.0.1:-1",
        "ssl:10.0.0.1:+1",
        "ssl:10.0.0.1:١",
        "ssl:10.0.0.300:1",
        "ssl:010.0.0.1:1",
        "ssl:1.2.3:1",
        "ssl:::1:6654",
        "ssl:[::1:6654",
        "ssl:[10.0.0.1]:1",
        "ssl:[fe80::1%]:1",
        "ssl:[fe80::1%a b]:1",
        "ssl:[fe80::1%averyveryverylongname]:1",
        "ssl:-a.example:1",
        "ssl:a..b:1",
        "ssl: a:1",
        "udp:10.0.0.1:1",
        "SSL:10.0.0.1:1",
        "unix:",
        "unix:/" + "a" * 107,
        "unix:/a\0b",
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("tcp:127.0.0.1:1", True),
        ("tcp:127.9.9.9:1", True),
        ("tcp:[::1]:1", True),
        ("unix:/x", True),
        ("tcp:localhost:1", False),
        ("tcp:0.0.0.0:1", False),
        ("tcp:[::]:1", False),
        ("tcp:10.0.0.1:1", False),
        ("tcp:[fe80::1%lo]:1", False),
    ],
)
def test_loopback(text: str, loopback: bool) -> None:
    assert Address.parse(text).is_loopback is loopback


def test_ipv6_forms_are_one_value() -> None:
    assert {Address.parse(f"ssl:[{form}]:1") for form in ("::1", "0:0:0:0:0:0:0:1", "0::1")} == {
        Address(Scheme.SSL, str(ipaddress.IPv6Address(1)), 1)
    }

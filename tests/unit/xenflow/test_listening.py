"""Where to listen: what a person may get wrong, and what comes by itself."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.unit.xenflow.channels import (
    NODE,
    TLS,
    Pki,
    Program,
    in_loop,
    listening,
)
from xenflow.address import Address
from xenflow.channel import serve
from xenflow.errors import ConfigError, UnavailableError
from xenflow.listening import host_text, listen


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def test_a_link_local_address_keeps_its_zone() -> None:
    index, name = socket.if_nameindex()[0]
    assert host_text(("fe80::1", 6655, 0, index)) == f"fe80::1%{name}"
    assert host_text(("fe80::1", 6655, 0, 0xFFFFFF)) == "fe80::1"
    assert host_text(("::1", 6655, 0, 0)) == "::1"
    assert host_text(("127.0.0.1", 6655)) == "127.0.0.1"


@in_loop
async def test_addresses_that_cannot_be_listened_at(pki: Pki, tmp_path: Path) -> None:
    node = pki.credentials(NODE)
    async with listening(TLS, node, Program()) as listener:
        used = str(listener.addresses[0])
        for text, cause in (
            (used, "in use by another process; `ss -ltnp"),
            ("ssl:192.0.2.77:6654", "not an address of this machine"),
            ("ssl:[fe80::1%nosuch0]:6654", "network interface"),
            (f"unix:{tmp_path}/none/app.sock", "mkdir -p"),
            ("tcp:127.0.0.1:6654", "plain TCP"),
        ):
            with pytest.raises(ConfigError, match=cause):
                await serve(Address.parse(text), node, Program().welcome, Program().serve)
    with pytest.raises(ConfigError, match="credentials"):
        await serve(TLS, None, Program().welcome, Program().serve)


@pytest.mark.parametrize("place", ["ssl:192.0.2.1:0", "ssl:[fe80::1%nowhere]:0"])
def test_an_address_that_may_come_by_itself_is_told_apart(place: str) -> None:
    with pytest.raises(UnavailableError, match=r"not an address of this|no such host address"):
        listen(Address.parse(place))


def test_an_address_in_use_does_not_go_by_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match="in use") as raised:
            listen(Address.parse(f"tcp:127.0.0.1:{port}"))
    assert not isinstance(raised.value, UnavailableError)

"""Bad servers and operators against the real controller process: refused, said once, while a good operator asks on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.private_ovs import wait_until
from xenflow import wire
from xenflow.address import Address
from xenflow.answers import Status
from xenflow.channel import connect
from xenflow.errors import RemoteProtocolError
from xenflow.identity import Identity
from xenflow.pki import Authority
from xenflow.tls import Credentials
from xenflow.wire import VERSION, Ack, Answer, Hello, Query, Role

FLOOD = 150
NODE = Hello(VERSION, Role.NODE, "n1")


class Site:
    """A controller's process, its authority and its log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.create(directory / "pki")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        files = self.credentials("controller/app")
        (directory / "app.toml").write_text(
            f'nodes = ["n1"]\nlisten = "ssl:127.0.0.1:{self.port}"\nopenflow = "tcp:127.0.0.1:0"\n'
            f'socket = "{directory}/app.sock"\n[tls]\nca = "{files.ca}"\ncertificate = "{files.certificate}"\n'
            f'key = "{files.key}"\ncrl = "{files.crl}"\n'
        )
        self.operator = self.credentials("operator/op")
        command = [str(Path(sys.executable).parent / "xenflow-controller"), "--config", str(directory / "app.toml")]
        with open(directory / "log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stderr=log)
        wait_until(lambda: self.said("ready listen="), "the controller listens")

    @property
    def address(self) -> Address:
        return Address.parse(f"ssl:127.0.0.1:{self.port}")

    def credentials(self, identity: str) -> Credentials:
        issued = self.authority.issue(Identity.from_text(identity))
        return Credentials(self.authority.ca_path, issued.certificate, issued.key, self.authority.crl_path)

    def said(self, text: str) -> int:
        return (self.directory / "log").read_text(encoding="utf-8").count(text)

    async def asks(self) -> Status:
        """A good operator asks, and has an answer."""
        channel = await connect(self.address, self.operator, Hello(VERSION, Role.OPERATOR, "op"), lambda _: None)
        try:
            await channel.send(Query(1, "status"))
            async for message in channel:
                if isinstance(message, Answer):
                    return msgspec.json.decode(message.body, type=Status)
        finally:
            await channel.close("answered")
        raise AssertionError(channel.reason)

    async def hears(self, credentials: Credentials, sent: bytes) -> None:
        """Send bytes inside TLS; return once the controller has ended the connection."""
        context = credentials.client_context()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname="")
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass
        writer.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        yield made
        assert not any(node.dpid for node in asyncio.run(made.asks()).nodes)
        made.process.terminate()
        assert made.process.wait(20) == 0
        assert not made.said("Traceback")
    finally:
        made.process.kill()
        made.process.wait()


def refused(site: Site, credentials: Credentials, hello: Hello) -> str:
    async def attempt() -> None:
        channel = await connect(site.address, credentials, hello, lambda _: None)
        assert await channel.receive() == []
        raise RemoteProtocolError(channel.reason)

    with pytest.raises((RemoteProtocolError, OSError)) as raised:
        asyncio.run(attempt())
    return str(raised.value)


@pytest.mark.parametrize(
    ("identity", "hello", "why"),
    [
        ("node/n9", Hello(VERSION, Role.NODE, "n9"), "not one of this controller's nodes"),
        ("node/n9", NODE, "its certificate says node/n9"),
        ("router/r1", Hello(VERSION, Role.ROUTER, "r1"), "no business here"),
        ("router/r1", NODE, "its certificate says router/r1"),
    ],
    ids=["another node", "another's name", "a router", "a router as a node"],
)
def test_who_has_no_business_here(site: Site, identity: str, hello: Hello, why: str) -> None:
    credentials = site.credentials(identity)
    for _ in range(2):
        refused(site, credentials, hello)
    assert site.said("refused at=") == 1
    assert site.said(why) == 1


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (wire.encode(Hello(VERSION + 1, Role.NODE, "n1")), "version"),
        (b"GET / HTTP/1.1\r\n\r\n", "oversized"),
        (b"\0\0\0\3\xc1\xc1\xc1", "garbage"),
        (wire.encode(NODE) + b"\0\0\0\1\xc1", "garbage"),
        (wire.encode(NODE) + wire.encode(Ack("r1", 1)), "refused"),
        (wire.encode(NODE) + b"\x7f\xff\xff\xff", "oversized"),
        (b"", "handshake-timeout"),
    ],
    ids=["version", "http", "garbage", "garbage later", "out of turn", "oversized later", "silence"],
)
def test_a_node_that_talks_nonsense(site: Site, sent: bytes, fault: str) -> None:
    async def attack() -> None:
        credentials = site.credentials("node/n1")
        await asyncio.gather(site.hears(credentials, sent), site.hears(credentials, sent), site.asks())

    asyncio.run(attack())
    wait_until(lambda: site.said(f"fault={fault}"), "the fault is said")
    assert site.said(f"fault={fault}") == 1


def test_floods(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(FLOOD):
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port)))
        wait_until(lambda: site.said("too many"), "the flood is refused")
        local = subprocess.run(
            [str(Path(sys.executable).parent / "xenflow"), "status", "--app", f"unix:{site.directory}/app.sock"],
            capture_output=True,
            text=True,
        )
        assert local.returncode == 0, local.stderr
    assert site.said("refused at=") <= 3

"""Both ends of channels for tests: an authority, a program at a listener, and loops to run in."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

from tests.fakes import clock
from xenflow import wire
from xenflow.address import Address
from xenflow.channel import Channel, Listener, ListenerLimits, serve
from xenflow.errors import Fault, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.pki.authority import Authority
from xenflow.replica import Inbox
from xenflow.tls import Credentials
from xenflow.wire import Ack, Begin, End, Hello, Role, Update, Welcome

ROUTER, NODE = Identity(Role.ROUTER, "r1"), Identity(Role.NODE, "n1")
HELLO = Hello(wire.VERSION, Role.ROUTER, "r1", 1)
OPERATOR = Hello(wire.VERSION, Role.OPERATOR, "root")
TLS = Address.parse("ssl:127.0.0.1:0")
Test = Callable[..., Awaitable[None]]


def bounded(run: Callable[[Coroutine[object, object, None]], None], test: Test) -> Callable[..., None]:
    @functools.wraps(test)
    def whole(*args: object, **kwargs: object) -> None:
        async def story() -> None:
            async with asyncio.timeout(10):
                await test(*args, **kwargs)

        run(story())

    return whole


in_loop = functools.partial(bounded, asyncio.run)
in_jumping_loop = functools.partial(bounded, clock.run)
"""For tests that wait a second or so for something of their own process."""


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; the test's own deadline ends it."""
    while not condition():
        await asyncio.sleep(0.005)


class Pki:
    """An authority and what it issued, each identity with files of its own, as on machines of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.create(directory / "ca")

    def credentials(self, identity: Identity) -> Credentials:
        home = self.directory / str(identity).replace("/", "-")
        home.mkdir(exist_ok=True)
        issued = self.authority.issue(identity)
        paths = [self.authority.ca_path, issued.certificate, issued.key, self.authority.crl_path]
        names = ["ca.pem", "cert.pem", "key.pem", "crl.pem"]
        for path, name in zip(paths, names, strict=True):
            shutil.copy2(path, home / name)
        return Credentials(*(home / name for name in names))

    def publish_crl(self, credentials: Credentials) -> None:
        assert credentials.crl is not None
        fresh = credentials.crl.with_suffix(".new")
        shutil.copy(self.authority.crl_path, fresh)
        fresh.rename(credentials.crl)


class Program:
    """A program at a listener: takes everything in, and remembers it."""

    def __init__(self) -> None:
        self.hellos: list[tuple[Hello, Identity]] = []
        self.messages: list[wire.Message] = []
        self.ended: list[str] = []
        self.inbox = Inbox()

    def welcome(self, hello: Hello, identity: Identity) -> Welcome:
        self.hellos.append((hello, identity))
        if hello.name == "elsewhere":
            raise RemoteProtocolError("no such router on this node", Fault.IDENTITY)
        return Welcome(wire.VERSION, Role.NODE, "n1", 1000)

    async def serve(self, channel: Channel) -> None:
        try:
            async for message in channel:
                self.messages.append(message)
                if isinstance(message, Begin | Update | End):
                    self.inbox.receive(message)
                if isinstance(message, End):
                    await channel.send(Ack(message.scope, message.seq))
        finally:
            self.ended.append(channel.reason)


@contextlib.asynccontextmanager
async def listening(
    address: Address, credentials: Credentials | None, program: Program, limits: ListenerLimits | None = None
) -> AsyncIterator[Listener]:
    listener = await serve(address, credentials, program.welcome, program.serve, limits or ListenerLimits())
    try:
        yield listener
    finally:
        await listener.close()
        await listener.wait()


def anybody(_: Identity) -> str | None:
    return None


def local(tmp_path: Path) -> Address:
    return Address.parse(f"unix:{tmp_path}/app.sock")

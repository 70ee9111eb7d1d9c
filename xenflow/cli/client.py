"""How a command asks the controller: which one (--app and friends), a question, its answer as a value.

Place in the flow: command -> *Query over unix socket or TLS* -> app -> Answer. What goes wrong is a `ConfigError` with
the cause and the way out.
"""

from __future__ import annotations

import asyncio
import functools
import getpass
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import click
import msgspec

from xenflow.address import Address, Scheme
from xenflow.answers import Page
from xenflow.channel import Channel, connect
from xenflow.errors import ConfigError, RemoteProtocolError
from xenflow.identity import Identity, is_name
from xenflow.tls import Credentials
from xenflow.wire import VERSION, Answer, Hello, Query, Role

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

DEFAULT_APP: Final = "unix:/run/xenflow/app.sock"
ANSWER_S: Final = 15.0
"""How long one answer may take."""
COMPLETION_S: Final = 1.0
"""How long the shell waits for names to complete."""


@dataclass(frozen=True, slots=True)
class App:
    """Which controller is asked, and as whom."""

    address: Address
    credentials: Credentials | None
    name: str


def app_options(command: Callable[Concatenate[App, P], R]) -> Callable[..., R]:
    """Give a command the options that say which controller it asks; it gets them as its first argument."""

    @functools.wraps(command)
    def with_app(
        app: str,
        ca: Path | None,
        certificate: Path | None,
        key: Path | None,
        crl: Path | None,
        *args: P.args,
        **rest: P.kwargs,
    ) -> R:
        return command(find_app(app, ca, certificate, key, crl), *args, **rest)  # fmt: skip

    decorated: Callable[..., R] = with_app
    path = click.Path(path_type=Path)
    for name, text in (
        ("crl", "Revoked certificates."),
        ("key", "The operator's private key."),
        ("certificate", "The operator's certificate."),
        ("ca", "Certificate of the authority."),
    ):
        option = click.option(f"--{name}", type=path, envvar=f"XENFLOW_{name.upper()}", help=f"{text} For ssl: only.")
        decorated = option(decorated)
    return click.option(
        "--app",
        default=DEFAULT_APP,
        envvar="XENFLOW_APP",
        show_default=True,
        show_envvar=True,
        help="The controller: unix:PATH or ssl:HOST:PORT.",
    )(decorated)


def find_app(app: str, ca: Path | None, certificate: Path | None, key: Path | None, crl: Path | None) -> App:
    """Return which controller the options mean. Raises ConfigError."""
    try:
        address = Address.parse(app)
    except ValueError as error:
        raise ConfigError([f"--app {app}: {error}"]) from error
    if address.scheme is Scheme.UNIX:
        return App(address, None, _user())
    if address.scheme is Scheme.TCP:
        raise ConfigError([f"--app {app}: plain TCP is not spoken here: use unix:PATH or ssl:HOST:PORT"])
    given = {"--ca": ca, "--certificate": certificate, "--key": key}
    missing = [name for name, value in given.items() if value is None]
    if ca is None or certificate is None or key is None:
        hint = "issue them with: xenflow pki issue operator NAME"
        raise ConfigError([f"--app {app} needs an operator's credentials: {', '.join(missing)}; {hint}"])
    credentials = Credentials(ca, certificate, key, crl)
    return App(address, credentials, credentials.identity().name)


def _user() -> str:
    """Return the name that the controller logs for who asks over the local socket."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without an entry in the password database
        return "operator"
    return user if is_name(user) else "operator"


def ask(app: App, what: str, kind: type[T], **arguments: str) -> T:
    """Return the controller's answer to one question. Raises ConfigError."""
    return _run(app, lambda talk: talk.ask(what, kind, arguments))


def ask_pages(app: App, what: str, kind: type[Page[T]], limit: int, **arguments: str) -> Page[T]:
    """Return the first `limit` rows (0: all) of an answer that may come in many pages. Raises ConfigError."""
    return _run(app, lambda talk: _pages(talk, what, kind, limit, arguments))


def names(what: str, pick: Callable[[bytes], list[str]]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return a completion that asks the controller; it is quiet when there is none to ask."""

    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        chosen = context.params.get("app") or DEFAULT_APP
        files = [context.params.get(name) for name in ("ca", "certificate", "key", "crl")]
        try:
            app = find_app(chosen, *files)
            body = _run(app, lambda talk: talk.ask(what, msgspec.Raw, {}), COMPLETION_S)
        except ConfigError:
            return []
        return [name for name in pick(bytes(body)) if name.startswith(incomplete)]

    return complete


async def _pages(talk: Conversation, what: str, kind: type[Page[T]], limit: int, arguments: dict[str, str]) -> Page[T]:
    rows: list[T] = []
    after = ""
    while True:
        rest = {"limit": str(limit - len(rows))} if limit else {}
        page = await talk.ask(what, kind, arguments | rest | {"after": after})
        rows += page.rows
        after = page.next
        if not after or not page.rows or (limit and len(rows) >= limit):
            return Page(rows, page.total, after)


class Conversation:
    """Questions over one connection, one after the other."""

    def __init__(self, channel: Channel, timeout_s: float) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._number = 0

    async def ask(self, what: str, kind: type[T], arguments: dict[str, str]) -> T:
        """Return the answer to one question. Raises ConfigError for one that cannot be answered, or TimeoutError."""
        self._number += 1
        async with asyncio.timeout(self._timeout_s):
            await self._channel.send(Query(self._number, what, arguments))
            return _decode(await self._answer(), kind)

    async def _answer(self) -> bytes:
        async for message in self._channel:
            if isinstance(message, Answer) and message.number == self._number:
                if message.error:
                    raise ConfigError([message.error])
                return message.body
        raise ConfigError([f"the controller ended the connection: {self._channel.reason}"])


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        text = f"the controller's answer is not understood ({error}): is it another version of XenFlow?"
        raise ConfigError([text]) from error


def _run(app: App, talk: Callable[[Conversation], Coroutine[None, None, T]], timeout_s: float = ANSWER_S) -> T:
    try:
        return asyncio.run(_converse(app, talk, timeout_s))
    except TimeoutError as error:
        raise ConfigError([f"{app.address}: the controller does not answer within {timeout_s:g} s"]) from error
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "is xenflow-controller running there? --app (or XENFLOW_APP) says where; a lab's: xenflow lab status"
        raise ConfigError([f"{app.address}: cannot reach the controller: {reason}; {hint}"]) from error
    except RemoteProtocolError as error:
        raise ConfigError([f"{app.address}: {error.reason}"]) from error


async def _converse(app: App, talk: Callable[[Conversation], Coroutine[None, None, T]], timeout_s: float) -> T:
    hello = Hello(VERSION, Role.OPERATOR, app.name)
    channel = await connect(app.address, app.credentials, hello, _expect, timeout_s=timeout_s)
    try:
        return await talk(Conversation(channel, timeout_s))
    finally:
        await channel.close("done")


def _expect(peer: Identity) -> str | None:
    return None if peer.role is Role.CONTROLLER else "not a controller"

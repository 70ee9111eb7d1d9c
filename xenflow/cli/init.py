"""`xenflow init` and `xenflow import`: from nothing to a machine that has its certificate and its settings.

`init` runs where the authority is and writes one file, NAME.xenflow; `import` (or `xenflow-client --import`) unpacks it
on the machine that it is for. What is not given as an option is asked for at a terminal, and an error elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import click

from xenflow.address import Address, Scheme
from xenflow.bundle import unpack
from xenflow.cli.output import json_option, print_json
from xenflow.cli.pki import DAYS, DEFAULTS, PATH, directory_option
from xenflow.errors import ConfigError
from xenflow.identity import Identity, is_name
from xenflow.pki import Authority
from xenflow.pki.bundle import DEFAULT_SERVER, Settings, write_bundle_with
from xenflow.pki.templates import controller_settings, node_settings, router_settings
from xenflow.wire import Role

OPENFLOW_PORT: Final = 6653
SUFFIX: Final = ".xenflow"
CONFIGURATION: Final = Path("/etc/xenflow")

Command = TypeVar("Command", bound=Callable[..., object])
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Order:
    """Whose bundle is to be written, where and how; the same for all roles."""

    name: str
    directory: Path
    output: Path | None
    days: int
    force: bool
    as_json: bool


def order_options(command: Command) -> Command:
    """Give a command the argument NAME and the options that make an `Order`, as its argument `order`."""

    @functools.wraps(command)
    def gathered(**given: Any) -> object:
        order = Order(**{field.name: given.pop(field.name) for field in dataclasses.fields(Order)})
        return command(order=order, **given)

    for decorate in (
        json_option,
        click.option("--force", is_flag=True, help="Revoke and replace a certificate, overwrite the file."),
        click.option("--days", type=DAYS, default=DEFAULTS.certificate_days, show_default=True, help="Lifetime."),
        click.option("-o", "--output", type=PATH, help=f"The file to write; NAME{SUFFIX} by default."),
        directory_option,
        click.argument("name"),
    ):
        gathered = decorate(gathered)
    return cast(Command, gathered)


@click.group()
def init() -> None:
    """Prepare a controller, a node or a router: certificate and settings in one file, to be carried there."""


@init.command()
@click.option("--nodes", metavar="NAME,NAME", help="The nodes that may connect.")
@click.option("--listen", default="ssl:0.0.0.0:6654", show_default=True, help="For servers and operators.")
@click.option("--openflow", default=f"ssl:0.0.0.0:{OPENFLOW_PORT}", show_default=True, help="For switches.")
@click.option("--mode", type=click.Choice(["proactive", "reactive"]), default="proactive", show_default=True)
@order_options
def controller(order: Order, nodes: str | None, listen: str, openflow: str, mode: str) -> None:
    """Prepare the controller NAME: certificate, key and app.toml."""
    names = _given("--nodes", nodes, "Names of the nodes, with commas between them", _names)
    text = controller_settings(names, _ssl("--listen", listen), _ssl("--openflow", openflow), mode)
    install = ("xenflow import {file}", "systemctl restart xenflow-controller")
    _write(Role.CONTROLLER, order, Settings("app.toml", text, "controller"), install)


@init.command()
@click.option("--app", help="The controller: ssl:HOST:6654.")
@click.option("--listen", default=str(DEFAULT_SERVER), show_default=True, help="For the clients in the routers.")
@click.option("--bridge", default="xenbr0", show_default=True, help="Open vSwitch's data bridge.")
@order_options
def node(order: Order, app: str | None, listen: str, bridge: str) -> None:
    """Prepare the node NAME: certificate, key and server.toml."""
    where = _given("--app", app, "Address of the controller (ssl:HOST:6654)", lambda text: _ssl("--app", text))
    text = node_settings(order.name, where, _ssl("--listen", listen), _bridge(bridge))
    tls, openflow = CONFIGURATION / "node", Address(Scheme.SSL, where.host, OPENFLOW_PORT)
    install = (
        "xenflow import {file}",
        f"ovs-vsctl set-ssl {tls}/key.pem {tls}/certificate.pem {tls}/ca.pem",
        f"ovs-vsctl --may-exist add-br {bridge} -- set Bridge {bridge} fail_mode=secure protocols=OpenFlow10"
        f" -- set-controller {bridge} {openflow}"
        f" -- set Controller {bridge} controller_rate_limit=2000 controller_burst_limit=1000",
        "systemctl restart xenflow-server",
    )
    _write(Role.NODE, order, Settings("server.toml", text, "node"), install)


@init.command()
@click.option("--server", help=f"Where its client connects to.  [default: {DEFAULT_SERVER}]")
@order_options
def router(order: Order, server: str | None) -> None:
    """Prepare the virtual router NAME: certificate, key and client.toml for its VM."""
    question = "Address of the node's server, as the VM reaches it"
    where = _given("--server", server, question, lambda text: _ssl("--server", text), str(DEFAULT_SERVER))
    install = ("xenflow-client --import {file}", "systemctl restart xenflow-client")
    _write(Role.ROUTER, order, Settings("client.toml", router_settings(order.name, where)), install)


@click.command("import")
@click.argument("bundle", type=PATH)
@click.option("--into", type=PATH, default=CONFIGURATION, show_default=True, help="Where the settings belong.")
@click.option("--force", is_flag=True, help="Replace files that are there with another content.")
@json_option
def import_(bundle: Path, into: Path, force: bool, as_json: bool) -> None:
    """Unpack the BUNDLE that `xenflow init` wrote, on the machine that it is for."""
    paths = [str(path) for path in unpack(bundle, into, force=force)]
    if as_json:
        print_json({"files": paths})
    else:
        click.echo(f"wrote {', '.join(paths)}")


def _write(role: Role, order: Order, settings: Settings, install: Sequence[str]) -> None:
    """Issue the certificate, write the bundle, and print how to install it."""
    try:
        identity = Identity(role, order.name)
    except ValueError as error:
        raise ConfigError([f"NAME: {error}"]) from error
    path = order.output or Path(f"{order.name}{SUFFIX}")
    if path.exists() and not order.force:
        raise ConfigError([f"{path}: exists already and is not overwritten; --force replaces it"])
    authority = _authority(order.directory)
    authority.issue(identity, order.days, force=order.force)
    members = write_bundle_with(authority, identity, path, settings, force=order.force)
    lines = [line.format(file=path.name) for line in install]
    if order.as_json:
        print_json({"identity": str(identity), "bundle": str(path), "files": members, "install": lines})
        return
    click.echo(f"wrote {path} ({', '.join(members)}); it holds the private key.")
    click.echo("Copy it to its machine and type there:\n")
    for line in lines:
        click.echo(f"    {line}")


def _authority(directory: Path) -> Authority:
    """Return the authority in `directory`; a person is asked whether to make one where there is none."""
    missing = not (directory / "ca.pem").exists()
    if missing and sys.stdin.isatty() and click.confirm(f"{directory} holds no authority. Make one?", err=True):
        return Authority.create(directory)
    return Authority.open(directory)


def _given(option: str, value: str | None, question: str, parse: Callable[[str], T], default: str | None = None) -> T:
    """Return what the option says, or a person at a terminal; elsewhere the default, or ConfigError without one."""
    if value is not None:
        return parse(value)
    if sys.stdin.isatty():
        return parse(click.prompt(question, default=default, err=True))
    if default is None:
        raise ConfigError([f"{option}: is missing, and there is no terminal to ask at"])
    return parse(default)


def _names(text: str) -> list[str]:
    names = [name for name in text.replace(",", " ").split() if name]
    problems = [f"--nodes: {name[:80]!r} is no name" for name in names if not is_name(name)]
    if len(set(names)) != len(names):
        problems.append("--nodes: has a name twice")
    if problems or not names:
        raise ConfigError(problems or ["--nodes: names no node"])
    return names


def _ssl(option: str, text: str) -> Address:
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise ConfigError([f"{option}: {error} ({text[:80]!r})"]) from error
    if address.scheme is not Scheme.SSL:
        raise ConfigError([f"{option}: must be ssl:HOST:PORT ({text[:80]!r})"])
    return address


def _bridge(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", text) is None:
        raise ConfigError([f"--bridge: must be 1 to 15 of letters, digits, '_', '.' and '-' ({text[:80]!r})"])
    return text

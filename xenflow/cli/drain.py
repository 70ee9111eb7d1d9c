"""`xenflow drain` and `undrain`: a trunk that nothing uses, ready to be unplugged, and back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click
import msgspec

from xenflow.answers import DrainStatus, Status
from xenflow.cli.client import App, app_options, ask, names
from xenflow.cli.output import json_option, print_json
from xenflow.errors import ConfigError

POLL_S = 0.1
DRAINED = "drained"
IN_USE = "in use"

complete_trunk = names(
    "status", lambda body: sorted(end for link in msgspec.json.decode(body, type=Status).links for end in link.ends)
)


@click.command()
@click.argument("trunk", shell_complete=complete_trunk, metavar="NODE:PORT")
@app_options
@json_option
def drain(app: App, trunk: str, as_json: bool) -> int:
    """Lead everything around a trunk, with nothing lost, until its cable can be unplugged.

    NODE:PORT is either of its ends. It stays so until `undrain`, whatever is started anew. Ctrl-C puts it back.
    Exit code 1: the trunk is in use.
    """
    begun = ask(app, "drain", DrainStatus, trunk=trunk)
    ended = _follow(app, trunk, begun, say=not as_json, take_back=True)
    if as_json:
        print_json(ended)
    elif ended.state == DRAINED:
        click.echo(f"{_words(ended)}: drained after {ended.elapsed_s:.3f} s, nothing uses it")
    else:
        click.echo(f"{_words(ended)}: {ended.state}: {ended.error or 'taken back'}", err=True)
    return 0 if ended.state == DRAINED else 1


@click.command()
@click.argument("trunk", shell_complete=complete_trunk, metavar="NODE:PORT")
@app_options
@json_option
def undrain(app: App, trunk: str, as_json: bool) -> int:
    """Let a trunk be used again, with nothing lost.

    Ctrl-C only ends the command. Exit code 1: the trunk is still drained.
    """
    begun = ask(app, "undrain", DrainStatus, trunk=trunk)
    ended = _follow(app, trunk, begun, say=not as_json, take_back=False)
    if as_json:
        print_json(ended)
    elif ended.state == IN_USE:
        click.echo(f"{_words(ended)}: in use again after {ended.elapsed_s:.3f} s")
    else:
        click.echo(f"{_words(ended)}: {ended.state}: {ended.error or 'drained anew'}", err=True)
    return 0 if ended.state == IN_USE else 1


def _follow(app: App, trunk: str, begun: DrainStatus, *, say: bool, take_back: bool) -> DrainStatus:
    """Show what is awaited and what is left on the trunk, whenever that changes, until the end."""
    last = begun
    told: tuple[object, ...] = ()
    for last in _states(app, trunk, begun, take_back=take_back):
        now = (last.state, last.awaited, last.addresses, last.networks)
        if say and not last.ended and now != told:
            left = f"{last.addresses} addresses and {last.networks} trees on it"
            click.echo(f"{last.elapsed_s:7.3f} s  {last.state}: {left}: awaiting {last.awaited}")
        told = now
    return last


def _states(app: App, trunk: str, status: DrainStatus, *, take_back: bool) -> Iterator[DrainStatus]:
    yield status
    while not status.ended:
        try:
            time.sleep(POLL_S)
            (status,) = ask(app, "drains", list[DrainStatus], trunk=trunk)
        except KeyboardInterrupt:
            if not take_back:
                raise
            _take_back(app, trunk)
        yield status


def _take_back(app: App, trunk: str) -> None:
    try:
        ask(app, "undrain", DrainStatus, trunk=trunk)
    except ConfigError as error:
        click.echo(f"cannot be put back: {error}", err=True)


def _words(status: DrainStatus) -> str:
    return " - ".join(status.ends)

"""`xenflow migrate`, `evacuate` and `migrations`: routers on their way from node to node."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click
import msgspec

from xenflow.answers import MigrationStatus, RouterStatus, Status
from xenflow.cli.client import App, app_options, ask, names
from xenflow.cli.output import json_option, print_json, print_table
from xenflow.cli.routers import complete_router
from xenflow.errors import ConfigError

POLL_S = 0.1
DONE = "done"

complete_node = names("status", lambda body: [item.name for item in msgspec.json.decode(body, type=Status).nodes])


@click.command()
@click.argument("router", shell_complete=complete_router)
@click.option("--to", "target", required=True, metavar="NODE", shell_complete=complete_node, help="Where it shall run.")
@app_options
@json_option
def migrate(app: App, router: str, target: str, as_json: bool) -> int:
    """Move ROUTER to another node, with nothing lost and nothing doubled.

    Ctrl-C takes it back as long as that is possible. Exit code 1: it has stayed where it was.
    """
    begun = ask(app, "migrate", MigrationStatus, router=router, to=target)
    ended = _follow(app, begun, say=not as_json)
    if as_json:
        print_json(ended)
    elif ended.state == DONE:
        click.echo(f"{router} runs on {target} now: {_times(ended)}")
    else:
        click.echo(f"{router} has stayed on {ended.source}: {ended.error or 'taken back'}", err=True)
    return 0 if ended.state == DONE else 1


@click.command()
@click.argument("node", shell_complete=complete_node)
@click.option("--to", "target", metavar="NODE", shell_complete=complete_node, help="Where they shall run.")
@click.option("--at-once", default=2, show_default=True, help="How many routers move at the same time.")
@app_options
@json_option
def evacuate(app: App, node: str, target: str | None, at_once: int, as_json: bool) -> int:
    """Move all routers away from NODE, to another one or to the others in turn."""
    others = [target] if target else [n.name for n in ask(app, "status", Status).nodes if n.name != node and n.in_sync]
    if not others:
        raise ConfigError([f"no other node is in sync that the routers of {node} could go to"])
    waiting = [item.name for item in ask(app, "routers", list[RouterStatus]) if item.node == node]
    ended: list[MigrationStatus] = []
    moving: list[MigrationStatus] = []
    turn = 0
    while waiting or moving:
        while waiting and len(moving) < max(1, at_once):
            router = waiting.pop(0)
            moving.append(ask(app, "migrate", MigrationStatus, router=router, to=others[turn % len(others)]))
            turn += 1
            if not as_json:
                click.echo(f"{router}: {node} -> {moving[-1].target}")
        time.sleep(POLL_S)
        now = [_again(app, item) for item in moving]
        for item in now:
            if item.ended and not as_json:
                click.echo(f"{item.router}: {item.state} {item.error or _times(item)}")
        ended += [item for item in now if item.ended]
        moving = [item for item in now if not item.ended]
    if as_json:
        print_json(ended)
    return 0 if all(item.state == DONE for item in ended) else 1


@click.command()
@click.argument("router", required=False, shell_complete=complete_router)
@app_options
@json_option
def migrations(app: App, router: str | None, as_json: bool) -> None:
    """Show migrations (of one ROUTER), the oldest first, with the seconds after which each step was reached."""
    found = ask(app, "migrations", list[MigrationStatus], **({"router": router} if router else {}))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            item.number,
            item.router,
            f"{item.source} -> {item.target}",
            "yes" if item.planned else "by hand",
            item.state,
            item.error or "-",
            _times(item),
        )
        for item in found
    ]
    print_table(("NO", "ROUTER", "WAY", "PLANNED", "STATE", "ERROR", "STEPS"), rows, empty="no migrations")


def _follow(app: App, status: MigrationStatus, *, say: bool) -> MigrationStatus:
    """Show each state as it is reached, until the end; Ctrl-C takes the router back if it is not too late."""
    last = status
    for last in _states(app, status):
        if say and not last.ended:
            progress = f" {last.percent} %" if last.percent else ""
            click.echo(f"{last.elapsed_s:7.3f} s  {last.state}{progress}: awaiting {last.awaited}")
    return last


def _states(app: App, status: MigrationStatus) -> Iterator[MigrationStatus]:
    yield status
    while not status.ended:
        before = (status.state, status.percent)
        try:
            time.sleep(POLL_S)
            status = _again(app, status)
        except KeyboardInterrupt:
            _take_back(app, status.router)
        if (status.state, status.percent) != before:
            yield status


def _take_back(app: App, router: str) -> None:
    try:
        ask(app, "abort", MigrationStatus, router=router)
    except ConfigError as error:
        click.echo(f"cannot be taken back: {error}", err=True)


def _again(app: App, status: MigrationStatus) -> MigrationStatus:
    (found,) = ask(app, "migrations", list[MigrationStatus], number=str(status.number))
    return found


def _times(status: MigrationStatus) -> str:
    return ", ".join(f"{item.state} {item.after_s:.3f} s" for item in status.reached[1:])

"""`xenflow migrate` and `migrations`: routers on their way from node to node."""

from __future__ import annotations

import time

import click
import msgspec

from xenflow.answers import MigrationStatus, Status
from xenflow.cli.client import App, app_options, ask, names
from xenflow.cli.following import DONE, POLL_S, Interrupts, again, interrupts, take_back, times
from xenflow.cli.output import json_option, print_json, print_table
from xenflow.cli.routers import complete_router

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
    with interrupts() as pressed:
        begun = ask(app, "migrate", MigrationStatus, router=router, to=target)
        ended = _follow(app, begun, pressed, say=not as_json)
    if as_json:
        print_json(ended)
    elif ended.state == DONE:
        click.echo(f"{router} runs on {target} now: {times(ended)}")
    else:
        click.echo(f"{router} has stayed on {ended.source}: {ended.error}", err=True)
    return 0 if ended.state == DONE else 1


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
            times(item),
        )
        for item in found
    ]
    print_table(("NO", "ROUTER", "WAY", "PLANNED", "STATE", "ERROR", "STEPS"), rows, empty="no migrations")


def _follow(app: App, status: MigrationStatus, pressed: Interrupts, *, say: bool) -> MigrationStatus:
    """Show each state as it is reached, until the end; Ctrl-C takes the router back if it is not too late."""
    before: tuple[str, int] | None = None
    while not status.ended:
        if say and (status.state, status.percent) != before:
            progress = f" {status.percent} %" if status.percent else ""
            click.echo(f"{status.elapsed_s:7.3f} s  {status.state}{progress}: awaiting {status.awaited}")
        before = (status.state, status.percent)
        time.sleep(POLL_S)
        if pressed.take():
            take_back(app, status.router)
        status = again(app, status)
    return status

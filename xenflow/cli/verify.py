"""`xenflow verify`: does every switch have exactly the flows that are wanted?"""

from __future__ import annotations

import click

from xenflow.answers import Verified
from xenflow.cli.client import App, app_options, ask
from xenflow.cli.flows import complete_node
from xenflow.cli.output import json_option, print_json, print_table

EXIT_NO = 1


@click.command()
@click.argument("node", required=False, shell_complete=complete_node)
@app_options
@json_option
def verify(app: App, node: str | None, as_json: bool) -> None:
    """Read the flows of every switch (or of NODE's) anew, and compare; exit code 1 if anything differs."""
    found = ask(app, "verify", list[Verified], **({"node": node} if node else {}))
    if as_json:
        print_json(found)
    else:
        rows = [(item.node, item.flows, len(item.differences) + item.more, item.why or "-") for item in found]
        print_table(("NODE", "FLOWS", "DIFFERENCES", "NOTE"), rows, empty="no node is known")
        for item in found:
            _show(item)
    if not found or any(item.differences or item.why for item in found):
        raise click.exceptions.Exit(EXIT_NO)


def _show(item: Verified) -> None:
    for difference in item.differences:
        click.echo()
        click.echo(f"{item.node}: {difference.problem}: {difference.words}")
        click.echo(f"  {difference.flow}")
        if difference.problem == "differs":
            click.echo(f"  wanted: {difference.wanted}")
    if item.more:
        click.echo(f"{item.node}: {item.more} more")

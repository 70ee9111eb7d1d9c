"""`xenflow flows`: what a switch has in its tables, in words."""

from __future__ import annotations

import click
import msgspec

from xenflow.answers import FlowStatus, Page, Status
from xenflow.cli.client import App, app_options, ask_pages, names
from xenflow.cli.output import json_option, print_json, print_table
from xenflow.cli.routers import DEFAULT_LIMIT, LIMIT_HELP, complete_router

complete_node = names("status", lambda body: [node.name for node in msgspec.json.decode(body, type=Status).nodes])


@click.command()
@click.argument("node", shell_complete=complete_node)
@click.option("--table", metavar="TABLE", help="Only this table, by number or name.")
@click.option("--router", metavar="VR", shell_complete=complete_router, help="Only what is installed for this router.")
@click.option("--raw", is_flag=True, help="Only the flows, as ovs-ofctl dump-flows prints them.")
@click.option("--limit", type=click.IntRange(min=0), default=DEFAULT_LIMIT, show_default=True, help=LIMIT_HELP)
@app_options
@json_option
def flows(app: App, node: str, table: str | None, router: str | None, raw: bool, limit: int, as_json: bool) -> None:
    """Show the flows of NODE's switch, with what each is for."""
    chosen = {name: value for name, value in (("table", table), ("router", router)) if value}
    page = ask_pages(app, "flows", Page[FlowStatus], limit, node=node, **chosen)
    if as_json:
        print_json(page)
        return
    if raw:
        for flow in page.rows:
            click.echo(flow.text)
    else:
        rows = [
            (f"{flow.table} {flow.table_name}", flow.priority, flow.owner or "-", flow.kind, flow.state, flow.words)
            for flow in page.rows
        ]
        print_table(("TABLE", "PRIORITY", "ROUTER", "KIND", "STATE", "WHAT IT DOES"), rows, empty="no flows")
    if page.next:
        click.echo(f"{page.total - len(page.rows)} more of {page.total}: --limit, --table, --router", err=True)

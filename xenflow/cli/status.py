"""`xenflow status`: nodes, links, networks and routers at a glance."""

from __future__ import annotations

import click

from xenflow.answers import LinkStatus, Status
from xenflow.cli.client import App, app_options, ask
from xenflow.cli.output import json_option, print_fields, print_json, print_table


@click.command()
@app_options
@json_option
def status(app: App, as_json: bool) -> None:
    """Show whether the network is as it should be, and what is awaited or refused if not."""
    answer = ask(app, "status", Status)
    if as_json:
        print_json(answer)
        return
    print_fields([("host", answer.host), ("mode", answer.mode), ("settled", _yes(answer.settled))])
    for text in answer.alarms:
        click.secho(f"ALARM    {text}", fg="red", bold=True)
    for place, text in enumerate(answer.awaited):
        click.echo(f"{'awaited' if not place else '':<7}  {text}")
    for place, text in enumerate(answer.contested):
        click.echo(f"{'contested' if not place else '':<9}  {text}")
    _show_nodes(answer)
    _show_links(answer)
    _show_routers(answer)
    for title, items in (("REFUSED", answer.refused), ("IGNORED", answer.ignored), ("TURNED AWAY", answer.turned_away)):
        if items:
            click.echo()
            print_table((title, "TIMES"), [(item.text, item.count) for item in items])


def _show_nodes(answer: Status) -> None:
    headers = ("NODE", "SERVER", "SWITCH", "IN SYNC", "FLOWS", "PENDING", "HELD", "REFUSED", "SENT", "ROUTERS", "HOSTS")
    click.echo()
    print_table(
        headers,
        [
            (
                node.name,
                _yes(node.server),
                _yes(node.switch),
                _yes(node.in_sync),
                f"{node.flows_actual}/{node.flows_desired}",
                node.flows_pending,
                node.flows_held,
                node.flows_refused,
                node.flow_mods_sent,
                ", ".join(node.routers) or "-",
                ", ".join(node.hosts) or "-",
            )
            for node in answer.nodes
        ],
        empty="no node is known",
    )


def _show_links(answer: Status) -> None:
    click.echo()
    rows = [(" - ".join(link.ends), _link_words(link)) for link in answer.links]
    print_table(("LINK", "STATE"), rows, empty="no trunks")
    click.echo()
    networks = [
        (
            network.name,
            network.vid,
            network.macs,
            ", ".join(network.members) or "-",
            ", ".join(" - ".join(link) for link in network.tree) or "-",
        )
        for network in answer.networks
    ]
    print_table(("NETWORK", "VLAN", "MACS", "PORTS", "TREE"), networks, empty="no networks")


def _show_routers(answer: Status) -> None:
    click.echo()
    rows = [
        (
            router.name,
            router.node,
            _yes(router.in_sync),
            router.routes,
            router.neighbors,
            router.flows,
            router.shed,
        )
        for router in answer.routers
    ]
    print_table(("ROUTER", "NODE", "IN SYNC", "ROUTES", "NEIGHBORS", "FLOWS", "SHED"), rows, empty="no routers")


def _link_words(link: LinkStatus) -> str:
    words = "up" if link.up else link.why
    return f"{link.drain}, {words}" if link.drain and not words.startswith(link.drain) else words


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"

"""`xenflow trace`: why a packet is forwarded, or is not."""

from __future__ import annotations

import click
import msgspec

from xenflow.answers import Outcome, Status, Trace, Visit
from xenflow.cli.client import App, app_options, ask, names
from xenflow.cli.output import json_option, print_json

EXIT_NO = 1


def _senders(body: bytes) -> list[str]:
    status = msgspec.json.decode(body, type=Status)
    return sorted(name for node in status.nodes for name in (*node.routers, *node.hosts))


@click.command()
@click.option(
    "--from",
    "sender",
    required=True,
    metavar="WHO",
    shell_complete=names("status", _senders),
    help="A host, a router (its own packet), or NODE:PORT.",
)
@click.option("--to", required=True, metavar="ADDRESS", help="Where the packet goes to.")
@click.option("--src", metavar="ADDRESS", help="Where it comes from (default: the sender's own address).")
@click.option("--via", metavar="VR", help="The router that the sender uses, if its network has several.")
@click.option("--ttl", type=click.IntRange(0, 255), help="TTL or hop limit (default: 64).")
@click.option("--size", type=click.IntRange(20, 65535), help="Size of the IP packet in bytes (default: a ping's).")
@click.option("--proto", metavar="PROTOCOL", help="icmp (default), tcp, udp, igmp, rsvp, ospf, a number, or arp.")
@click.option("--src-mac", metavar="MAC", help="Ethernet source instead of the sender's own.")
@click.option("--dst-mac", metavar="MAC", help="Ethernet destination instead of the one that the sender would use.")
@click.option("--vid", type=click.IntRange(0, 4095), help="VLAN tag of the frame; needed on a trunk.")
@click.option("--flows/--no-flows", "with_flows", default=False, help="Show each flow, too, as ovs-ofctl prints it.")
@app_options
@json_option
def trace(
    app: App,
    sender: str,
    to: str,
    src: str | None,
    via: str | None,
    ttl: int | None,
    size: int | None,
    proto: str | None,
    src_mac: str | None,
    dst_mac: str | None,
    vid: int | None,
    with_flows: bool,
    as_json: bool,
) -> None:
    """Follow a packet over the installed flows of all nodes; exit code 1 if it arrives nowhere.

    No packet is sent. The way of a packet inside of a VM is not followed: for the slow path the trace ends there.
    """
    given = {
        "from": sender,
        "to": to,
        "src": src,
        "via": via,
        "ttl": ttl,
        "size": size,
        "proto": proto,
        "src_mac": src_mac,
        "dst_mac": dst_mac,
        "vid": vid,
    }
    answer = ask(app, "trace", Trace, **{name: str(value) for name, value in given.items() if value is not None})
    if as_json:
        print_json(answer)
    else:
        _show(answer, with_flows)
    if not answer.forwarded:
        raise click.exceptions.Exit(EXIT_NO)


def _show(answer: Trace, with_flows: bool) -> None:
    click.echo(answer.packet)
    for note in answer.notes:
        click.echo(f"  {note}")
    for visit in answer.visits:
        _show_visit(visit, with_flows)
        for outcome in answer.outcomes:
            if outcome.visit == visit.number:
                click.echo(f"{_indent(visit)}=> {outcome.words}")
    click.echo()
    for outcome in answer.outcomes:
        click.echo(_summary(outcome))


def _show_visit(visit: Visit, with_flows: bool) -> None:
    indent = _indent(visit)
    condition = f" ({visit.condition})" if visit.condition else ""
    click.echo()
    click.echo(f"{'  ' * visit.depth}{visit.node}, in by {visit.port}{condition}: {visit.packet}")
    for step in visit.steps:
        click.echo(f"{indent}{step.table:>2} {step.table_name:<11} {step.words}")
        if with_flows and step.flow:
            click.echo(f"{indent}{'':<14} {step.flow}")


def _indent(visit: Visit) -> str:
    return "  " * (visit.depth + 1)


def _summary(outcome: Outcome) -> str:
    condition = f" ({outcome.condition})" if outcome.condition else ""
    return f"{outcome.kind:<10} {outcome.where}: {outcome.words}{condition}"

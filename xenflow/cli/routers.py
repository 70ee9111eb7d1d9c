"""`xenflow routers` and `xenflow routes`: what routers told, and how it is forwarded."""

from __future__ import annotations

import click
import msgspec

from xenflow.answers import HopStatus, Lookup, Page, RouterStatus, RouteStatus
from xenflow.cli.client import App, app_options, ask, ask_pages, names
from xenflow.cli.output import json_option, print_fields, print_json, print_table
from xenflow.resources import RANGES

DEFAULT_LIMIT = 1000
LIMIT_HELP = "Show at most so many (0: all)."

complete_router = names("routers", lambda body: [item.name for item in _decode_routers(body)])


def _decode_routers(body: bytes) -> list[RouterStatus]:
    return msgspec.json.decode(body, type=list[RouterStatus])


@click.command()
@click.argument("router", required=False, shell_complete=complete_router)
@app_options
@json_option
def routers(app: App, router: str | None, as_json: bool) -> None:
    """Show virtual routers (or one ROUTER): where they run, their interfaces, what of them is installed.

    SLOW counts packets that the switch handed to the VM, WILDCARD those of them that had no flow of their own.
    """
    found = ask(app, "routers", list[RouterStatus], **({"router": router} if router else {}))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            item.name,
            item.node,
            "yes" if item.in_sync else "no",
            item.routes,
            item.neighbors,
            item.flows,
            _shed(item),
            _count(_slow(item)),
            _count(item.wildcard_packets),
        )
        for item in found
    ]
    headers = ("ROUTER", "NODE", "IN SYNC", "ROUTES", "NEIGHBORS", "FLOWS", "SHED", "SLOW", "WILDCARD")
    print_table(headers, rows, empty="no routers")
    if not found:
        return
    _show_resources(found)
    click.echo()
    interfaces: list[tuple[object, ...]] = [
        (
            item.name,
            each.name or f"#{each.number}",
            each.network,
            each.vid or "-",
            each.port or "-",
            each.mac,
            ", ".join(each.addresses) or "-",
            each.mtu or "-",
            "yes" if each.up else "no",
            _count(each.slow_packets),
        )
        for item in found
        for each in item.interfaces
    ]
    columns = ("ROUTER", "INTERFACE", "NETWORK", "VLAN", "PORT", "MAC", "ADDRESSES", "MTU", "UP", "SLOW")
    print_table(columns, interfaces)


def _show_resources(found: list[RouterStatus]) -> None:
    """Show processor and memory of VMs, if anything is said or known of them; what differs with what is wanted."""
    rows = [
        (item.name, *(_resource(item, key) for key in RANGES), "; ".join(item.resource_problems) or "-")
        for item in found
        if item.has is not None or any(getattr(item.defined, key) is not None for key in RANGES)
    ]
    if rows:
        click.echo()
        print_table(("ROUTER", "MEMORY MiB", "VCPUS", "CPU WEIGHT", "CPU CAP %", "PROBLEMS"), rows)


def _resource(router: RouterStatus, key: str) -> str:
    has, wanted = getattr(router.has, key, None), getattr(router.defined, key)
    if router.has is None:
        return f"? (of {wanted})" if wanted is not None else "-"
    differs = any(text.startswith(f"{key} = ") for text in router.resource_problems)
    return f"{_count(has)} (of {wanted})" if differs else _count(has)


def _shed(router: RouterStatus) -> str:
    if not router.shed_reported and not router.shed_here:
        return "0"
    parts = [f"{router.shed_reported} by client or server"] if router.shed_reported else []
    parts += [f"{router.shed_here} by max_flows = {router.max_flows}"] if router.shed_here else []
    return ", ".join(parts)


def _slow(router: RouterStatus) -> int | None:
    counted = [item.slow_packets for item in router.interfaces if item.slow_packets is not None]
    return sum(counted) if counted else None


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


@click.command()
@click.argument("router", metavar="VR", shell_complete=complete_router)
@click.option("--lookup", metavar="ADDRESS", help="Show only what happens to packets to this address.")
@click.option("--prefix", metavar="PREFIX", help="Show only routes within this prefix.")
@click.option("--limit", type=click.IntRange(min=0), default=DEFAULT_LIMIT, show_default=True, help=LIMIT_HELP)
@app_options
@json_option
def routes(app: App, router: str, lookup: str | None, prefix: str | None, limit: int, as_json: bool) -> None:
    """Show the routes of the virtual router VR, and how each is forwarded."""
    if lookup:
        _look_up(app, router, lookup, as_json)
        return
    within = {"prefix": prefix} if prefix else {}
    page = ask_pages(app, "routes", Page[RouteStatus], limit, router=router, **within)
    if as_json:
        print_json(page)
        return
    _show_routes(page.rows)
    if page.next:
        click.echo(f"{page.total - len(page.rows)} more of {page.total}: --limit, --prefix")


def _look_up(app: App, router: str, address: str, as_json: bool) -> None:
    found = ask(app, "lookup", Lookup, router=router, address=address)
    if as_json:
        print_json(found)
        return
    click.echo(found.words)
    if found.route is not None:
        click.echo()
        _show_routes([found.route])
        if found.route.flow:
            print_fields([("flow", found.route.flow)])


def _show_routes(rows: list[RouteStatus]) -> None:
    table = []
    for route in rows:
        first = route.hops[0] if route.hops else None
        table.append((route.prefix, *_hop(first), route.forwarding, route.state))
        table += [("", *_hop(hop), "", "") for hop in route.hops[1:]]
    print_table(("PREFIX", "VIA", "INTERFACE", "MAC", "VLAN", "OUT", "FORWARDING", "STATE"), table, empty="no routes")


def _hop(hop: HopStatus | None) -> tuple[str, str, str, str, str]:
    if hop is None:
        return ("-", "-", "-", "-", "-")
    via = hop.gateway or "connected"
    if hop.buckets:
        via += f" ({hop.buckets} buckets)"
    interface = f"{hop.interface} ({hop.network})" if hop.network else hop.interface
    return (via, interface or "-", hop.mac or "-", str(hop.vid or "-"), hop.out or "-")

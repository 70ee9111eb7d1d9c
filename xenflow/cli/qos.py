"""`xenflow qos`: what each queue has hired, may use and uses; and how the last decision about a link came about."""

from __future__ import annotations

import sys
import time

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from xenflow.answers import BrokenPromise, Shares
from xenflow.bandwidth import rate_text
from xenflow.cli.client import App, app_options, ask, names
from xenflow.cli.output import json_option, print_json
from xenflow.errors import ConfigError
from xenflow.qosanswers import Explanation, LinkQueues, QueueStatus

BAR_WIDTH = 20
WIDTH = 150
"""Columns where there is no terminal to say."""
_HEADERS = ("QUEUE", "OWNER", "CLASS", "HIRED", "GUARANTEE", "CEILING", "USED", "", "BACKLOG", "DROPS", "FITNESS")


def _links(body: bytes) -> list[str]:
    shares = msgspec.json.decode(body, type=Shares)
    return [f"{node}:{link.port}" for node, status in shares.nodes.items() for link in status.links]


complete_link = names("qos", _links)


@click.group(invoke_without_command=True)
@click.option("--link", default="", metavar="NODE:PORT", shell_complete=complete_link, help="Only this link.")
@click.option("--watch", is_flag=True, help="Redraw until Ctrl-C.")
@click.option("--every", default=1.0, show_default=True, type=click.FloatRange(0.1, 60), help="Seconds, with --watch.")
@app_options
@json_option
@click.pass_context
def qos(context: click.Context, app: App, link: str, watch: bool, every: float, as_json: bool) -> int:
    """Show each link's queues: hired, guaranteed, ceiling, used.

    The bar is the part of the link that is used: green within the guarantee, yellow beyond it. Exit code 1: a promise
    is broken or refused, or a node does not answer.
    """
    context.obj = app
    if context.invoked_subcommand is not None:
        return 0
    if watch and not as_json:
        _watch(app, link, every)
        return 0
    answer = _ask(app, link)
    if as_json:
        print_json(answer)
    else:
        _console().print(picture(answer))
    return 0 if _is_well(answer) else 1


@qos.command()
@click.argument("link", shell_complete=complete_link, metavar="NODE:PORT")
@json_option
@click.pass_obj
def explain(app: App, link: str, as_json: bool) -> None:
    """Say how the last decision about a link came about: measured, idle, backlogged, result."""
    answer = ask(app, "qos explain", Explanation, link=link)
    if as_json:
        print_json(answer)
        return
    for line in answer.lines:
        click.echo(line)


def _ask(app: App, link: str) -> Shares:
    return ask(app, "qos", Shares, **({"link": link} if link else {}))


def _is_well(answer: Shares) -> bool:
    kept = all(link.kept >= 1 and not link.why for status in answer.nodes.values() for link in status.links)
    return kept and not answer.refused and not answer.silent and not answer.broken


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)


def _watch(app: App, link: str, every: float) -> None:
    """Redraw until Ctrl-C; while a controller that answered once does not, what it said last stays, marked as old."""
    try:
        answer, answered_s = _ask(app, link), time.monotonic()
        with Live(picture(answer), console=_console(), auto_refresh=False) as live:
            while True:
                time.sleep(every)
                try:
                    answer, answered_s = _ask(app, link), time.monotonic()
                    shown = picture(answer)
                except ConfigError as error:
                    age = f"NO ANSWER for {time.monotonic() - answered_s:.0f} s: {'; '.join(error.problems)}"
                    shown = Group(picture(answer), Text(age, style="bold red"))
                live.update(shown, refresh=True)
    except KeyboardInterrupt:
        return


def picture(answer: Shares) -> RenderableType:
    """Return the links as tables, and what is wrong beneath them."""
    parts: list[RenderableType] = []
    for node, status in answer.nodes.items():
        for link in status.links:
            parts += [_title(node, link), _table(link), Text("")]
    parts += [Text(_broken(item), style="bold red") for item in answer.broken]
    parts += [Text(f"NOT GUARANTEED  {owner}: {reason}", style="bold red") for owner, reason in answer.refused.items()]
    parts += [Text(f"NO ANSWER  {node}: {reason}", style="bold red") for node, reason in answer.silent.items()]
    return Group(*parts) if parts else Text("no link has queues: nobody has hired bandwidth")


def _broken(item: BrokenPromise) -> str:
    hired, carried, control = map(rate_text, (item.hired, item.capacity, item.control))
    who = ", ".join(item.owners)
    return f"PROMISE BROKEN  link {item.link}: {hired} are hired, it carries {carried} ({control} for control): {who}"


def _title(node: str, link: LinkQueues) -> Text:
    used = f"{rate_text(link.used)} of {rate_text(link.capacity)} used"
    title = Text(f"{node}:{link.port}  {used}, {rate_text(link.hired)} hired, policy {link.policy}", style="bold")
    if link.why:
        title.append(f"  {link.state}: {link.why}", style="bold red")
    if link.kept < 1:
        title.append(f"  PROMISE BROKEN: {link.kept:.0%} of each guarantee is kept", style="bold red")
    return title


def _table(link: LinkQueues) -> Table:
    table = Table(*_HEADERS, box=None, pad_edge=False, header_style="dim")
    for queue in link.queues:
        table.add_row(*(Text(cell, no_wrap=True) for cell in _left(queue)), _bar(queue, link.capacity), *_right(queue))
    return table


def _left(queue: QueueStatus) -> list[str]:
    rates = (queue.hired, queue.guarantee, queue.ceiling, queue.used)
    return [str(queue.id), queue.owner, queue.name or "-", *(rate_text(rate) for rate in rates)]


def _right(queue: QueueStatus) -> list[str]:
    fitness = "-" if queue.control else f"{queue.fitness:.3f}"
    return [f"{queue.backlog_bytes} B", str(queue.drops), fitness]


def _bar(queue: QueueStatus, capacity: int) -> ProgressBar:
    style = "green" if queue.used <= queue.guarantee * 1.02 else "yellow"
    return ProgressBar(capacity, min(queue.used, capacity), BAR_WIDTH, complete_style=style, finished_style=style)

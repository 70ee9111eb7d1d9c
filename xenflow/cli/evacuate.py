"""`xenflow evacuate`: all routers leave a node, a few at a time.

A router that a node cannot take is offered to the next one; one that nobody can take stays, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import click

from xenflow.answers import MigrationStatus, RouterStatus, Status
from xenflow.cli.client import App, app_options, ask
from xenflow.cli.following import DONE, POLL_S, again, interrupts, take_back, times
from xenflow.cli.migrate import complete_node
from xenflow.cli.output import json_option, print_json
from xenflow.errors import ConfigError

REFUSED = "refused"
"""The state of a migration that could not be begun."""


@click.command()
@click.argument("node", shell_complete=complete_node)
@click.option("--to", "target", metavar="NODE", shell_complete=complete_node, help="Where they shall run.")
@click.option("--at-once", default=2, show_default=True, help="How many routers move at the same time.")
@app_options
@json_option
def evacuate(app: App, node: str, target: str | None, at_once: int, as_json: bool) -> int:
    """Move all routers away from NODE, to another one or to the others in turn.

    Ctrl-C begins no more of them, and takes back those on their way as long as that is possible. Exit code 1: one of
    them has stayed.
    """
    targets = _targets(ask(app, "status", Status), node, target)
    waiting = [item.name for item in ask(app, "routers", list[RouterStatus]) if item.node == node]
    leaving = _Leaving(app, node, targets, say=not as_json)
    with interrupts() as pressed:
        while waiting or leaving.moving:
            while waiting and len(leaving.moving) < max(1, at_once):
                leaving.begin(waiting.pop(0))
            if leaving.moving:
                time.sleep(POLL_S)
            leaving.look()
            if pressed.take():
                leaving.stay(waiting)
                waiting.clear()
    if as_json:
        print_json(leaving.ended)
    elif not leaving.ended:
        click.echo(f"no router runs on {node}")
    return 0 if all(item.state == DONE for item in leaving.ended) else 1


def _targets(status: Status, node: str, target: str | None) -> list[str]:
    """Return the nodes that routers may go to. Raises ConfigError."""
    known = {item.name: item.in_sync for item in status.nodes}
    for name in (node, target or node):
        if name not in known:
            raise ConfigError([f"no node {name!r} is known; known: {', '.join(sorted(known))}"])
    if target == node:
        raise ConfigError([f"routers cannot leave {node} for {node}"])
    others = [target] if target else [name for name, in_sync in known.items() if name != node and in_sync]
    if not others:
        raise ConfigError([f"no other node is in sync that the routers of {node} could go to"])
    return others


class _Leaving:
    """Who is on the way, and how it has ended for the others; with `say` it is told as it happens."""

    def __init__(self, app: App, node: str, targets: list[str], *, say: bool) -> None:
        self.moving: list[MigrationStatus] = []
        self.ended: list[MigrationStatus] = []
        self._app = app
        self._node = node
        self._targets = targets
        self._turn = 0
        self._say = say

    def begin(self, router: str) -> None:
        """Order a router to the next node that takes it; if none does, it stays, and all their reasons are told."""
        reasons: list[str] = []
        for _ in self._targets:
            target = self._targets[self._turn % len(self._targets)]
            self._turn += 1
            try:
                status = ask(self._app, "migrate", MigrationStatus, router=router, to=target)
            except ConfigError as error:
                reasons += [reason for reason in error.problems if reason not in reasons]
                continue
            self._tell(f"{router}: {self._node} -> {target}")
            self.moving.append(status)
            return
        self._refuse(router, "; ".join(reasons))

    def look(self) -> None:
        """See how those on the way are doing."""
        now = [again(self._app, item) for item in self.moving]
        self.moving = [item for item in now if not item.ended]
        for item in now:
            if item.ended:
                self.ended.append(item)
                stayed = f"has stayed on {self._node}: {item.error}"
                self._tell(f"{item.router}: {times(item) if item.state == DONE else stayed}")

    def stay(self, waiting: Iterable[str]) -> None:
        """Somebody wants no more of it."""
        for item in self.moving:
            take_back(self._app, item.router)
        for router in waiting:
            self._refuse(router, "interrupted before its turn")

    def _refuse(self, router: str, reason: str) -> None:
        target = self._targets[0] if len(self._targets) == 1 else ""
        self.ended.append(MigrationStatus(0, router, self._node, target, True, REFUSED, True, "", 0, reason, 0.0, []))
        self._tell(f"{router}: stays on {self._node}: {reason}")

    def _tell(self, text: str) -> None:
        if self._say:
            click.echo(text)

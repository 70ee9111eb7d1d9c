"""`xenflow lab up | down | exec | status | move | list`: the lab for people; errors are messages and exit code 2."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import msgspec
from rich.console import Console
from rich.status import Status

from xenflow.cli import output
from xenflow.errors import ConfigError
from xenflow_lab import teardown
from xenflow_lab.attach import attach
from xenflow_lab.command import environment
from xenflow_lab.lab import Lab, Overrides, Say, only_lab
from xenflow_lab.paths import lab_names
from xenflow_lab.status import LabState, observe
from xenflow_lab.topology import Controller
from xenflow_lab.xen.lab import XenLab

EXIT_NO: int = 1


@click.group()
def lab() -> None:
    """Networks of nodes, virtual routers and hosts on this machine, each lab under its own name."""


@lab.command()
@click.argument("topology", type=click.Path(path_type=Path, readable=False))
@click.option("--name", default="", help="Name of the lab (default: the file's).")
@click.option("--without-xenflow", is_flag=True, help="Only nodes, cables, guests: no controller, server or client.")
@click.option("--controller", type=click.Choice([item.value for item in Controller]), help="Instead of the file's.")
@click.option("--mode", type=click.Choice(["proactive", "reactive"]), help="Instead of the file's.")
@click.option("--vms", is_flag=True, help="Routers as virtual machines of QEMU and libvirt; the image is built once.")
@click.option("--xen", is_flag=True, help="Nodes as emulated Xen hosts, routers as their guests; made once, saved.")
@click.option("--wait", is_flag=True, help="Return only when the app has all that it knows installed.")
def up(
    topology: Path,
    name: str,
    without_xenflow: bool,
    controller: str | None,
    mode: str | None,
    vms: bool,
    xen: bool,
    wait: bool,
) -> None:
    """Build the lab that TOPOLOGY (TOML, see docs/lab.md) describes."""
    signal.signal(signal.SIGTERM, _terminated)
    if vms and xen:
        raise ConfigError(["--vms and --xen: one of them; with --xen routers are virtual machines already, of Xen"])
    overrides = Overrides(Controller(controller) if controller else None, mode or "")
    kind: type[Lab] = XenLab if xen else Lab
    with _progress() as say:
        began = time.monotonic()
        built = kind(topology, name, overrides=overrides, with_xenflow=not without_xenflow, vms=vms, say=say)
        built.up()
        if wait:
            say("flows")
            built.wait_settled()
    count = len(built.plan.machines)
    click.echo(f"lab {built.name} is up: {count} machines in {time.monotonic() - began:.1f} s")


@lab.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Every lab on this machine.")
def down(name: str | None, everything: bool) -> None:
    """Remove a lab and all that belongs to it (default: the only one)."""
    _need_root()
    names = lab_names() if everything else [name or only_lab()]
    for one in names:
        if not teardown.down(one, click.echo):
            known = ", ".join(lab_names()) or "none"
            raise ConfigError([f"no lab {one!r} is up (up: {known})"])
        click.echo(f"lab {one} is down")


@lab.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--name", default="", help="Name of the lab (default: the only one).")
@click.argument("who")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, who: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on the machine WHO, with its own network, /run and host name; its exit code is this one's."""
    _need_root()
    words = command[1:] if command[0] == "--" else command
    argv = attach(name or only_lab()).enter_argv(who, words, os.getcwd())
    sys.stdout.flush()
    os.execvpe(argv[0], argv, environment())


@lab.command()
@click.argument("name", required=False)
@output.json_option
def status(name: str | None, as_json: bool) -> None:
    """Show machines and processes of a lab; exit code 1 if something is missing."""
    _need_root()
    state = observe(attach(name or only_lab()))
    if as_json:
        output.print_json({**msgspec.to_builtins(state), "healthy": state.healthy})
    else:
        _show(state)
    if not state.healthy:
        raise click.exceptions.Exit(EXIT_NO)


@lab.command()
@click.argument("machine")
@click.argument("target", required=False)
@click.option("--to", default="", help="The node to move to (or as the second argument).")
@click.option("--freeze", default=0.2, show_default=True, help="How long the machine stands still, in seconds.")
@click.option("--name", default="", help="Name of the lab (default: the only one).")
def move(machine: str, target: str | None, to: str, freeze: float, name: str) -> None:
    """Move MACHINE to another node while it runs, as with the hypervisor's own command: XenFlow is not asked.

    Prints how much is done, in percent. SIGTERM or Ctrl-C before the machine runs on the target moves it back.
    """
    _need_root()
    if bool(target) == bool(to) or not (to := to or target or ""):
        raise ConfigError(["say the node to move to, once: xenflow lab move MACHINE --to NODE"])
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # also for the tools that do a move's steps
    attach(name or only_lab()).move(
        machine, to, freeze, _print_percent, lambda wait_s: signal.sigtimedwait(signals, wait_s) is not None
    )


def _print_percent(percent: int) -> None:
    """Print progress; whoever has stopped reading it does not stop the move."""
    try:
        print(f"{percent}%", flush=True)
    except BrokenPipeError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


@lab.command(name="list")
@output.json_option
def list_labs(as_json: bool) -> None:
    """Show the names of the labs that are up."""
    names = lab_names()
    if as_json:
        output.print_json(names)
    else:
        click.echo("\n".join(names) or "no lab is up")


def _terminated(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # takes down what is half built


def _need_root() -> None:
    if os.geteuid() != 0:
        raise ConfigError(["a lab needs root (namespaces and interfaces): run it with sudo"])


@contextmanager
def _progress() -> Iterator[Say]:
    """Show one changing line on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: click.echo(line, err=True)
        return
    with Status("", console=console) as shown:

        def say(line: str) -> None:
            if ":" in line:
                console.print(line, highlight=False)
            else:
                shown.update(line)

        yield say


def _show(state: LabState) -> None:
    rows: list[tuple[object, ...]] = []
    for machine in state.machines:
        head = (machine.name, machine.kind, machine.node)
        if not machine.processes:
            rows.append((*head, "", "", _yes(machine.alive)))
        for process in machine.processes:
            rows.append((*head, process.role, process.pid or "", _yes(process.alive)))
            head = ("", "", "")
    output.print_table(("MACHINE", "KIND", "NODE", "PROCESS", "PID", "ALIVE"), rows)
    complete = "complete" if state.ready else "not complete"
    click.echo(f"lab {state.name}: {complete}; app socket {state.app_socket}")
    for line in state.awaited:
        click.echo(f"  waiting: {line}")


def _yes(alive: bool) -> str:
    return "yes" if alive else "NO"

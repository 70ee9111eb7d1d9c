"""The `xenflow` command and its one door for errors.

A command is a line in `BUILT_IN`, or an entry point of the group ``xenflow.commands`` in another package; it is
imported when it is used. What goes wrong is one message on standard error and exit code 2, never a traceback: a
command raises `ConfigError` (or another of `xenflow.errors`) and does not print it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import click

from xenflow import __version__
from xenflow.errors import ConfigError, XenflowError

BUILT_IN: Final[dict[str, str]] = {
    "drain": "xenflow.cli.drain:drain",
    "evacuate": "xenflow.cli.evacuate:evacuate",
    "flows": "xenflow.cli.flows:flows",
    "import": "xenflow.cli.init:import_",
    "init": "xenflow.cli.init:init",
    "migrate": "xenflow.cli.migrate:migrate",
    "migrations": "xenflow.cli.migrate:migrations",
    "pki": "xenflow.cli.pki:pki",
    "qos": "xenflow.cli.qos:qos",
    "routers": "xenflow.cli.routers:routers",
    "routes": "xenflow.cli.routers:routes",
    "status": "xenflow.cli.status:status",
    "trace": "xenflow.cli.trace:trace",
    "undrain": "xenflow.cli.drain:undrain",
    "verify": "xenflow.cli.verify:verify",
}
"""Command -> where it is defined, as MODULE:NAME."""

EXIT_TROUBLE: Final = 2
EXIT_INTERRUPTED: Final = 130
ENTRY_POINTS: Final = "xenflow.commands"


class LazyGroup(click.Group):
    """A group whose commands are known by name and imported one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *BUILT_IN, *_installed()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or None. Raises ConfigError if it cannot be imported here."""
        if command := super().get_command(ctx, cmd_name):
            return command
        try:
            if cmd_name in BUILT_IN:
                module, _, name = BUILT_IN[cmd_name].partition(":")
                found = getattr(importlib.import_module(module), name)
            elif entry := _installed().get(cmd_name):
                found = entry.load()
            else:
                return None
        except ImportError as error:
            return _Unavailable(cmd_name, error)
        if not isinstance(found, click.Command):
            raise TypeError(f"{cmd_name}: {found!r} is no click command")
        return found


class _Unavailable(click.Command):
    """Stands in for a command that needs a package that is not installed."""

    def __init__(self, name: str, error: ImportError) -> None:
        super().__init__(name, help=f"(not available: {error})", context_settings={"ignore_unknown_options": True})
        self._problem = f"xenflow {name}: cannot be loaded: {error}; install what it needs: pip install 'xenflow[lab]'"
        self.params.append(click.Argument(["rest"], nargs=-1))

    def invoke(self, ctx: click.Context) -> object:
        raise ConfigError([self._problem])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="xenflow")
def xenflow() -> None:
    """Virtual routers whose routing daemons run in VMs while Open vSwitch forwards.

    Every command takes --json. Exit codes: 0 done, 1 the answer is no, 2 it could not be done.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and return the exit code."""
    try:
        result = xenflow.main(args=arguments, prog_name="xenflow", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return EXIT_TROUBLE
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"xenflow: {problem}", err=True)
        return EXIT_TROUBLE
    except XenflowError as error:
        click.echo(f"xenflow: {error}", err=True)
        return EXIT_TROUBLE


def main() -> None:
    """Run `xenflow` as a program."""
    sys.exit(run())


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


if __name__ == "__main__":
    main()
